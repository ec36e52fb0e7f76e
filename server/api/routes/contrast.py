"""`/v1/features/contrast`: which features tell two sets of texts apart. Knows the wire; `understand.contrast` tests."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import account_of
from server.api.openapi import wire
from server.errors import bad_request
from server.features.read_samples import AT_ONCE, TOGETHER, passages, streams
from server.schemas.analysis import ContrastRequest
from server.schemas.body import parse
from server.serving.served_model import Tiller
from steering.interpret.contrast import Fired, contrast, fired, told
from steering.model.passage import Passage

router = APIRouter(prefix="/v1")


@router.post("/features/contrast", openapi_extra=wire(schemas.features.Contrast, 404, 429, takes=ContrastRequest))
async def contrast_texts(request: Request) -> dict[str, Any]:
    """The features that separate A from B, with shares of documents, log-odds, effect size, p and q."""
    body = parse(ContrastRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)
    bundle = tiller.bundle
    bundle.sae.check_reads()
    read = [await passages(tiller, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in read for p in side) > TOGETHER:
        raise bad_request(f"more than {TOGETHER} tokens in all; give fewer or shorter texts", param="a")
    async with account_of(request).reading(sum(len(p.ids) for side in read for p in side)):
        sides = [await _fired(tiller, side) for side in read]
    found = await asyncio.to_thread(contrast, *sides, by=body.by)
    return {
        "object": "contrast",
        "model": tiller.model,
        "revision": bundle.info.revision,
        **told(found, bundle, body.top_k),
    }


async def _fired(tiller: Tiller, side: Sequence[Passage]) -> Fired:
    """What fires in each document; of the streams only a few are held at a time."""
    parts = []
    for start in range(0, len(side), AT_ONCE):
        some = await streams(tiller, side[start : start + AT_ONCE])
        parts.append(await asyncio.to_thread(fired, tiller.bundle.sae, some))
    return Fired.joined(parts)
