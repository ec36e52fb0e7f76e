"""`/v1/analyze` and tokens: which features a text evokes. Knows the wire; the engine reads, `understand.analyse` looks."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import account_of
from server.api.openapi import wire
from server.features.analysis_json import told_apart, told_of
from server.features.read_text import read
from server.schemas.analysis import AnalyzeRequest
from server.schemas.body import parse
from server.serving.served_model import Tiller
from steering.interpret.analysis import Analysis, analyse

router = APIRouter(prefix="/v1")


@router.post("/analyze", openapi_extra=wire(schemas.analysis.Analysis, 404, 429, takes=AnalyzeRequest))
async def analyze_text(request: Request) -> dict[str, Any]:
    """Token by token, by speaker, along the text; with `other`, what tells the two apart."""
    body = parse(AnalyzeRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)  # the model has to be there
    bundle = tiller.bundle
    bundle.sae.check_reads()
    rows = None if body.features is None else [tiller.catalogue.find(f)[1].row for f in body.features]
    account = account_of(request)
    passage, stream, cut = await read(tiller, body, account)

    def look() -> Analysis:
        return analyse(
            bundle, passage, stream, top=body.top_k, features=body.limit, only=rows, threshold=body.threshold
        )

    found = await asyncio.to_thread(look)
    told = told_of(bundle, found) | {"model": tiller.model, "revision": bundle.info.revision, "truncated": cut}
    if body.other:
        there, other, _ = await read(tiller, body.other, account)
        told["compared"] = await asyncio.to_thread(
            told_apart, bundle, (passage, stream), (there, other), features=body.limit
        )
    return told
