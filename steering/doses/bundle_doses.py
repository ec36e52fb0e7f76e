"""Doses of a bundle: measure features and presets, and convert a preset's strengths to new doses.

Words come from a corpus, pushes are evaluated by rollouts. The functions return catalogue features and presets with
their measurements; the caller stores them.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.calibration import SweetSpot, dose_at, raw_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, dose_of, knots_of, number_of
from steering.catalogue.resolve import Catalogue, raw_strength
from steering.doses.measure import MeasuredDose, Null, Subject, calibrate, pushes_along, pushes_scaled
from steering.doses.rollouts import QUESTIONS, Rollouts
from steering.edits import ResidualEdit
from steering.interpret.feature_words import count_contexts, most_telling_tokens
from steering.model.activations import padded_batches
from steering.model.chat_template import encode_chat
from steering.spec import Preset

START, LONGEST = 0.25, 2.0
"""In units of the stream's typical norm: the first push that is tried, and the largest."""
MOST_SCALE = 2.5
AT_ONCE = 16
CHUNK = 512
"""Features whose words are counted in one pass over the corpus: memory is features × vocabulary."""
Told = Callable[[int, int], None]
"""Progress callback: number done, and total."""


def prepare_rollouts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, hook: str, questions: Sequence[str] = QUESTIONS
) -> Rollouts:
    """Return rollouts with these questions. Raises BadChat for a model without a chat template."""
    return Rollouts.prepare(model, hook, [encode_chat(tokenizer, [{"role": "user", "content": q}]) for q in questions])


def with_doses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    features: Sequence[Feature],
    corpus: Iterable[list[int]],
    *,
    date: str,
    questions: Sequence[str] = QUESTIONS,
    on_progress: Told = lambda *_: None,
) -> list[Feature]:
    """Return the features with dose, sweet spot and calibration, measured in at most eight evaluations each."""
    stage, rows = prepare_rollouts(model, tokenizer, bundle.info.hook, questions), list(corpus)
    alive = [f for f in features if f.typical_max > 0]
    words = _words(model, tokenizer, bundle, alive, rows)
    null = Null.measure(stage, words, bundle.info.typical_norm)
    norm = bundle.info.typical_norm
    subjects = [
        Subject(pushes_along(bundle.sae.W_dec[f.row]), w, START * norm, LONGEST * norm)
        for f, w in zip(alive, words, strict=True)
    ]
    found = calibrate(
        stage,
        subjects,
        null,
        at_once=AT_ONCE,
        stamp=(date, bundle.info.revision),
        on_progress=lambda n: on_progress(n, len(subjects)),
    )
    measured = {f.index: _measured(f, r, w, tokenizer) for f, r, w in zip(alive, found, words, strict=True)}
    return [measured.get(f.index, f) for f in features]


def with_scale(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    presets: Sequence[Preset],
    *,
    date: str,
    questions: Sequence[str] = QUESTIONS,
    on_progress: Told = lambda *_: None,
) -> list[Preset]:
    """Return the presets with the sweet spot of their `scale`.

    A preset's words are those that its replies to one half of the questions contain more often than unsteered ones; its
    effect is measured on the other half. Presets that steer nothing are returned unchanged.
    """
    hook = bundle.info.hook
    learn, test = (prepare_rollouts(model, tokenizer, hook, questions[i::2]) for i in (0, 1))
    catalogue, found = Catalogue([bundle]), []
    for i, preset in enumerate(presets):
        edit = catalogue.resolve(preset.steering, preset.pins).edits.get(hook)
        if edit is None:
            found.append(preset)
            continue
        words = _most_raised_words(learn, tokenizer, [pushes_scaled(edit)(s) for s in (0.7, 1.0)])
        null = Null.measure(test, [words], bundle.info.typical_norm)
        (result,) = calibrate(
            test,
            [Subject(pushes_scaled(edit), words, 0.5, MOST_SCALE, signs=(1,))],
            null,
            stamp=(date, bundle.info.revision),
        )
        spot = result.sweet_spot and _spot_as_scale(result.sweet_spot, result)
        calibration = result.calibration.model_copy(update={"words": _decode_words(words, tokenizer)})
        found.append(preset.model_copy(update={"sweet_spot": spot, "calibration": calibration}))
        on_progress(i + 1, len(presets))
    return found


def _words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    features: Sequence[Feature],
    rows: list[list[int]],
) -> list[Int[Tensor, " words"]]:
    tellable = _is_word_filter(tokenizer)
    found: list[Int[Tensor, " words"]] = []
    for start in range(0, len(features), CHUNK):
        some = features[start : start + CHUNK]
        near, total = count_contexts(
            model,
            bundle.sae,
            bundle.info.hook,
            padded_batches(rows, batch=32, longest=256, pad=0),
            [f.row for f in some],
            torch.tensor([f.typical_max for f in some]),
            _vocabulary(model),
        )
        found += most_telling_tokens(near, total, tellable)
    return found


def _most_raised_words(
    stage: Rollouts, tokenizer: PreTrainedTokenizerFast, edits: Sequence[ResidualEdit]
) -> Int[Tensor, " words"]:
    vocabulary = _vocabulary(stage.model)
    steered = [i for r in stage.run(edits) for row in r.replies for i in row]
    plain = [i for row in stage.plain.replies for i in row] * len(edits)
    near, other = (torch.bincount(torch.tensor(ids), minlength=vocabulary).float() for ids in (steered, plain))
    (words,) = most_telling_tokens(near[None], near + other, _is_word_filter(tokenizer), sure=1.0)
    return words


def _measured(f: Feature, r: MeasuredDose, words: Tensor, tokenizer: PreTrainedTokenizerFast) -> Feature:
    calibration = r.calibration.model_copy(update={"words": _decode_words(words, tokenizer)})
    return f.model_copy(
        update={"dose": round(r.dose, 4), "sweet_spot": r.sweet_spot, "calibration": calibration, "note": ""}
    )


def _spot_as_scale(spot: SweetSpot, r: MeasuredDose) -> SweetSpot:
    """Convert a sweet spot from doses to scales."""
    low, high = (round(raw_at(x, r.calibration.knots), 3) for x in (spot.low, spot.high))
    return spot.model_copy(update={"low": low, "high": high})


def _decode_words(words: Tensor, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(tokenizer.decode([i])).strip() for i in words.tolist()))


def _is_word_filter(tokenizer: PreTrainedTokenizerFast) -> Callable[[int], bool]:
    """Return a predicate for tokens that are words: at least three letters, and not a special token."""
    special = set(tokenizer.all_special_ids)

    def tellable(token: int) -> bool:
        if token in special:
            return False
        text = str(tokenizer.decode([token])).strip()
        return len(text) > 2 and text.isalpha()

    return tellable


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)


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
