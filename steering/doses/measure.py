"""Dose calibration: search for dose 1.0 of a feature, its dose–response curve and its sweet spot.

Each push is evaluated on fixed prompts (`rollouts`): KL to the unsteered model at every generated token, surprise,
repetition, and the log-odds of the feature's own words (`interpret.feature_words`). Dose 1.0 is the largest push whose
95th percentile of KL is at most one nat and that does not repeat itself (EVALUATION: iso-KL, as in steering-lite). It
is searched for by a secant method in log KL over log strength, in five evaluations at most, and in three for the other
sign. Features are evaluated together, so that a batch holds many pushes.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steering.calibration import Calibration, Limit, Measured, SweetSpot
from steering.doses.rollouts import Rollout, Rollouts
from steering.edits import ResidualEdit

WORST = 0.95
"""Quantile of the tokens' KL that may be at most a nat."""
NAT, NEAR = 1.0, 0.85
"""A push is large enough once its KL is between these."""
REPEATS = 0.10
"""By how much the repetition of a steered reply may exceed that of an unsteered one."""
SURPRISE = 0.5
"""Nats per token, either way, up to which a reply counts as good."""
EFFECT, SURE = 0.1, 2.0
"""Least effect: in nats of log-odds, and in standard deviations of random directions' effects."""
FORWARD, BACKWARD = 5, 3
"""Most evaluations for each sign; eight in all."""
BELOW = 0.75
"""A curve needs a point at this share of the dose or less."""
GRID = (0.25, 0.5, 0.75, 1.0)
RANDOM = 8

Push = Callable[[float], ResidualEdit]
"""Maps a raw strength to an edit."""
Search = Generator[float, Measured, Calibration]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: how it is pushed, its words, and the largest push."""

    push: Push
    words: Int[Tensor, " words"]
    start: float
    """A raw strength that is likely to have an effect."""
    longest: float
    """Largest push that is tried."""
    signs: tuple[int, ...] = (1, -1)


@dataclass
class MeasuredDose:
    """Result of a calibration."""

    dose: float
    """Raw strength of dose 1.0."""
    sweet_spot: SweetSpot | None
    calibration: Calibration


def calibrate(
    stage: Rollouts,
    subjects: Sequence[Subject],
    null: "Null | None" = None,
    *,
    at_once: int = 8,
    stamp: tuple[str, str] = ("", ""),
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[MeasuredDose]:
    """Measure every subject, `at_once` of them in a batch. `stamp` is the date and the SAE's revision.

    Without words an effect cannot be measured: such a subject gets a dose and no sweet spot. `on_progress` is called with the
    number of subjects done.
    """
    waiting = [(i, s, _search(s, null, stamp)) for i, s in enumerate(subjects)]
    running: list[tuple[int, Subject, Search, float]] = []
    found: dict[int, MeasuredDose] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            i, subject, search = waiting.pop(0)
            running.append((i, subject, search, next(search)))
        measured = evaluate(stage, [(s, raw) for _, s, _, raw in running])
        still = []
        for (i, subject, search, _), point in zip(running, measured, strict=True):
            try:
                still.append((i, subject, search, search.send(point)))
            except StopIteration as end:
                found[i] = _measurement(end.value, stage, stamp[0])
                on_progress(len(found))
        running = still
    return [found[i] for i in range(len(subjects))]


def evaluate(stage: Rollouts, asked: Sequence[tuple[Subject, float]]) -> list[Measured]:
    """Return the measurements of each push, all of them in one batch."""
    edits = [s.push(raw) for s, raw in asked]
    rolled, effects = stage.run(edits), stage.effects(edits, [s.words for s, _ in asked if len(s.words)] or [_NONE])
    own = _positions_of([s for s, _ in asked])
    return [
        _measured(stage, raw, r, effects[i][own[i]] if own[i] is not None else None)
        for i, ((_, raw), r) in enumerate(zip(asked, rolled, strict=True))
    ]


@dataclass(frozen=True, eq=False)
class Null:
    """Null distribution: effects of random directions on the same words at the same KL; mean and spread per list of
    words.
    """

    mean: Float[Tensor, " lists"]
    spread: Float[Tensor, " lists"]
    lists: dict[tuple[int, ...], int] = field(default_factory=dict)

    @staticmethod
    def measure(
        stage: Rollouts, words: Sequence[Int[Tensor, " words"]], typical_norm: float, *, seed: int = 0
    ) -> "Null":
        """Push along `RANDOM` random directions, both ways, each to the same limit of KL."""
        lists = {tuple(w.tolist()): i for i, w in enumerate(words) if len(w)}
        order = [torch.tensor(w) for w in lists]
        lists = {w: i for i, w in enumerate(lists)}
        if not order:
            return Null(torch.zeros(0), torch.ones(0), {})
        d = _width(stage)
        g = torch.Generator().manual_seed(seed)
        directions = torch.nn.functional.normalize(torch.randn(RANDOM, d, generator=g), dim=1).to(stage.model.device)
        subjects = [
            Subject(pushes_along(u), _NONE, 0.25 * typical_norm, 2 * typical_norm, signs=(1,))
            for u in torch.cat([directions, -directions])
        ]
        doses = [f.dose for f in calibrate(stage, subjects)]
        effects = torch.stack(
            [stage.effects([s.push(dose)], order)[0].mean(1) for s, dose in zip(subjects, doses, strict=True)]
        )
        return Null(effects.mean(0), effects.std(0).clamp(min=0.02), lists)

    def z(self, words: Tensor, effect: float) -> float:
        """Return an effect's distance from the mean of random directions, in their standard deviations."""
        i = self.lists.get(tuple(words.tolist()))
        return 0.0 if i is None else float((effect - self.mean[i]) / self.spread[i])


