"""Doses of a bundle: measure features and presets, and convert a preset's strengths to new doses.

Pushes are evaluated by rollouts. The functions return catalogue features and presets with their measurements; the
caller stores them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.calibration import dose_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, dose_of, knots_of, number_of
from steering.catalogue.resolve import Catalogue, raw_strength
from steering.doses.measure import (
    MeasuredDose,
    Null,
    Reader,
    Subject,
    calibrate,
    decide,
    pushes_along,
    pushes_scaled,
    reads_direction,
)
from steering.doses.rollouts import QUESTIONS, Rollouts
from steering.doses.sampling import NATURAL
from steering.edits import ResidualEdit
from steering.model.chat_template import encode_chat
from steering.sae import SAE
from steering.spec import Preset, Where

LONGEST = 2.0
"""Largest push that is tried, in typical norms."""
MOST_SCALE = 2.5
AT_ONCE = 8
TOKENS = 60
"""Tokens of a reply: about as long as those that readers labelled."""
NEIGHBOURS, NEAR = 8, 0.3
"""Most neighbours whose activation counts with a feature's own, weighted by the cosine, and the least cosine."""
SHOWN = 0.5
"""Share of a feature's typical maximum at which a reply shows it."""
OnProgress = Callable[[int, int], None]
"""Progress callback: number done, and total."""
OnFeature = Callable[[Feature], None]


@dataclass(frozen=True, eq=False)
class DoseBench:
    """What doses are measured with: everyday questions in two halves that take turns, and replies to random pushes."""

    stages: tuple[Rollouts, ...]
    null: Null | None
    tokenizer: PreTrainedTokenizerFast
    typical_norm: float

    @staticmethod
    def prepare(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        hook: str,
        typical_norm: float,
        questions: Sequence[str] = QUESTIONS,
        *,
        where: Where,
        null: bool = True,
    ) -> "DoseBench":
        """Generate the unsteered replies and, with `null`, those under random pushes. Raises BadChat."""
        halves = [questions[i::2] for i in (0, 1)] if len(questions) > 1 else [questions]
        stages = tuple(prepare_rollouts(model, tokenizer, hook, half, where=where) for half in halves)
        random = Null.measure(stages, _decoder(tokenizer), typical_norm) if null else None
        return DoseBench(stages, random, tokenizer, typical_norm)

    def measure(
        self,
        subjects: Sequence[Subject],
        stamp: tuple[str, str],
        on_progress: Callable[[int, MeasuredDose], None] = lambda *_: None,
    ) -> list[MeasuredDose]:
        """Return the doses of subjects; `stamp` is the date and the SAE's revision."""
        return calibrate(
            self.stages,
            subjects,
            self.null,
            _decoder(self.tokenizer),
            self.typical_norm,
            at_once=AT_ONCE,
            stamp=stamp,
            on_progress=on_progress,
        )


def prepare_rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    hook: str,
    questions: Sequence[str] = QUESTIONS,
    *,
    where: Where,
) -> Rollouts:
    """Return rollouts with these questions, sampled as people chat. Raises BadChat without a chat template."""
    chats = [encode_chat(tokenizer, [{"role": "user", "content": q}]) for q in questions]
    return Rollouts.prepare(model, hook, chats, tokens=TOKENS, draw=NATURAL, where=where)


def with_doses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    features: Sequence[Feature],
    *,
    date: str,
    questions: Sequence[str] = QUESTIONS,
    on_feature: OnFeature = lambda _: None,
    on_progress: OnProgress = lambda *_: None,
) -> list[Feature]:
    """Return the features with dose, sweet spot and calibration. Raises BadChat.

    Pushes against a feature's direction are not measured: a dose below 0 is as long as the same dose above.
    `on_feature` gets each feature as soon as it is measured, before it is decided whether its effect `works`: that
    takes all p-values (`with_decisions`).
    """
    info = bundle.info
    alive = [f for f in features if f.typical_max > 0]
    bench = DoseBench.prepare(model, tokenizer, info.hook, info.typical_norm, questions, where=info.where)
    device = model.device
    subjects = [
        Subject(
            pushes_along(bundle.sae.W_dec[f.row].to(device)),
            reads_feature(bundle.sae, f),
            LONGEST * info.typical_norm,
            signs=(1,),
        )
        for f in alive
    ]
    done = 0

    def finish(i: int, found: MeasuredDose) -> None:
        nonlocal done
        done += 1
        on_feature(_measured(alive[i], found))
        on_progress(done, len(alive))

    found = bench.measure(subjects, (date, info.revision), finish)
    measured = {f.index: _measured(f, r) for f, r in zip(alive, found, strict=True)}
    return with_decisions([measured.get(f.index, f) for f in features])


