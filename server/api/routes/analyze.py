"""`/v1/analyze`: feature activations of a text, and its tokens."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.openapi import errors
from server.features.analysis_json import analysis_answer, compared_features
from server.features.read_text import read_text
from server.schemas import analysis
from server.schemas.analysis import AnalyzeRequest
from steering.interpret.analysis import Analysis, analyse

router = APIRouter(prefix="/v1", tags=["Text"])


@router.post("/analyze", responses=errors(400, 404, 413), response_model_exclude_unset=True)
async def analyze_text(
    request: Request, body: Annotated[AnalyzeRequest, Depends(JsonBody(AnalyzeRequest))]
) -> analysis.Analysis:
    """Feature activations by token, by speaker and over the text; with `other`, the differences
    between the two texts."""
    served = current_model(request)
    await served.choose(body.model, None)  # fails while the model is loading
    bundle = served.bundle
    bundle.sae.check_reads()
    rows = None if body.features is None else [served.catalogue.find(f)[1].row for f in body.features]
    account = current_account(request)
    passage, stream, cut = await read_text(served, body, account)

    def run() -> Analysis:
        return analyse(
            bundle, passage, stream, top=body.top_k, features=body.limit, only=rows, threshold=body.threshold
        )

    found = await asyncio.to_thread(run)
    answer = analysis_answer(bundle, found, truncated=cut)
    if body.other:
        there, other, _ = await read_text(served, body.other, account)
        answer.compared = await asyncio.to_thread(
            compared_features, bundle, (passage, stream), (there, other), features=body.limit
        )
    return answer