def pushes_along(direction: Float[Tensor, " d_in"]) -> Push:
    """Return pushes along one direction."""
    none = direction.new_zeros(0)
    rows = direction.new_zeros(0, len(direction))
    return lambda raw: ResidualEdit(raw * direction, rows, none, none, rows, none)


def pushes_scaled(edit: ResidualEdit) -> Push:
    """Return pushes that multiply a whole spec's edit."""
    return lambda raw: replace(edit, push=raw * edit.push, gate=raw * edit.gate)


def _search(subject: Subject, null: Null | None, stamp: tuple[str, str]) -> Search:
    points: list[Measured] = []
    limits: dict[int, Limit] = {}
    doses: dict[int, float] = {}
    for sign in subject.signs:
        tries = FORWARD if sign > 0 else BACKWARD
        start = subject.start if sign > 0 else doses.get(1, subject.start)
        seen: list[Measured] = []
        raw = min(start, subject.longest)
        while len(seen) < tries:
            seen.append((yield sign * raw))
            if _is_large_enough(seen[-1]):
                break
            raw = _next_raw(seen, subject.longest)
            if any(math.isclose(raw, abs(p.raw), rel_tol=0.02) for p in seen):
                break
        doses[sign], limits[sign] = _largest_good(seen, subject.longest)
        points += seen
    first = subject.signs[0]
    if len(points) < FORWARD + BACKWARD and not any(0 < first * p.raw <= BELOW * doses[first] for p in points):
        points.append((yield first * 0.5 * doses[first]))
    return _calibration(subject, points, doses, limits[subject.signs[0]], null, stamp)


def _is_large_enough(p: Measured) -> bool:
    return NEAR <= p.kl <= NAT and p.repetition <= REPEATS


def _next_raw(seen: Sequence[Measured], longest: float) -> float:
    """Secant step of log KL over log strength towards the middle of the accepted interval, within the known bounds."""
    good = [p for p in seen if _is_coherent(p)]
    bad = [p for p in seen if not _is_coherent(p)]
    low = max((abs(p.raw) for p in good), default=0.0)
    high = min((abs(p.raw) for p in bad), default=math.inf)
    aim, last = math.log(0.5 * (NAT + NEAR)), seen[-1]
    slope = 2.0  # for small pushes KL grows with the square
    if len(seen) > 1:
        before = seen[-2]
        run = math.log(abs(last.raw) / abs(before.raw))
        if abs(run) > 1e-6:
            slope = min(6.0, max(0.7, (_log_kl(last) - _log_kl(before)) / run))
    step = math.exp((aim - _log_kl(last)) / slope)
    raw = abs(last.raw) * min(5.0, max(0.2, step))
    if not low < raw < high:
        raw = math.sqrt(low * high) if low and high < math.inf else 0.5 * high if high < math.inf else 3 * low
    return min(raw, longest)


def _log_kl(p: Measured) -> float:
    return math.log(max(p.kl, 1e-6))


def _is_coherent(p: Measured) -> bool:
    return p.kl <= NAT and p.repetition <= REPEATS


def _largest_good(seen: Sequence[Measured], longest: float) -> tuple[float, Limit]:
    """Return the largest coherent push, else an estimate below the smallest incoherent one, by the square law of KL."""
    good = [p for p in seen if _is_coherent(p)]
    bad = [p for p in seen if not _is_coherent(p)]
    repeats = any(p.kl <= NAT for p in bad)
    if good:
        best = max(good, key=lambda p: abs(p.raw))
        reached = math.isclose(abs(best.raw), longest, rel_tol=1e-6)
        return abs(best.raw), "repetition" if repeats else "length" if reached and best.kl < NEAR else "kl"
    least = min(bad, key=lambda p: abs(p.raw))
    by_kl = math.sqrt(NEAR / max(least.kl, NEAR))
    return abs(least.raw) * min(0.7, by_kl), "repetition" if repeats else "kl"


