"""Feature analysis of a passage: activations per token, per speaker and along the text.

The dense activations of a whole passage are never stored: only the strongest few of each token, sums of each feature,
and all activations of the most relevant features. Relevance is high for a feature that is strong for itself and rare in
general: activation ÷ typical maximum × log(1 ÷ density), as in tf-idf.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.model.passage import NOBODY, Passage

ROWS = 1024
PARTS = 10
"""Parts of equal length along the text."""
STRETCH = 32
"""Most tokens of a stretch that mood axes score, about the length of the texts that they were fitted on."""
COMMON = 1e-4
"""Lower bound of a density: a feature that was never seen counts as this rare, not as infinitely rare."""


@dataclass(frozen=True, eq=False)
class EvokedFeature:
    """One feature in a passage."""

    row: int
    maximum: float
    mean: float
    """Over all tokens that belong to a part."""
    count: int
    score: float
    activations: Float[Tensor, " tokens"]


@dataclass(frozen=True, eq=False)
class Analysis:
    """Features of one passage."""

    passage: Passage
    top: tuple[tuple[tuple[int, float], ...], ...]
    """Rows and activations of each token, strongest first."""
    features: tuple[EvokedFeature, ...]
    """Features of the whole passage, most relevant first."""
    speakers: dict[str, dict[int, float]]
    """Mean activation of those features on each speaker's tokens."""
    along: tuple[tuple[float, ...], ...]
    """Mean of each of those features in ten parts of the text."""
    error: Float[Tensor, " tokens"]
    """Share of the stream's squared norm that the SAE leaves unexplained; NaN for tokens of no part."""
    fired: Bool[Tensor, "stretches d_sae"]
    """Which features fire at all in each stretch of one speaker's tokens, whatever the threshold."""
    fired_by: tuple[str, ...]
    """Speaker of each stretch."""


@torch.no_grad()
def analyse(
    bundle: Bundle,
    passage: Passage,
    stream: Float[Tensor, "tokens d_in"],
    *,
    top: int = 8,
    features: int = 24,
    only: Sequence[int] | None = None,
    threshold: float = 0.0,
) -> Analysis:
    """Analyse a passage, given its unsteered stream. `only` are rows to return instead of the most relevant ones.

    Activations up to `threshold` count as zero. Raises SteeringError if the SAE cannot be read.
    """
    sae = bundle.sae
    stream = stream.float().to(sae.W_enc.device)
    owned = torch.tensor([p != NOBODY for p in passage.part], device=stream.device)
    sums, maxima, counts = (torch.zeros(sae.d_sae, device=stream.device) for _ in range(3))
    strongest: list[tuple[tuple[int, float], ...]] = []
    errors = []
    stretch, fired_by = _stretches(passage)
    fired = torch.zeros(len(fired_by), sae.d_sae, dtype=torch.bool, device=stream.device)
    parts = zip(stream.split(ROWS), owned.split(ROWS), stretch.to(stream.device).split(ROWS), strict=True)
    for x, mine, where in parts:
        a = sae.encode(x)
        _count_stretches(fired, where, a)
        errors.append((x - sae.decode(a, x)).pow(2).sum(1) / x.pow(2).sum(1).clamp(min=1e-9))
        a = torch.where((a > threshold) & mine[:, None], a, 0.0)
        sums, counts, maxima = sums + a.sum(0), counts + (a > 0).sum(0), torch.maximum(maxima, a.amax(0))
        strongest += _top_features(a, min(top, sae.d_sae))
    matter = _most_relevant(bundle, sums, maxima) if only is None else torch.zeros(sae.d_sae)
    rows = list(only) if only is not None else _best(matter, features)
    chosen = torch.tensor(rows, dtype=torch.long, device=stream.device)
    shown = sae.only(chosen).encode(stream) if rows else stream.new_zeros(len(stream), 0)
    shown = torch.where((shown > threshold) & owned[:, None], shown, 0.0).cpu()
    n = max(1, int(owned.sum()))
    found = tuple(
        EvokedFeature(r, float(maxima[r]), float(sums[r]) / n, int(counts[r]), float(matter[r]), shown[:, i])
        for i, r in enumerate(rows)
    )
    error = torch.where(owned, torch.cat(errors), torch.nan).cpu()
    return Analysis(
        passage,
        tuple(strongest),
        found,
        _speakers(passage, rows, shown),
        _along(owned.cpu(), shown),
        error,
        fired.cpu(),
        fired_by,
    )


@dataclass(frozen=True)
class Difference:
    """One feature in two passages."""

    row: int
    here: float
    there: float
    """Shares of tokens on which it fires."""
    log_odds: float
    """Of firing here against there, with half a count added to each (Jeffreys)."""
    sure: float
    """|z| of the log-odds. Tokens of one text are not independent: use it as a ranking, not as a probability."""


