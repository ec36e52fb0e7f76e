"""Dose calibration: search for dose 1.0 of a feature, and measure what the feature does there.

Dose 1.0 is the largest push at which nine of ten replies still read as fluent (`evaluate.coherence`, which readers'
labels validate). The share of fluent replies falls with the push along a logistic curve; a posterior over its middle
and width is updated after each round of sampled replies, and the next round is made where the curve is about to fall.
Rounds end when the interval of the dose is narrow enough, or after `ROUNDS`.

The effect is measured on what the model does: the steered replies are read again by the unsteered model, and how many
of them show the feature (its own activation there, with that of its neighbours) is compared with replies under random
pushes at their own dose 1.0 (`Null`). Subjects are measured together, so that a batch holds many pushes.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steering.calibration import Calibration, Measured, SweetSpot
from steering.doses.rollouts import Rollout, Rollouts
from steering.edits import ResidualEdit
from steering.evaluate.coherence import judge
from steering.evaluate.statistics import benjamini_hochberg, student_tail

FLUENT = 0.94
"""Expected share of fluent replies at dose 1.0.

Readers of 1,100 replies on the default bundle, stricter than those of the labels, called 0.81 of the unsteered ones fluent; the
expected share at which they called nine tenths of that so is 0.94: `docs/decisions/0077`.
"""
ROUNDS, ROUNDS_BELOW = 3, 2
"""Most rounds for pushes along the feature's direction and against it."""
NARROW = 0.12
"""Half of the 90 % interval of dose 1.0, relative to it, at which rounds end."""
MIDDLE, WIDTH = (0.41, 0.35), (0.1, 0.5)
"""Prior of the curve's middle, in typical norms, and of its width, relative to the middle: medians and logarithmic
spreads. From readers' labels of 640 replies: half of them were fluent at 0.41.
"""
RANDOM = 30
"""Random directions of the null distribution."""
SURE = 0.05
"""False discovery rate at which an effect counts as beyond random pushes."""
LEAST = 0.03
"""Least spread of the null distribution: half a reply in sixteen, so that one chance hit of a feature that random pushes
never evoke is no effect.
"""
NEAR_ONE = 0.12
"""Rounds at pushes within this of dose 1.0, relative to it, count for the effect there."""

Push = Callable[[float], ResidualEdit]
"""Maps a raw strength to an edit."""
Reader = Callable[[Float[Tensor, "tokens d_in"]], float]
"""Reads a concept from the unsteered residual stream of one reply: 0 where it is absent, 1 where it shows."""
Decode = Callable[[list[int]], str]
Search = Generator[float, "Round", "Curve"]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: how it is pushed, how its concept is read, and the largest push."""

    push: Push
    read: Reader
    longest: float
    """Largest push that is tried."""
    signs: tuple[int, ...] = (1, -1)


@dataclass(frozen=True, eq=False)
class Round:
    """Replies of one push."""

    raw: float
    fluent: float
    """Expected number of replies that readers call fluent."""
    replies: int
    rollout: Rollout
    plain: Rollout
    """Unsteered replies to the same questions."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Dose 1.0 of one sign with its 90 % interval, and the rounds it comes from; the last round is at dose 1.0."""

    dose: float
    interval: tuple[float, float]
    rounds: tuple[Round, ...]


@dataclass(frozen=True, eq=False)
class MeasuredDose:
    """Result of a calibration."""

    dose: float
    """Raw strength of dose 1.0."""
    sweet_spot: SweetSpot | None
    calibration: Calibration