def _calibration(
    subject: Subject,
    points: list[Measured],
    doses: dict[int, float],
    limit: Limit,
    null: Null | None,
    stamp: tuple[str, str],
) -> Calibration:
    first = subject.signs[0]
    full = _effect_at(points, first * doses[first])
    z = null.z(subject.words, first * full) if null and len(subject.words) else 0.0
    works = bool(len(subject.words)) and first * full >= EFFECT and (null is None or z >= SURE)
    knots = [(0.0, 0.0)]
    for sign in subject.signs:
        side = [(sign * d, sign * r) for d, r in _knots_of_sign(points, sign, doses[sign])]
        knots = [*knots, *side] if sign > 0 else [*reversed(side), *knots]
    ordered = tuple((round(d, 4), round(r, 4)) for d, r in knots)
    negative = _sweet_spot(points, -1, doses[-1], stamp[0], 0) if -1 in doses and works else None
    rows = tuple(sorted((_rounded(p) for p in points), key=lambda p: p.raw))
    return Calibration(
        knots=ordered, points=rows, works=works, z=round(z, 2), limited_by=limit, negative=negative, revision=stamp[1]
    )


def _knots_of_sign(points: Sequence[Measured], sign: int, dose: float) -> list[tuple[float, float]]:
    """Return the knots of one sign: the strength at which each share of the effect at dose 1.0 is reached.

    The measured effects are made monotone (pool adjacent violators), with linear interpolation; a straight line if
    there is no positive effect.
    """
    mine = sorted((abs(p.raw), sign * p.effect) for p in points if p.raw * sign > 0 and abs(p.raw) <= dose * 1.0001)
    xs, ys = [0.0, *(x for x, _ in mine)], [0.0, *(y for _, y in mine)]
    if not mine or not math.isclose(xs[-1], dose, rel_tol=1e-3) or ys[-1] <= 0:
        return [(g, g * dose) for g in GRID]
    ys = _isotonic(ys)
    if ys[-1] <= 0:
        return [(g, g * dose) for g in GRID]
    straight = 0.1  # a tenth of a straight line is added, so that a flat part of the curve still has an inverse
    shares = [(1 - straight) * y / ys[-1] + straight * x / dose for x, y in zip(xs, ys, strict=True)]
    return [(g, _interpolated(g, shares, xs)) for g in GRID[:-1]] + [(1.0, dose)]


def _isotonic(values: Sequence[float]) -> list[float]:
    """Isotonic regression by pool adjacent violators: the nearest non-decreasing sequence."""
    blocks: list[list[float]] = []
    for v in values:
        blocks.append([v, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    return [v for v, n in blocks for _ in range(int(n))]


def _interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    for (a, b), (c, d) in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False):
        if x <= c:
            return d if c == a else b + (d - b) * (x - a) / (c - a)
    return ys[-1]


def _sweet_spot(points: Sequence[Measured], sign: int, dose: float, date: str, n: int) -> SweetSpot | None:
    """Interval from the least measurable effect to where replies stop being good; None if it is empty."""
    side = _knots_of_sign(points, sign, dose)
    full = sign * _effect_at(points, sign * dose)
    if full < EFFECT:
        return None
    good = [abs(p.raw) for p in points if p.raw * sign > 0 and _is_coherent(p) and abs(p.surprise) <= SURPRISE]
    low, high = max(0.05, EFFECT / full), 1.0
    strained = [abs(p.raw) for p in points if p.raw * sign > 0 and abs(p.surprise) > SURPRISE and _is_coherent(p)]
    if strained:
        top = max((g for g in good if g < min(strained)), default=0.5 * min(strained))
        high = min(1.0, _interpolated(top, [0.0, *(r for _, r in side)], [0.0, *(d for d, _ in side)]))
    if low > high:
        return None
    low, high = sorted((sign * round(low, 3), sign * round(high, 3)))
    return SweetSpot(low=low, high=high, method="dose-response", n=n, date=date)


def _measurement(c: Calibration, stage: Rollouts, date: str) -> MeasuredDose:
    first = 1 if c.knots[-1][0] > 0 else -1
    dose = abs(c.knots[-1][1] if first > 0 else c.knots[0][1])
    spot = _sweet_spot(c.points, first, dose, date, stage.prompts) if c.works else None
    if c.negative:
        c = c.model_copy(update={"negative": c.negative.model_copy(update={"n": stage.prompts})})
    return MeasuredDose(dose, spot, c)


def _measured(stage: Rollouts, raw: float, r: Rollout, effect: Tensor | None) -> Measured:
    return Measured(
        raw=raw,
        effect=float(effect.mean()) if effect is not None else 0.0,
        kl=float(r.kl.quantile(WORST)) if len(r.kl) else 0.0,
        surprise=float(stage.plain.logprob.mean() - r.logprob.mean()),
        repetition=r.repetition - stage.plain.repetition,
    )


def _effect_at(points: Sequence[Measured], raw: float) -> float:
    return min(points, key=lambda p: abs(p.raw - raw)).effect


def _positions_of(subjects: Sequence[Subject]) -> list[int | None]:
    found: list[int | None] = []
    n = 0
    for s in subjects:
        found.append(n if len(s.words) else None)
        n += bool(len(s.words))
    return found


def _rounded(p: Measured) -> Measured:
    return Measured(**{k: round(v, 4) for k, v in p.model_dump().items()})


def _width(stage: Rollouts) -> int:
    config: Any = stage.model.config.get_text_config()
    return int(config.hidden_size)


_NONE = torch.zeros(0, dtype=torch.long)