@torch.no_grad()
def compare(
    bundle: Bundle,
    one: tuple[Passage, Float[Tensor, "tokens d_in"]],
    other: tuple[Passage, Float[Tensor, "tokens d_in"]],
    *,
    features: int = 24,
) -> list[Difference]:
    """Return the features that distinguish two passages: largest |z| first, then the larger difference of means."""
    counts = [_count_firings(bundle, p, x) for p, x in (one, other)]
    (a, n, mean), (b, m, other_mean) = counts
    odds = ((a + 0.5) / (n - a + 0.5)).log() - ((b + 0.5) / (m - b + 0.5)).log()
    spread = (1 / (a + 0.5) + 1 / (n - a + 0.5) + 1 / (b + 0.5) + 1 / (m - b + 0.5)).sqrt()
    z = (odds / spread).abs()
    apart = (mean - other_mean).abs()
    order = sorted(range(len(z)), key=lambda i: (round(float(z[i]), 3), float(apart[i])), reverse=True)
    best = [i for i in order if a[i] + b[i] > 0][:features]
    return [Difference(i, float(a[i] / n), float(b[i] / m), float(odds[i]), float(z[i])) for i in best]


def _count_firings(bundle: Bundle, passage: Passage, stream: Tensor) -> tuple[Float[Tensor, " d_sae"], int, Tensor]:
    """Return on how many tokens each feature fires, the number of tokens, and the mean activations."""
    owned = torch.tensor([p != NOBODY for p in passage.part])
    rows = stream.float()[owned.to(stream.device)]
    counts, sums = torch.zeros(bundle.sae.d_sae), torch.zeros(bundle.sae.d_sae)
    for x in rows.split(ROWS):
        a = bundle.sae.encode(x).cpu()
        counts, sums = counts + (a > 0).sum(0), sums + a.sum(0)
    return counts, int(owned.sum()), sums / max(1, int(owned.sum()))


def _stretches(passage: Passage) -> tuple[Int[Tensor, " tokens"], tuple[str, ...]]:
    """Return each token's stretch (−1 for tokens of no part) and the speaker of each stretch: parts, split equally."""
    where, whose = torch.full((len(passage.part),), NOBODY), []
    part = torch.tensor(passage.part)
    for i, p in enumerate(passage.parts):
        mine = (part == i).nonzero()[:, 0]
        for piece in mine.tensor_split(math.ceil(len(mine) / STRETCH)) if len(mine) else ():
            where[piece] = len(whose)
            whose.append(p.speaker)
    return where, tuple(whose)


def _count_stretches(
    fired: Bool[Tensor, "stretches d_sae"], where: Int[Tensor, " rows"], a: Float[Tensor, "rows d_sae"]
) -> None:
    """Mark the features that fire in each stretch; stretches are consecutive, so a product with few rows is enough."""
    some = where[where >= 0]
    if not len(some):
        return
    first, last = int(some.min()), int(some.max()) + 1
    member = (where == torch.arange(first, last, device=where.device)[:, None]).to(a)  # [stretches, rows]
    fired[first:last] |= (member @ a) > 0


def _top_features(a: Float[Tensor, "rows d_sae"], top: int) -> list[tuple[tuple[int, float], ...]]:
    values, rows = a.topk(top, dim=1)
    pairs = zip(values.tolist(), rows.tolist(), strict=True)
    return [tuple((r, round(v, 4)) for v, r in zip(vs, rs, strict=True) if v > 0) for vs, rs in pairs]


def _most_relevant(bundle: Bundle, sums: Tensor, maxima: Tensor) -> Float[Tensor, " d_sae"]:
    typical = torch.tensor([f.typical_max for f in bundle.features], device=sums.device)
    typical = torch.where(typical > 0, typical, maxima.clamp(min=1e-9))
    rare = [math.log(1 / min(1.0, max(COMMON, f.density))) for f in bundle.features]
    return (sums / typical * torch.tensor(rare, device=sums.device)).cpu()


def _best(scores: Tensor, n: int) -> list[int]:
    found = scores.topk(min(n, len(scores)))
    return [r for v, r in zip(found.values.tolist(), found.indices.tolist(), strict=True) if v > 0]


def _speakers(passage: Passage, rows: Sequence[int], shown: Tensor) -> dict[str, dict[int, float]]:
    names = [passage.parts[p].speaker if p != NOBODY else None for p in passage.part]
    found: dict[str, dict[int, float]] = {}
    for name in dict.fromkeys(p.speaker for p in passage.parts):
        theirs = torch.tensor([n == name for n in names])
        means = shown[theirs].mean(0) if theirs.any() else torch.zeros(len(rows))
        found[name] = {r: round(float(v), 4) for r, v in zip(rows, means, strict=True)}
    return found


def _along(owned: Tensor, shown: Tensor) -> tuple[tuple[float, ...], ...]:
    mine: Int[Tensor, " owned"] = owned.nonzero()[:, 0]
    stretches = [s for s in mine.tensor_split(min(PARTS, max(1, len(mine)))) if len(s)]
    means = torch.stack([shown[s].mean(0) for s in stretches]) if stretches else torch.zeros(0, shown.shape[1])
    return tuple(tuple(round(float(v), 4) for v in column) for column in means.T)
