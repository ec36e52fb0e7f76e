"""Top activations of every feature in one pass: strongest windows, samples of all levels, and a histogram.

Memory is bounded: a histogram and a few windows of text per feature, and some windows of the corpus chosen at random.

Which places are kept does not depend on the batching. A place is identified by a hash of the tokens from the text's
start to it (`mark`), so a repeated prefix counts once; the sampled places are those with the smallest hash. Activations
are counted in equal bins of `[0, 2^e)`, the smallest such range that holds all of a feature's: when it is doubled,
pairs of bins are merged, which is exact.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.model.activations import SINK
from steering.model.hooks import read_stream
from steering.sae import SAE

BINS, LEVELS = 256, 8
"""Equal bins of a feature's range: those that are counted, and those that are sampled from."""
BEFORE, AFTER = 12, 6
"""Tokens of a window before the place, and from it on. The place is always column `BEFORE`."""
WINDOW = BEFORE + AFTER
ABSENT = -1
"""Token id where a window extends beyond its text."""
CELLS = 1 << 24
"""Activations that are processed together, which limits the number of features per step."""
NONE, LEAST = -200, -100
"""Exponent of an empty range, and the least of any other."""
LAST = (1 << 62) - 1


@dataclass(eq=False)
class Windows:
    """Windows of text, `places` per feature: ids, and the feature's activation on each token."""

    ids: Int[Tensor, "features places window"]
    activations: Float[Tensor, "features places window"]
    marks: Int[Tensor, "features places"]

    @staticmethod
    def none(features: int, places: int) -> "Windows":
        """Return empty places."""
        return Windows(
            torch.full((features, places, WINDOW), ABSENT, dtype=torch.int32),
            torch.zeros(features, places, WINDOW),
            torch.zeros(features, places, dtype=torch.long),
        )

    def at(self, rows: Tensor, order: Int[Tensor, "rows places"]) -> "Windows":
        """Return the windows of some features, in another order."""
        pick = (rows[:, None], order)
        return Windows(self.ids[pick], self.activations[pick], self.marks[pick])

    def put(self, where: tuple[Tensor, ...], new: "Windows") -> None:
        """Write windows to places."""
        self.ids[where], self.activations[where], self.marks[where] = new.ids, new.activations, new.marks


@dataclass(eq=False)
class Batch:
    """Some texts, and the activations of some features on them."""

    ids: Int[Tensor, "batch time"]
    lengths: Int[Tensor, " batch"]
    marks: Int[Tensor, "batch time"]
    a: Float[Tensor, "batch time features"]

    def windows(self, row: Tensor, at: Tensor, feature: Tensor) -> Windows:
        """Return the windows around places, each with the activations of one feature."""
        place = at[:, None] + torch.arange(-BEFORE, AFTER)
        there = (place >= 0) & (place < self.lengths[row][:, None])
        place, row_ = place.clamp(0, self.ids.shape[1] - 1), row[:, None]
        ids = torch.where(there, self.ids[row_, place], ABSENT).int()
        return Windows(ids, torch.where(there, self.a[row_, place, feature[:, None]], 0.0), self.marks[row, at])


class Top:
    """Places where each feature fires most: one per text, each prefix once, strongest first."""

    def __init__(self, features: int, places: int) -> None:
        self.values = torch.zeros(features, places)
        self.windows = Windows.none(features, places)

    def add(self, batch: Batch, first: int) -> None:
        """Add the activations of features from number `first` on. Of equally strong places the earlier ones are kept."""
        peak, at = batch.a.max(dim=1)  # [batch, features]
        held = self.values.shape[1]
        rising = (peak > self.values[first : first + peak.shape[1], -1]).any(0).nonzero()[:, 0]
        if not len(rising):
            return
        mine, row = rising + first, torch.arange(len(peak))
        values = torch.cat([self.values[mine], peak[:, rising].T], 1)
        marks = torch.cat([self.windows.marks[mine], batch.marks[row[:, None], at[:, rising]].T], 1)
        order = values.argsort(dim=1, descending=True, stable=True)
        values, marks = values.gather(1, order), marks.gather(1, order)
        again = (marks[:, :, None] == marks[:, None, :]).tril(-1).any(2)
        values = torch.where(again, 0.0, values)
        best = values.argsort(dim=1, descending=True, stable=True)[:, :held]
        order, values = order.gather(1, best), values.gather(1, best)
        kept = self.windows.at(mine, order.clamp(max=held - 1))
        i, place = ((order >= held) & (values > 0)).nonzero(as_tuple=True)
        who = order[i, place] - held
        kept.put((i, place), batch.windows(who, at[who, rising[i]], rising[i]))
        self.values[mine] = values
        self.windows.put((mine,), kept)