def with_decisions(features: Sequence[Feature]) -> list[Feature]:
    """Return the features, with `works` decided over all those that were measured by fluency."""
    mine = [f for f in features if f.calibration and f.calibration.method == "fluency"]
    decided = decide([f.calibration for f in mine if f.calibration])
    works = {f.index: c for f, c in zip(mine, decided, strict=True)}
    return [f.model_copy(update={"calibration": works[f.index]}) if f.index in works else f for f in features]


def reads_feature(sae: SAE, feature: Feature) -> Reader:
    """Return a reader of whether a reply shows a feature.

    It is 1 where the feature's activation, with its neighbours' weighted by their cosine, anywhere reaches `SHOWN` of
    the feature's typical maximum, and in proportion below.
    """
    cosines = sae.W_dec.float() @ sae.W_dec[feature.row].float()
    best = cosines.topk(min(NEIGHBOURS + 1, sae.d_sae))
    rows = best.indices[best.values >= NEAR]
    weights = best.values[best.values >= NEAR].cpu() / max(SHOWN * feature.typical_max, 1e-6)
    part = sae.only(rows)

    def read(x: torch.Tensor) -> float:
        return min(1.0, float((part.encode(x).float() @ weights).max()))

    return read


def with_scale(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    presets: Sequence[Preset],
    *,
    date: str,
    questions: Sequence[str] = QUESTIONS,
    on_progress: OnProgress = lambda *_: None,
) -> list[Preset]:
    """Return the presets with the sweet spot of their `scale`. Presets that steer nothing are returned unchanged."""
    info, catalogue = bundle.info, Catalogue([bundle])
    edits = [catalogue.resolve(p.steering, p.pins).edits.get(info.hook) for p in presets]
    steering = [(p, e) for p, e in zip(presets, edits, strict=True) if e is not None]
    if not steering:
        return [*presets]
    results: dict[str, Preset] = {}
    for where in dict.fromkeys(p.steering.where for p, _ in steering):
        group = [(p, e) for p, e in steering if p.steering.where == where]
        bench = DoseBench.prepare(model, tokenizer, info.hook, info.typical_norm, questions, where=where)

        def finish(i: int, found: MeasuredDose, group: Sequence[tuple[Preset, ResidualEdit]] = group) -> None:
            preset, edit = group[i]
            results[preset.id] = _with_scale(preset, found, _length(edit))
            on_progress(len(results), len(steering))

        subjects = [_preset_subject(edit, info.typical_norm) for _, edit in group]
        bench.measure(subjects, (date, info.revision), finish)
    return [results.get(p.id, p) for p in presets]


def _preset_subject(edit: ResidualEdit, typical_norm: float) -> Subject:
    """A preset's whole push; its raw strength is the length of the push, so that scales of presets compare."""
    length, scaled = _length(edit), pushes_scaled(edit)
    read = reads_direction(edit.push, typical_norm)
    return Subject(lambda raw: scaled(raw / length), read, MOST_SCALE * length, signs=(1,))


def _length(edit: ResidualEdit) -> float:
    return max(float(edit.push.norm()), 1e-3)


def _with_scale(preset: Preset, r: MeasuredDose, length: float) -> Preset:
    """The preset with raw strengths as scales."""
    curve, spot = r.calibration, r.sweet_spot
    points = tuple(p.model_copy(update={"raw": round(p.raw / length, 4)}) for p in curve.points)
    knots = tuple((d, round(raw / length, 4)) for d, raw in curve.knots)
    curve = decide([curve.model_copy(update={"points": points, "knots": knots})])[0]
    if spot:
        low, high = (round(x * r.dose / length, 3) for x in (spot.low, spot.high))
        spot = spot.model_copy(update={"low": low, "high": high})
    return preset.model_copy(update={"sweet_spot": spot, "calibration": curve})


def _measured(f: Feature, r: MeasuredDose) -> Feature:
    update = {"dose": round(r.dose, 4), "sweet_spot": r.sweet_spot, "calibration": r.calibration, "note": ""}
    return f.model_copy(update=update)


def _decoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[list[int]], str]:
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


def convert_doses(preset: Preset, before: Bundle, features: Sequence[Feature]) -> Preset:
    """Return the preset with strengths that push as far as before, after dose 1.0 of its features has changed."""
    spec, after = preset.steering, {f.id: f for f in features}
    if spec.unit != "dose":
        return preset
    items = []
    for item in spec.features:
        old, new = before.numbered[number_of(item.id)], after[item.id]
        if item.mode in ("add", "clamp"):
            raw = raw_strength(item, "dose", old, before.info)
            item = item.model_copy(
                update={"strength": round(dose_at(raw, knots_of(new, dose_of(new, before.info))), 4)}
            )
        items.append(item)
    return preset.model_copy(update={"steering": spec.model_copy(update={"features": tuple(items)})})
