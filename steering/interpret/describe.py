"""Describe every feature of an SAE in one pass over a corpus: density, histogram, examples, logit lens and label.

What is collected during the pass is in `top_activations`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, Histogram, Kind
from steering.interpret.logit_lens import SHOWN, logit_lens, output_scores
from steering.interpret.top_activations import (
    ABSENT,
    BEFORE,
    BINS,
    LAST,
    LeftOut,
    TopActivations,
    Windows,
    collect_top_activations,
)
from steering.interpret.word_labels import Labeller, LabelTexts, level_of, word_positions
from steering.sae import SAE

TYPICAL = 0.995
SHOWN_BINS = 16
"""Bins of a histogram as stored with a feature."""
SAMPLES = 5
"""Most examples from below the strongest level."""
DENSE = 0.2
"""Density above which a feature is `dense`: on so many tokens, it means little on any of them."""
FIELDS = frozenset(
    {"kind", "density", "max_activation", "typical_max", "histogram", "examples", "samples", "top_logits"}
    | {"output_score", "words"}
)
"""Fields that are measured again whenever a feature is described; labels are not among them."""


def describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sae: SAE,
    hook: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    bundle: str,
    examples: int = 6,
    typical_norm: float = math.inf,
) -> list[Feature]:
    """Return one catalogue feature per latent, labelled with the words that occur where it fires.

    Special tokens, and tokens ten times as long as `typical_norm`, count nowhere. Raises SteeringError if the SAE cannot be read.
    """
    left_out = LeftOut.of_model(tokenizer, typical_norm)
    seen = collect_top_activations(model, sae, hook, batches, top=examples, left_out=left_out)
    assert seen.tokens, "nothing to describe: no texts"
    typical = torch.minimum(seen.levels.quantile(TYPICAL), seen.maximum)
    up, down = logit_lens(model, sae)
    scores = output_scores(model, tokenizer, sae, hook, typical, up)
    text = LabelTexts(tokenizer)
    labeller = Labeller.from_windows(text, seen.anywhere)
    found = []
    for i in range(sae.d_sae):
        alive = bool(seen.maximum[i] > 0)
        raised = [text.raw(t) for t in up[i, :SHOWN].tolist()]
        silent = (seen.anywhere.peaks[seen.anywhere.filled, i] == 0).numpy()
        named = labeller.label(*word_positions(seen, i), silent) if alive else None
        density, score = round(int(seen.fired[i]) / seen.tokens, 7), round(float(scores[i]), 4) if alive else None
        found.append(
            Feature(
                id=f"{bundle}/{i}",
                index=i,
                label=named.text(raised) if named else "never fired",
                label_source="auto" if named else "none",
                words=named.words if named else (),
                kind=kinds(density),
                density=density,
                max_activation=round(float(seen.maximum[i]), 4),
                typical_max=round(float(typical[i]), 4),
                histogram=_histogram(seen, i) if alive else None,
                output_score=score,
                top_logits={"positive": raised, "negative": [text.raw(t) for t in down[i, :SHOWN].tolist()]},
                examples=_examples(text, seen.top.windows, i, seen.top.values[i]),
                samples=_samples(text, seen, i),
            )
        )
    return found


def kinds(density: float) -> tuple[Kind, ...]:
    """Return the warnings for a feature with this density."""
    if not density:
        return ("dead",)
    return ("dense",) if density > DENSE else ()


def with_measurements(bundle: Bundle, found: Sequence[Feature]) -> list[Feature]:
    """Return a bundle's features with the measurements of `found`, row by row; labels other than `auto` are kept."""
    anew = []
    for old, new in zip(bundle.features, found, strict=True):
        fields: dict[str, Any] = {name: getattr(new, name) for name in FIELDS}
        if old.label_source in ("auto", "none"):
            fields |= {"label": new.label, "label_source": new.label_source, "stale": False}
        anew.append(Feature(id=old.id, index=old.index, row=old.row, **fields))
    return anew


def _histogram(seen: TopActivations, row: int) -> Histogram:
    """Sixteenths of the range, up to the one that holds the maximum."""
    counts = seen.levels.counts[row].view(SHOWN_BINS, BINS // SHOWN_BINS).sum(1)
    width = float(seen.levels.range[row]) / SHOWN_BINS
    return Histogram(width=width, counts=tuple(counts[: int(float(seen.maximum[row]) / width) + 1].tolist()))


def _samples(text: LabelTexts, seen: TopActivations, row: int) -> list[dict[str, Any]]:
    """Return one sample of each level below the strongest, strongest first, without those that are among the examples."""
    levels, strongest = level_of(seen, row)
    shown = seen.top.windows.marks[row][seen.top.values[row] > 0]
    windows = seen.levels.windows
    there = (seen.levels.keys[row] < LAST) & (levels < strongest) & ~torch.isin(windows.marks[row], shown)
    places = there.nonzero()[:, 0].flip(0)
    if len(places) > SAMPLES:
        places = places[torch.linspace(0, len(places) - 1, SAMPLES).round().long()]
    return [_example(text, windows.ids[row, i], windows.activations[row, i]) for i in places.tolist()]


def _examples(text: LabelTexts, windows: Windows, row: int, values: Tensor) -> list[dict[str, Any]]:
    return [
        _example(text, windows.ids[row, i], windows.activations[row, i]) for i in (values > 0).nonzero()[:, 0].tolist()
    ]


def _example(text: LabelTexts, ids: Tensor, activations: Tensor) -> dict[str, Any]:
    tokens, begins = [text.raw(i) for i in ids.tolist() if i != ABSENT], int((ids[:BEFORE] == ABSENT).sum())
    values = activations.tolist()[begins : begins + len(tokens)]
    at = BEFORE - begins
    return {
        "text": text.decode(ids.tolist()),
        "token": tokens[at],
        "at": at,
        "activation": round(values[at], 3),
        "tokens": tokens,
        "activations": [0 if v == 0 else float(f"{v:.3g}") for v in values],
    }