class Quantiles:
    """Histogram of each feature's activations, with samples from each eighth of its range."""

    def __init__(self, features: int, samples: int, seed: int = 0) -> None:
        self.exponent = torch.full((features,), NONE)
        """Exponent of each feature's range."""
        self.counts = torch.zeros(features, BINS, dtype=torch.long)
        self.keys = torch.full((features, LEVELS * samples), LAST)
        """Hashes of the sampled places, ascending within each level."""
        self.windows = Windows.none(features, LEVELS * samples)
        self._samples, self._seed = samples, seed

    def add(self, batch: Batch, first: int) -> None:
        """Add the activations of features from number `first` on."""
        row, at, f = (batch.a > 0).nonzero(as_tuple=True)
        if not len(f):
            return
        self._widen(batch.a.amax((0, 1)), first)
        mine = f + first
        # The range is a power of two, so rounding never moves a value over a bin edge.
        bins = (batch.a[row, at, f] * _power(8 - self.exponent[mine])).long()
        self.counts.view(-1).index_add_(0, mine * BINS + bins, torch.ones_like(bins))
        level = bins // (BINS // LEVELS)
        keys = _mixed(batch.marks[row, at], mine + 1 + (self._seed << 32))
        self._sample(batch, row, at, f, mine * LEVELS + level, keys)

    def _sample(self, batch: Batch, row: Tensor, at: Tensor, f: Tensor, group: Tensor, keys: Tensor) -> None:
        """Keep the places with the smallest hashes of each group; a group is a level of a feature."""
        n = self._samples
        held = self.keys.view(-1, n)
        some = ((keys < held[group, -1]) & (keys[:, None] != held[group]).all(1)).nonzero()[:, 0]
        some = some[keys[some].argsort(stable=True)]
        some = some[group[some].argsort(stable=True)]
        same = torch.zeros(len(some), dtype=torch.bool)
        same[1:] = (group[some[1:]] == group[some[:-1]]) & (keys[some[1:]] == keys[some[:-1]])
        some = some[~same]
        if not len(some):
            return
        groups, which, sizes = group[some].unique_consecutive(return_inverse=True, return_counts=True)
        rank = torch.arange(len(some)) - (sizes.cumsum(0) - sizes)[which]
        some, which, rank = some[rank < n], which[rank < n], rank[rank < n]
        new, source = torch.full((len(groups), n), LAST), torch.zeros(len(groups), n, dtype=torch.long)
        new[which, rank], source[which, rank] = keys[some], some
        both = torch.cat([held[groups], new], 1)
        order = both.argsort(dim=1, stable=True)[:, :n]
        flat = Windows(
            self.windows.ids.view(-1, n, WINDOW),
            self.windows.activations.view(-1, n, WINDOW),
            self.windows.marks.view(-1, n),
        )
        kept = flat.at(groups, order.clamp(max=n - 1))
        both = both.gather(1, order)
        i, place = ((order >= n) & (both < LAST)).nonzero(as_tuple=True)
        who = source[i, order[i, place] - n]
        kept.put((i, place), batch.windows(row[who], at[who], f[who]))
        held[groups] = both
        flat.put((groups,), kept)

    def _widen(self, peak: Float[Tensor, " features"], first: int) -> None:
        """Double the ranges that are too short for `peak`."""
        mine = torch.arange(first, first + len(peak))
        needed = torch.where(peak > 0, torch.frexp(peak).exponent.long().clamp(min=LEAST), NONE)
        more = (needed - self.exponent[mine]).clamp(min=0)
        more = torch.where(self.counts[mine].any(1), more, 0).clamp(max=8)
        self.exponent[mine] = torch.maximum(self.exponent[mine], needed)
        for step in range(int(more.max())):
            some = mine[more > step]
            counts = self.counts[some].view(len(some), BINS // 2, 2).sum(2)
            self.counts[some] = torch.cat([counts, torch.zeros_like(counts)], 1)
            self._fold(some)

    def _fold(self, some: Tensor) -> None:
        """Merge pairs of levels; the upper half is empty then."""
        n, half = self._samples, LEVELS // 2
        keys = self.keys[some].view(-1, half, 2 * n)
        order = keys.argsort(dim=2, stable=True)[:, :, :n]
        flat = (order + (torch.arange(half) * 2 * n)[:, None]).reshape(len(some), -1)
        kept, empty = self.windows.at(some, flat), Windows.none(len(some), half * n)
        for name in ("ids", "activations", "marks"):
            getattr(self.windows, name)[some] = torch.cat([getattr(kept, name), getattr(empty, name)], 1)
        keys = keys.gather(2, order).reshape(len(some), -1)
        self.keys[some] = torch.cat([keys, torch.full_like(keys, LAST)], 1)

    @property
    def range(self) -> Float[Tensor, " features"]:
        """Upper bound of each feature's activations; the largest is at least half of it."""
        return _power(self.exponent.clamp(min=LEAST))

    def quantile(self, q: float) -> Float[Tensor, " features"]:
        """Return the upper edge of the bin in which quantile `q` of each feature's activations is; 0 without
        activations.
        """
        sums = self.counts.cumsum(1)
        reached = (sums < q * sums[:, -1:]).sum(1) + 1
        return torch.where(sums[:, -1] > 0, reached / BINS * self.range, 0.0)


class RandomWindows:
    """Random windows of the corpus, with the largest activation of each feature in each of them."""

    def __init__(self, features: int, places: int, seed: int = 0) -> None:
        self.keys = torch.full((places,), LAST)
        self.ids = torch.full((places, WINDOW), ABSENT, dtype=torch.int32)
        self.peaks = torch.zeros(places, features)
        self._seed = seed
        self._coming: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self, batch: Batch, keep: Bool[Tensor, "batch time"]) -> None:
        """Choose windows from a batch, before its activations are added."""
        row, at = keep.nonzero(as_tuple=True)
        keys = _mixed(batch.marks[row, at], torch.tensor(self._seed << 32))
        some = ((keys < self.keys.max()) & ~torch.isin(keys, self.keys)).nonzero()[:, 0]
        some = some[keys[some].argsort(stable=True)]
        fresh = torch.ones(len(some), dtype=torch.bool)
        fresh[1:] = keys[some[1:]] != keys[some[:-1]]
        some = some[fresh][: len(self.keys)]
        worst = self.keys.argsort(descending=True, stable=True)[: len(some)]
        better = keys[some] < self.keys[worst]
        some, worst = some[better], worst[better]
        self.keys[worst] = keys[some]
        self._coming = worst, row[some], at[some]

    def add(self, batch: Batch, first: int) -> None:
        """Add the activations of features from number `first` on."""
        assert self._coming is not None
        slots, row, at = self._coming
        place = at[:, None] + torch.arange(-BEFORE, AFTER)
        there = (place >= 0) & (place < batch.lengths[row][:, None])
        place = place.clamp(0, batch.ids.shape[1] - 1)
        self.ids[slots] = torch.where(there, batch.ids[row[:, None], place], ABSENT).int()
        for slot, r, where, real in zip(slots.tolist(), row.tolist(), place, there, strict=True):
            self.peaks[slot, first : first + batch.a.shape[2]] = batch.a[r, where[real]].amax(0)

    @property
    def filled(self) -> Bool[Tensor, " places"]:
        """Mask of the places that hold a window."""
        return self.keys < LAST


