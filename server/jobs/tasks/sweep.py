"""Job type `sweep`: runs one feature at several strengths on the given prompts."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerFast

from server.jobs.worker import JobContext
from server.sae.model_loading import load_model
from server.sae.served_revision import open_revisions, open_served_revision
from server.safety.policy import check_policy
from server.settings import Settings
from server.store.factory import open_store
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.catalogue.resolve import Catalogue, Resolved
from steering.doses.measure import pushes_along
from steering.doses.sampling import Sampling
from steering.doses.sweep import SweepResult, sweep
from steering.errors import BadStrength
from steering.evaluate.coherence import coherence, figures, judge, mean_figures
from steering.model.chat_template import encode_chat
from steering.spec import Intervention, Mode, RoleScope, SteeringSpec, Unit, Where

STRENGTHS, PROMPTS, TOKENS = 16, 64, 200
"""Maximum numbers."""


class SweepConfig(BaseModel):
    """What to sweep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: str = Field(min_length=1, max_length=256)
    strengths: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(min_length=1, max_length=STRENGTHS)
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=4000)], ...] = Field(min_length=1, max_length=PROMPTS)
    unit: Unit = "dose"
    mode: Mode = "add"
    scope: RoleScope | None = None
    """Tokens that are steered; the bundle's own scope if it is not given."""
    max_tokens: int = Field(default=48, ge=1, le=TOKENS)
    temperature: float = Field(default=0, ge=0, le=2)
    """0 is greedy."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """The same seed for all strengths."""


def resolve_sweep(bundle: Bundle, order: SweepConfig, settings: Settings) -> list[Resolved]:
    """The steering of each strength. Raises UnknownFeature, and BadStrength for one that the policy does not allow."""
    catalogue, found = Catalogue([bundle]), []
    catalogue.find(order.feature)
    for i, strength in enumerate(order.strengths):
        item = Intervention(id=order.feature, strength=strength, mode=order.mode)
        where = _where(order, bundle)
        spec = SteeringSpec(features=(item,), unit=order.unit, scope=where.scope, skip_special=where.skip_special)
        try:
            found.append(catalogue.resolve(spec))
            check_policy(found[-1], settings)
        except BadStrength as error:
            raise BadStrength(f"strength {strength:g}: {error}", param=f"strengths.{i}") from error
    return found


def _where(order: SweepConfig, bundle: Bundle) -> Where:
    return bundle.info.where._replace(scope=order.scope or bundle.info.scope)


def run(work: JobContext) -> dict[str, Any]:
    """Run a `sweep` job; writes nothing but its result."""
    return asyncio.run(_sweep(work, SweepConfig.model_validate(dict(work.config))))


async def _sweep(work: JobContext, order: SweepConfig) -> dict[str, Any]:
    revisions, store = open_revisions(work.settings), open_store(work.settings, patient=True)
    try:
        bundle = await open_served_revision(revisions, store)
    finally:
        await store.close()
    replies = len(order.prompts) * len(order.strengths)

    def on_progress(share: float) -> None:
        work.report_progress(share, {"replies": round(share * replies)})

    return await asyncio.to_thread(_run_prompts, bundle, order, work.settings, on_progress)


def _run_prompts(
    bundle: Bundle, order: SweepConfig, settings: Settings, on_progress: Callable[[float], None]
) -> dict[str, Any]:
    pushes = resolve_sweep(bundle, order, settings)
    model, tokenizer = load_model(settings.model or bundle.model_path, "cpu")
    chats = [encode_chat(tokenizer, [{"role": "user", "content": p}]) for p in order.prompts]
    nothing = pushes_along(torch.zeros(bundle.sae.d_in))(0.0)
    edits = [r.edits.get(bundle.info.hook, nothing) for r in pushes]
    _, feature = Catalogue([bundle]).find(order.feature)
    words = _words(feature, tokenizer)
    draw = Sampling(order.temperature, order.seed)
    plain, swept = sweep(
        model,
        bundle.info.hook,
        chats,
        edits,
        words,
        tokens=order.max_tokens,
        draw=draw,
        where=_where(order, bundle),
        on_progress=on_progress,
    )
    points = [
        {"strength": s, "raw": round(r.applied[0].raw, 4) if r.applied else 0.0, **_point(w, tokenizer)}
        for s, r, w in zip(order.strengths, pushes, swept, strict=True)
    ]
    return {
        "feature": {"id": feature.id, "label": feature.label},
        "revision": bundle.info.revision,
        "words": list(_effect_words(feature)),
        "unsteered": _point(plain, tokenizer),
        "points": points,
    }


def _point(swept: SweepResult, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Replies of one strength with their scores, and the mean scores."""
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in swept.replies]
    judged = [judge(text, logprobs) for text, logprobs in zip(texts, swept.logprobs, strict=True)]
    overall = coherence(mean_figures([figures(t, p) for t, p in zip(texts, swept.logprobs, strict=True)]))
    return {
        **overall.model_dump(),
        "kl": round(swept.kl, 4),
        "effect": None if swept.effect is None else round(swept.effect, 4),
        "replies": [{"text": text, **j.model_dump()} for text, j in zip(texts, judged, strict=True)],
    }


def _words(feature: Feature, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Token ids of a feature's words; empty without words."""
    words, special = set(_effect_words(feature)), set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special] if words else []
    return torch.tensor([i for i in ids if str(tokenizer.decode([i])).strip() in words], dtype=torch.long)


def _effect_words(feature: Feature) -> Sequence[str]:
    """Words for measuring its effect: those of its calibration, else of its description."""
    return (feature.calibration.words if feature.calibration else ()) or feature.words


JOB = (SweepConfig, run)
"""Schema and function of the job type `sweep`."""