@dataclass(frozen=True, eq=False)
class Null:
    """Replies under random pushes at their own dose 1.0: what any push of that size does to a reading."""

    rollouts: tuple[Rollout, ...]
    plain: Rollout
    """Unsteered replies to the same questions."""
    dose: float
    """Raw strength of a random push's dose 1.0."""

    @staticmethod
    def measure(stages: Sequence[Rollouts], decode: Decode, typical_norm: float, *, seed: int = 0) -> "Null":
        """Find dose 1.0 of random directions, and make replies under `RANDOM` of them."""
        generator = torch.Generator().manual_seed(seed)
        width = int(stages[0].model.config.get_text_config().hidden_size)
        directions = torch.nn.functional.normalize(torch.randn(RANDOM, width, generator=generator), dim=1)
        pushes = [pushes_along(d.to(stages[0].model.device)) for d in directions]
        subjects = [Subject(push, lambda _: 0.0, 2 * typical_norm, signs=(1,)) for push in pushes[:8]]
        found = _curves(stages, subjects, decode, typical_norm, at_once=8)
        dose = sorted(c[1].dose for c in found)[len(found) // 2]
        rolled: list[Rollout] = []
        for start in range(0, RANDOM, 8):
            rolled += stages[0].run([push(dose) for push in pushes[start : start + 8]], seed=seed, kl=False)
        return Null(tuple(rolled), stages[0].plain, dose)

    def read(self, read: Reader) -> "NullReading":
        """Return what a reader finds in these replies, to compare others with."""
        base = reading(read, self.plain)
        random = torch.tensor([reading(read, r) - base for r in self.rollouts])
        return NullReading(read, float(random.mean()), float(random.std()), len(random))


@dataclass(frozen=True)
class NullReading:
    """Mean and spread of the effects of `n` random pushes on one reading."""

    reader: Reader
    mean: float
    spread: float
    n: int

    def effect(self, rounds: Sequence[Round]) -> tuple[float, float, float]:
        """Return the mean effect of rounds (their reading minus that of unsteered replies to their questions), z, and the
        one-sided p-value.

        z is in standard deviations of random pushes' effects; p is Student's, with one degree of freedom less than
        there are random pushes.
        """
        effect = effect_of(self.reader, rounds)
        z = (effect - self.mean) / (max(self.spread, LEAST) * math.sqrt(1 + 1 / self.n))
        return effect, z, student_tail(z, self.n - 1)


def calibrate(
    stages: Sequence[Rollouts],
    subjects: Sequence[Subject],
    null: Null | None,
    decode: Decode,
    typical_norm: float,
    *,
    at_once: int = 8,
    stamp: tuple[str, str] = ("", ""),
    on_progress: Callable[[int, MeasuredDose], None] = lambda *_: None,
) -> list[MeasuredDose]:
    """Measure every subject, `at_once` of them in a batch; rounds go through `stages` in turn.

    `stamp` is the date and the SAE's revision. Without `null` only doses are measured. Whether an effect `works` is decided by `decide`, which needs all p-values.
    `on_progress` gets a subject's position and its result as soon as it is there.
    """
    results: dict[int, MeasuredDose] = {}

    def finish(i: int, curves: dict[int, Curve]) -> None:
        results[i] = _measurement(subjects[i], curves, null, stamp)
        on_progress(i, results[i])

    _curves(stages, subjects, decode, typical_norm, at_once=at_once, on_curve=finish)
    return [results[i] for i in range(len(subjects))]


def decide(measured: Sequence[Calibration], rate: float = SURE) -> list[Calibration]:
    """Return the calibrations with `works`: effects beyond chance at a false discovery rate over all of them."""
    q = benjamini_hochberg(np.array([1.0 if c.p is None else c.p for c in measured]))
    return [c.model_copy(update={"works": bool(x <= rate)}) for c, x in zip(measured, q, strict=True)]


def effect_of(read: Reader, rounds: Sequence[Round]) -> float:
    """Return the mean over rounds of their reading minus that of unsteered replies to the same questions."""
    return sum(reading(read, r.rollout) - reading(read, r.plain) for r in rounds) / len(rounds)


def reading(read: Reader, rollout: Rollout) -> float:
    """Return the mean reading of a rollout's replies."""
    values = [read(x.float()) for x in rollout.streams if len(x)]
    return sum(values) / len(values) if values else 0.0


def pushes_along(direction: Float[Tensor, " d_in"]) -> Push:
    """Return pushes along one direction."""
    none = direction.new_zeros(0)
    rows = direction.new_zeros(0, len(direction))
    return lambda raw: ResidualEdit(raw * direction, rows, none, none, rows, none)


def pushes_scaled(edit: ResidualEdit) -> Push:
    """Return pushes that multiply a whole spec's edit."""
    return lambda raw: replace(edit, push=raw * edit.push, gate=raw * edit.gate)


def reads_direction(direction: Float[Tensor, " d_in"], typical_norm: float) -> Reader:
    """Return a reader of the mean projection on a direction, in typical norms."""
    unit = torch.nn.functional.normalize(direction.float().cpu(), dim=0)
    return lambda x: float((x @ unit).mean()) / typical_norm


class Posterior:
    """Posterior of the curve: P(fluent | x) = σ((middle − x) / width), x the push in typical norms, on a grid.

    At no push one reply in a hundred still reads as not fluent.
    """

    def __init__(self, middle: tuple[float, float] = MIDDLE) -> None:
        m = torch.linspace(math.log(0.03), math.log(3.0), 121, dtype=torch.float64)
        w = torch.linspace(math.log(0.02), math.log(0.5), 25, dtype=torch.float64)
        self._middle = m.exp()[:, None].expand(-1, len(w))
        self._width = self._middle * w.exp()[None]
        spread = lambda x, centre, sigma: -0.5 * ((x - math.log(centre)) / sigma) ** 2  # noqa: E731
        self._log = spread(m, *middle)[:, None] + spread(w, *WIDTH)[None]

    def update(self, x: float, fluent: float, replies: int) -> None:
        """Take in a round: `fluent` of `replies` at a push of `x` typical norms."""
        seen = (0.99 * torch.sigmoid((self._middle - x) / self._width)).clamp(min=1e-6)
        self._log = self._log + fluent * seen.log() + (replies - fluent) * (1 - seen).log()

    def push_at(self, share: float, quantile: float = 0.5) -> float:
        """Return a quantile of the push at which that share of replies is fluent."""
        x = (self._middle - self._width * math.log(share / (1 - share))).clamp(min=0.01).flatten()
        order = x.argsort()
        mass = (self._log.flatten()[order] - self._log.max()).exp().cumsum(0)
        at = int(torch.searchsorted(mass, quantile * mass[-1]))
        return float(x[order[min(at, len(order) - 1)]])

    def interval(self, share: float = FLUENT) -> tuple[float, float]:
        """Return the 90 % interval of that push."""
        return self.push_at(share, 0.05), self.push_at(share, 0.95)


def _search(subject: Subject, sign: int, typical_norm: float, most: int, near: float | None) -> Search:
    """Rounds at pushes where the share of fluent replies is about to fall; the last is at dose 1.0."""
    posterior = Posterior() if near is None else Posterior((near / typical_norm, 0.25))
    limit, rounds = subject.longest / typical_norm, []
    for n in range(most):
        x = min(limit, posterior.push_at(FLUENT if n == most - 1 else 0.8))
        made = yield sign * x * typical_norm
        rounds.append(made)
        posterior.update(x, made.fluent, made.replies)
        low, high = posterior.interval()
        if n and n < most - 1 and high - low <= 2 * NARROW * posterior.push_at(FLUENT):
            made = yield sign * min(limit, posterior.push_at(FLUENT)) * typical_norm
            rounds.append(made)
            posterior.update(abs(made.raw) / typical_norm, made.fluent, made.replies)
            break
    dose = min(limit, posterior.push_at(FLUENT))
    low, high = posterior.interval()
    return Curve(dose * typical_norm, (low * typical_norm, high * typical_norm), tuple(rounds))


@dataclass(eq=False)
class _Running:
    """A subject that is being measured: the search of its present sign, and what it waits for."""

    index: int
    subject: Subject
    signs: list[int]
    curves: dict[int, Curve]
    search: Search
    raw: float


def _curves(
    stages: Sequence[Rollouts],
    subjects: Sequence[Subject],
    decode: Decode,
    typical_norm: float,
    *,
    at_once: int,
    on_curve: Callable[[int, dict[int, Curve]], None] = lambda *_: None,
) -> list[dict[int, Curve]]:
    waiting, running = [*enumerate(subjects)], list[_Running]()
    found: dict[int, dict[int, Curve]] = {}
    turn = 0
    while waiting or running:
        while waiting and len(running) < at_once:
            i, subject = waiting.pop(0)
            search = _search(subject, subject.signs[0], typical_norm, ROUNDS, None)
            running.append(_Running(i, subject, [*subject.signs], {}, search, next(search)))
        stage = stages[turn % len(stages)]
        rolled = stage.run([r.subject.push(r.raw) for r in running], seed=stage.draw.seed + 1000 * turn, kl=False)
        turn += 1
        for run, rollout in zip([*running], rolled, strict=True):
            if _advance(run, _round(run.raw, rollout, stage.plain, decode), typical_norm):
                running.remove(run)
                found[run.index] = run.curves
                on_curve(run.index, run.curves)
    return [found[i] for i in range(len(subjects))]


def _advance(run: _Running, made: Round, typical_norm: float) -> bool:
    """Give a subject's search its round; return whether all its signs are done."""
    try:
        run.raw = run.search.send(made)
        return False
    except StopIteration as end:
        curve: Curve = end.value
        run.curves[run.signs.pop(0)] = curve
    if not run.signs:
        return True
    run.search = _search(run.subject, run.signs[0], typical_norm, ROUNDS_BELOW, curve.dose * 1.35)
    run.raw = next(run.search)
    return False


def _round(raw: float, rollout: Rollout, plain: Rollout, decode: Decode) -> Round:
    fluency = [judge(decode(ids), p).fluency for ids, p in zip(rollout.replies, rollout.logprobs, strict=True)]
    return Round(raw, sum(fluency), len(fluency), rollout, plain)


def _measurement(subject: Subject, curves: dict[int, Curve], null: Null | None, stamp: tuple[str, str]) -> MeasuredDose:
    first = subject.signs[0]
    main, compare = curves[first], null.read(subject.read) if null else None
    points = sorted((_point(r, subject, compare) for c in curves.values() for r in c.rounds), key=lambda p: p.raw)
    near = [r for r in main.rounds if abs(abs(r.raw) / main.dose - 1) <= NEAR_ONE] or [main.rounds[-1]]
    effect, z, p = _effect(subject, compare, near)
    knots = sorted({(0.0, 0.0), *((float(sign), round(sign * c.dose, 4)) for sign, c in curves.items())})
    calibration = Calibration(
        knots=tuple(knots),
        points=tuple(points),
        z=round(z, 2),
        p=p,
        limited_by="length" if main.dose >= 0.999 * subject.longest else "fluency",
        interval=(round(main.interval[0] / main.dose, 3), round(main.interval[1] / main.dose, 3)),
        replies=sum(r.replies for r in main.rounds),
        method="fluency",
        revision=stamp[1],
    )
    return MeasuredDose(main.dose, _sweet_spot(points, main.dose, first, effect, stamp[0]), calibration)


def _effect(
    subject: Subject, compare: NullReading | None, rounds: Sequence[Round]
) -> tuple[float, float, float | None]:
    """Effect, z and p; without a null distribution the effect alone."""
    return compare.effect(rounds) if compare else (effect_of(subject.read, rounds), 0.0, None)


def _point(made: Round, subject: Subject, compare: NullReading | None) -> Measured:
    effect, z, _ = _effect(subject, compare, [made])
    rolled = made.rollout
    return Measured(
        raw=round(made.raw, 4),
        effect=round(effect, 4),
        z=round(z, 2),
        surprise=round(float(made.plain.logprob.mean() - rolled.logprob.mean()), 4) if len(rolled.logprob) else 0.0,
        repetition=round(rolled.repetition - made.plain.repetition, 4),
        fluent=round(made.fluent / made.replies, 4),
        n=made.replies,
    )


def _sweet_spot(points: Sequence[Measured], dose: float, sign: int, full: float, date: str) -> SweetSpot | None:
    """Interval from where the effect can be seen (a quarter of that at dose 1.0) to dose 1.0; None without an effect."""
    if full <= 0:
        return None
    mine = sorted((abs(p.raw) / dose, p.effect / full) for p in points if p.raw * sign > 0)
    before = (0.0, 0.0)
    low = 1.0
    for x, share in mine:
        if share >= 0.25:
            low = before[0] + (x - before[0]) * (0.25 - before[1]) / max(share - before[1], 1e-6)
            break
        before = (x, max(0.0, share))
    low = min(0.95, max(0.05, low))
    n = sum(p.n for p in points if p.raw * sign > 0)
    ends = sorted((sign * round(low, 3), float(sign)))
    return SweetSpot(low=ends[0], high=ends[1], method="fluency", n=n, date=date)