@dataclass(eq=False)
class TopActivations:
    """Result of one pass."""

    top: Top
    levels: Quantiles
    anywhere: RandomWindows
    tokens: int = 0
    fired: Tensor = field(default_factory=lambda: torch.zeros(0))
    maximum: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass(frozen=True)
class LeftOut:
    """Tokens that are not looked at, beside the first of each text: special tokens, and attention sinks.

    Their activations are many times as large as any others and would be every feature's maximum and example.
    """

    ids: frozenset[int] = frozenset()
    """Token ids, such as a chat template's."""
    norm: float = math.inf
    """Norm of the residual stream from which on a token is a sink."""

    @staticmethod
    def of_model(tokenizer: PreTrainedTokenizerFast, typical_norm: float) -> "LeftOut":
        """Return the special tokens of a tokenizer, and sinks: tokens ten times as long as is typical."""
        return LeftOut(frozenset(tokenizer.all_special_ids), SINK * typical_norm)

    def keep(
        self, ids: Int[Tensor, "batch time"], real: Bool[Tensor, "batch time"], x: Float[Tensor, "batch time d_in"]
    ) -> Bool[Tensor, "batch time"]:
        """Return the mask of the tokens that are looked at."""
        keep = real & ~torch.isin(ids, torch.tensor(sorted(self.ids), dtype=ids.dtype))
        keep[:, 0] = False
        return keep & (x.norm(dim=-1) < self.norm).cpu()


