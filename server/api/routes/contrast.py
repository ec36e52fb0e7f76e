"""`/v1/features/contrast`: features that separate two sets of texts."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_account, current_model
from server.api.openapi import wire
from server.errors import bad_request
from server.features.read_samples import BATCH, MAX_TOKENS, encode_samples, record_samples
from server.schemas.analysis import ContrastRequest
from server.schemas.body import parse_body
from server.serving.served_model import ServedModel
from steering.interpret.contrast import FiringCounts, contrast, contrast_to_dict, count_firings
from steering.model.passage import Passage

router = APIRouter(prefix="/v1")


@router.post("/features/contrast", openapi_extra=wire(schemas.features.Contrast, 404, 429, takes=ContrastRequest))
async def contrast_texts(request: Request) -> dict[str, Any]:
    """Features that separate A from B, with document shares, log-odds, effect size, p and q."""
    body = parse_body(ContrastRequest, await request.body())
    served = current_model(request)
    await served.choose(body.model, None)
    bundle = served.bundle
    bundle.sae.check_reads()
    read = [await encode_samples(served, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in read for p in side) > MAX_TOKENS:
        raise bad_request(f"more than {MAX_TOKENS} tokens in all; give fewer or shorter texts", param="a")
    async with current_account(request).charge_reading(sum(len(p.ids) for side in read for p in side)):
        sides = [await _record_firings(served, side) for side in read]
    found = await asyncio.to_thread(contrast, *sides, by=body.by)
    return {
        "object": "contrast",
        "model": served.model,
        "revision": bundle.info.revision,
        **contrast_to_dict(found, bundle, body.top_k),
    }


async def _record_firings(served: ServedModel, side: Sequence[Passage]) -> FiringCounts:
    """Activations of each document; only a few residual streams are in memory at a time."""
    parts = []
    for start in range(0, len(side), BATCH):
        some = await record_samples(served, side[start : start + BATCH])
        parts.append(await asyncio.to_thread(count_firings, served.bundle.sae, some))
    return FiringCounts.concatenate(parts)
