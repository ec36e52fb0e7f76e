"""`/v1/analyze`: feature activations of a text, and its tokens."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_account, current_model
from server.api.openapi import wire
from server.features.analysis_json import analysis_to_dict, comparison_to_dict
from server.features.read_text import read_text
from server.schemas.analysis import AnalyzeRequest
from server.schemas.body import parse_body
from steering.interpret.analysis import Analysis, analyse

router = APIRouter(prefix="/v1")


@router.post("/analyze", openapi_extra=wire(schemas.analysis.Analysis, 404, 429, takes=AnalyzeRequest))
async def analyze_text(request: Request) -> dict[str, Any]:
    """Feature activations by token, by speaker and over the text; with `other`, the differences
    between the two texts."""
    body = parse_body(AnalyzeRequest, await request.body())
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
    told = analysis_to_dict(bundle, found) | {"model": served.model, "revision": bundle.info.revision, "truncated": cut}
    if body.other:
        there, other, _ = await read_text(served, body.other, account)
        told["compared"] = await asyncio.to_thread(
            comparison_to_dict, bundle, (passage, stream), (there, other), features=body.limit
        )
    return told