NOTHING_MORE = LeftOut()


@torch.no_grad()
def collect_top_activations(
    model: PreTrainedModel,
    sae: SAE,
    hook: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    top: int = 6,
    samples: int = 1,
    anywhere: int = 512,
    left_out: LeftOut = NOTHING_MORE,
    seed: int = 0,
) -> TopActivations:
    """Run a model over texts once. The first token of a text and `left_out` count nowhere. Raises SteeringError if the
    SAE cannot be read.

    `top` places are kept per feature, `samples` per level, and `anywhere` windows of the corpus.
    """
    sae.check_reads()
    m = sae.d_sae
    seen = TopActivations(Top(m, top), Quantiles(m, samples, seed), RandomWindows(m, anywhere, seed))
    seen.fired, seen.maximum = torch.zeros(m, dtype=torch.long), torch.zeros(m)
    for ids, real in batches:
        x = read_stream(model, ids.to(model.device), hook, attention_mask=real.long().to(model.device)).float()
        keep = left_out.keep(ids, real, x)
        seen.tokens += int(keep.sum())
        step, lengths, marks = max(64, CELLS // ids.numel()), real.sum(1), _marks(ids)
        for first in range(0, m, step):
            part = sae if step >= m else sae.only(torch.arange(first, min(m, first + step), device=sae.W_enc.device))
            a = torch.where(keep[..., None], part.encode(x).cpu(), 0.0)
            batch = Batch(ids, lengths, marks, a)
            if first == 0:
                seen.anywhere.begin(batch, keep)
            some = slice(first, first + a.shape[2])
            seen.fired[some] += (a > 0).sum((0, 1))
            seen.maximum[some] = torch.maximum(seen.maximum[some], a.amax((0, 1)))
            for tally in (seen.top, seen.levels, seen.anywhere):
                tally.add(batch, first)
    return seen


def _power(exponent: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """2 to the power of each exponent, exactly (`pow` need not be)."""
    return ((exponent + 127) << 23).to(torch.int32).view(torch.float32)


def _marks(ids: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Return a hash of all tokens up to each place; never 0."""
    marks, mark = torch.empty_like(ids), torch.ones(len(ids), dtype=torch.long)
    for t in range(ids.shape[1]):
        mark = _mixed(mark, ids[:, t] + 1)
        marks[:, t] = mark
    return marks | 1


def _mixed(mark: Tensor, other: Tensor) -> Tensor:
    """Return a hash of two numbers, below 2⁶² (splitmix64's steps; the products wrap around)."""
    h = mark ^ (other * -7046029254386353131)
    h = (h ^ ((h >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    h = (h ^ ((h >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return (h ^ ((h >> 31) & 0x1FFFFFFFF)) & LAST
