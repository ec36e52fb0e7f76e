"""`/v1/features/contrast`: features that separate two sets of texts."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_model
from server.api.openapi import errors
from server.errors import bad_request
from server.executors import READING, run_in
from server.features.read_samples import BATCH, MAX_TOKENS, encode_samples, record_samples
from server.schemas import features
from server.schemas.analysis import ContrastRequest
from server.serving.served_model import ServedModel
from steering.catalogue.bundle import Bundle
from steering.interpret.contrast import Contrast, FiringCounts, Separating, contrast, count_firings
from steering.model.passage import Passage

router = APIRouter(prefix="/v1", tags=["Text"])


@router.post("/features/contrast", responses=errors(400, 404, 413))
async def contrast_texts(
    request: Request, body: Annotated[ContrastRequest, Depends(JsonBody(ContrastRequest))]
) -> features.Contrast:
    """Features that separate A from B, with document shares, log-odds, effect size, p and q."""
    served = current_model(request)
    await served.choose(body.model, None)
    bundle = served.bundle
    bundle.sae.check_reads()
    read = [await encode_samples(served, samples, name) for name, samples in (("a", body.a), ("b", body.b))]
    if sum(len(p.ids) for side in read for p in side) > MAX_TOKENS:
        raise bad_request(f"more than {MAX_TOKENS} tokens in all; give fewer or shorter texts", param="a")
    async with current_account(request).charge_reading(sum(len(p.ids) for side in read for p in side)):
        sides = [await _record_firings(served, side) for side in read]
    found = await run_in(READING, contrast, *sides, by=body.by)
    return _answer(found, bundle, body.top_k)


async def _record_firings(served: ServedModel, side: Sequence[Passage]) -> FiringCounts:
    """Activations of each document; only a few residual streams are in memory at a time."""
    parts = []
    for start in range(0, len(side), BATCH):
        some = await record_samples(served, side[start : start + BATCH])
        parts.append(await run_in(READING, count_firings, served.bundle.sae, some))
    return FiringCounts.concatenate(parts)


def _answer(found: Contrast, bundle: Bundle, top: int) -> features.Contrast:
    sides = [features.Sides(a=a, b=b) for a, b in (found.documents, found.tokens)]
    return features.Contrast(
        object="contrast",
        model=bundle.info.name,
        revision=bundle.info.revision,
        by=found.by,
        documents=sides[0],
        tokens=sides[1],
        tested=len(found.features),
        discoveries=found.discoveries,
        a_over_b=[_separating(f, bundle) for f in found.top(1, top)],
        b_over_a=[_separating(f, bundle) for f in found.top(-1, top)],
    )


def _separating(f: Separating, bundle: Bundle) -> features.Separating:
    feature = bundle.features[f.row]
    numbers = {k: round(getattr(f, k), 4) for k in ("a", "b", "mean_a", "mean_b", "log_odds", "effect")}
    exact = {k: float(f"{getattr(f, k):.3g}") for k in ("p", "q")}
    return features.Separating(id=feature.id, label=feature.label, **numbers, **exact, discovery=f.discovery)
