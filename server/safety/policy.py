"""Steering policy: authorizes what each role may steer; every request passes it before the engine.

Roles bound the total steering: the length of the sum, and the expected change of replies (the load;
KL grows with its square). Limits bound named features, each on either side of zero. They compare
directions and not names: the same direction under another number, from a preset's snapshot, as a
vector or as a sum of several counts as the feature itself. The engine is reached through `Admission`
only, with an `Authorization`, which only `authorize` makes.
"""

import math
import tomllib
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from server import validation
from server.auth.caller import Caller
from server.engines.base import Engine, Generation, TextPiece
from server.errors import ApiError
from server.settings import Settings
from server.store.models import Role
from server.telemetry import metrics
from steering.calibration import dose_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import Composition
from steering.catalogue.feature import Feature, dose_of, knots_of
from steering.catalogue.resolve import Applied, Resolved
from steering.edits import ResolvedIntervention, as_vector
from steering.errors import BadStrength, SteeringError
from steering.spec import Preset, SteeringSpec

Kinds = Literal["presets", "measured", "named", "any"]
SAME = 0.7
"""Minimum cosine at which a limit treats two features as one."""
ALIKE = 0.35
"""Cosine below which a direction does not count towards a limit: in narrow streams chance alone reaches it."""
SLACK = 1e-3
_DECIDED = object()
"""Marks the calls of `Authorization` that `authorize` makes."""


class Bounds(BaseModel):
    """Limits of a role; None for the server's own limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steers: Kinds = "any"
    """Presets only; also features with a measured dose; also all with a label; also the rest."""
    features: int | None = Field(default=None, ge=0)
    """Maximum number of features besides the preset's own."""
    load: float | None = Field(default=None, gt=0)
    """Maximum load of all doses together."""
    push: float | None = Field(default=None, gt=0)
    """Maximum summed push, in typical lengths of the stream."""
    layers: int | None = Field(default=None, ge=1)
    vectors: bool = True
    """Whether vectors from a user's own examples may steer."""


class Limit(BaseModel):
    """Allowed range of one feature, in doses; `low` 0 prevents negative steering."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str = Field(min_length=1)
    low: float = Field(default=-float("inf"), le=0)
    high: float = Field(default=float("inf"), ge=0)
    roles: tuple[Role, ...] = ("viewer", "user", "creator", "researcher")
    """Roles that the limit applies to."""
    reason: str = ""


class Policy(BaseModel):
    """Bounds by role, and limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: dict[Role, Bounds] = {}
    limit: tuple[Limit, ...] = ()

    def bounds(self, role: Role) -> Bounds:
        """Bounds of a role; the defaults unless the policy sets them."""
        return self.roles.get(role, DEFAULT_BOUNDS[role])

    @staticmethod
    def load(path: Path | None) -> "Policy":
        """Load a policy file; the default policy without one. Raises BadPolicy."""
        if path is None:
            return Policy()
        try:
            return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise BadPolicy(f"the policy {str(path)!r} cannot be read: {error}") from error
        except ValidationError as error:
            problem, said = validation.first_error(error.errors())
            where = ".".join(map(str, problem["loc"]))
            raise BadPolicy(f"the policy {str(path)!r}: {where}: {said}") from error


DEFAULT_BOUNDS: dict[Role, Bounds] = {
    "viewer": Bounds(steers="presets", features=0, load=1.85, push=1.0, layers=1, vectors=False),
    "user": Bounds(steers="measured", features=8, load=1.85, push=1.0, layers=1, vectors=False),
    "creator": Bounds(steers="named", features=16, load=2.5, push=1.5, vectors=False),
    "researcher": Bounds(),
    "admin": Bounds(),
}


DEFAULT_POLICY = Policy()


class BadPolicy(SteeringError):
    """Invalid policy file; the message names the location."""


@dataclass(frozen=True, eq=False)
class PolicyInput:
    """Input of a policy decision."""

    resolved: Resolved
    composition: Composition
    bundle: Bundle
    presets: tuple[Preset, ...] = ()
    """Presets that the features come from."""


@dataclass(frozen=True)
class Violation:
    """A violation of the policy: the rule, and how to comply."""

    name: str
    says: str
    param: str = "steering"


@dataclass(frozen=True)
class Authorization:
    """Decision that a tenant may steer one spec on one revision; only `authorize` makes it."""

    fingerprint: str
    revision: str
    tenant: str
    decided: InitVar[object] = None

    def __post_init__(self, decided: object) -> None:
        if decided is not _DECIDED:
            raise TypeError("only authorize() makes an Authorization")

    def covers(self, request: Generation) -> bool:
        """Whether the request is for the spec, revision and tenant that were authorized."""
        requested = (request.fingerprint, request.revision, request.tenant)
        return requested == (self.fingerprint, self.revision, self.tenant)


def authorize(policy: Policy, caller: Caller, steered: PolicyInput) -> Authorization:
    """Authorize a steering. Raises ApiError that names the rule."""
    for rule in (*_bounded(policy.bounds(caller.role), caller, steered), *_limited(policy, caller, steered)):
        metrics.refused.labels(rule.name).inc()
        raise ApiError(
            403,
            rule.says,
            code="policy_refused",
            param=rule.param,
            kind="permission_error",
            more={"rule": rule.name},
        )
    revision = steered.bundle.info.revision
    return Authorization(steered.resolved.fingerprint, revision, caller.subject() or "", _DECIDED)


@dataclass(frozen=True, eq=False)
class Admission:
    """Access to an engine: only authorized requests are generated."""

    engine: Engine

    async def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """Generate an authorized request. Raises NotDecided."""
        granted = request.authorization
        if not (isinstance(granted, Authorization) and granted.covers(request)):
            raise NotDecided("this steering was not authorized; nothing was generated")
        async with aclosing(self.engine.generate(request)) as pieces:
            async for piece in pieces:
                yield piece


def is_scaled_preset(spec: SteeringSpec, other: SteeringSpec) -> bool:
    """Whether two specs have the same features, with all strengths multiplied by one factor."""
    mine, theirs = ({(f.id, f.mode): f.strength for f in s.features} for s in (spec, other))
    if mine.keys() != theirs.keys() or not all(theirs.values()):
        return False
    factors = [mine[name] / theirs[name] for name in mine]
    same = max(factors) - min(factors) <= 1e-3 * max(1.0, abs(max(factors)))
    return same and min(factors) >= 0 and (max(factors) == 1 or all(mode == "add" for _, mode in mine))


def suggested_scale(scale: float) -> str:
    """The value rounded down to two digits, so that following the advice passes the check."""
    if not (math.isfinite(scale) and scale > 0):
        return "0"
    step = 10.0 ** (math.floor(math.log10(scale)) - 1)
    return f"{math.floor(scale / step + 1e-9) * step:.6g}"


class NotDecided(RuntimeError):
    """A bug: an unauthorized request reached the engine."""


def _bounded(bounds: Bounds, caller: Caller, steered: PolicyInput) -> Iterable[Violation]:
    applied, role = steered.resolved.applied, caller.role
    own = {f.id for p in steered.presets for f in p.steering.features}
    added = [a for a in applied if a.feature.id not in own]
    if bounds.features is not None and len(added) > bounds.features:
        says = f"{len(added)} features beside the preset's; a {role!r} steers at most {bounds.features}"
        yield Violation("features", says, "steering.features")
    for a in added:
        if not _steers(bounds.steers, a):
            yield Violation(
                "kind", f"{a.feature.id!r}: a {role!r} {ALLOWED_STEERING[bounds.steers]}", "steering.features"
            )
    if bounds.steers == "presets" and not _as_they_are(steered):
        says = f"a {role!r} {ALLOWED_STEERING[bounds.steers]}, with all of a preset's features scaled by one factor"
        yield Violation("kind", says, "steering.features")
    if not bounds.vectors and any(a.vector for a in applied):
        yield Violation(
            "vectors",
            f"a {role!r} does not steer by vectors; that requires a key with the role 'researcher'",
            "steering.features",
        )
    layers = {a.layer for a in applied}
    if bounds.layers is not None and len(layers) > bounds.layers:
        yield Violation("layers", f"{len(layers)} layers at once; a {role!r} steers at most {bounds.layers}")
    load, push = steered.composition.load, max(steered.resolved.push_norm.values(), default=0.0)
    more_load, more_push = _multiplied(steered)
    load, push = load + more_load, push + more_push
    scale = steered.resolved.spec.scale
    for name, value, most in (("load", load, bounds.load), ("push", push, bounds.push)):
        if most is not None and not value <= most + SLACK:
            says = f"the {name} is {value:.3g}; the maximum for a {role!r} is {most:g}: lower the strengths, or set steering.scale to {suggested_scale(scale * most / value)}"
            yield Violation(name, says)


ALLOWED_STEERING: dict[Kinds, str] = {
    "presets": "steers by presets as they are; GET /v1/presets lists them",
    "measured": "steers by features with a measured dose; GET /v1/features?calibrated=true lists them",
    "named": "steers by features that have a name; GET /v1/features lists them",
    "any": "steers by anything",
}


def _steers(kinds: Kinds, a: Applied) -> bool:
    if kinds == "measured":
        told = a.feature.calibration
        return a.measured and (told is None or told.works)
    return kinds == "any" or (kinds == "named" and bool(a.feature.label or a.vector))


def _as_they_are(steered: PolicyInput) -> bool:
    """Whether a spec consists of whole presets with positive scales, at their own tokens."""
    spec, theirs = steered.resolved.spec, [p.steering for p in steered.presets]
    known = {f.id for s in theirs for f in s.features}
    if any(f.id not in known for f in spec.features) or spec.scale < 0:
        return False
    for one in theirs:
        ids = {f.id for f in one.features}
        mine = spec.model_copy(update={"features": tuple(f for f in spec.features if f.id in ids)})
        if spec.unit != one.unit or not is_scaled_preset(mine, one):
            return False
    return not theirs or (spec.where, spec.norm) in {(s.where, s.norm) for s in theirs}


def _multiplied(steered: PolicyInput) -> tuple[float, float]:
    """Growth of load and push if features that are multiplied or inverted are at their maximum activation.

    Ablation only removes an activation that is present, so a gate between 0 and 1 adds nothing.
    """
    bundle, extra, doses = steered.bundle, [], []
    for a, item in _items(steered):
        if 0 <= item.gate <= 1 + SLACK:
            continue
        raw = -item.gate * a.feature.typical_max
        extra.append(raw * _direction(item, bundle))
        doses.append(dose_at(raw, knots_of(a.feature, dose_of(a.feature, bundle.info))) * _direction(item, bundle))
    if not extra:
        return 0.0, 0.0
    push = float(torch.stack(extra).sum(0).norm()) / bundle.info.typical_norm
    return float(torch.stack(doses).sum(0).norm()), push


def _limited(policy: Policy, caller: Caller, steered: PolicyInput) -> Iterable[Violation]:
    for limit in policy.limit:
        if caller.role in limit.roles and (says := _broken(limit, steered)):
            reason = f" ({limit.reason})" if limit.reason else ""
            yield Violation("limit", f"{limit.feature!r} is limited here{reason}: {says}", "steering.features")


def _broken(limit: Limit, steered: PolicyInput) -> str:
    """How a spec violates a limit; empty if it does not."""
    bundle, raw, least = steered.bundle, 0.0, max(ALIKE, 4 / steered.bundle.sae.d_in**0.5)
    found = bundle.numbered.get(int(n)) if (n := limit.feature.rpartition("/")[2]).isdecimal() else None
    here = found and limit.feature == found.id
    for a, item in _items(steered):
        named = a.feature.id == limit.feature
        cosine = (
            1.0
            if named
            else float(_direction(item, bundle) @ bundle.sae.W_dec[found.row].float().cpu())
            if found and here
            else 0.0
        )
        if abs(cosine) < least:
            continue
        raw += item.target * cosine
        if abs(cosine) >= SAME and (says := _gated(limit, a, item)):
            return says
    for whole in (raw, _together(steered, found, least) if found and here else 0.0):
        dose = dose_at(whole, knots_of(found, dose_of(found, bundle.info))) if found and here else whole
        if not limit.low - SLACK <= dose <= limit.high + SLACK:
            return f"the total along its direction is a dose of {dose:+.2f}; {limit.low:g} to {limit.high:g} is allowed"
    return ""


def _together(steered: PolicyInput, limited: Feature, least: float) -> float:
    """Total push along the limited feature's direction, counted if it exceeds chance: many features
    with small cosines can add up."""
    pushes = [item.target * _direction(item, steered.bundle) for _, item in _items(steered)]
    total = torch.stack(pushes).sum(0) if pushes else torch.zeros(steered.bundle.sae.d_in)
    along = float(total @ steered.bundle.sae.W_dec[limited.row].float().cpu())
    return along if abs(along) >= least * float(total.norm()) else 0.0


def _gated(limit: Limit, a: Applied, item: ResolvedIntervention) -> str:
    """Ablating a live activation lowers the features along it; multiplying it raises them."""
    kept = 1 - item.gate
    if kept < 1 - SLACK and limit.low > -1:
        return f"{a.feature.id!r} would be removed ({a.mode}), and it may not be turned down so far"
    if kept > 1 + SLACK and limit.high < float("inf"):
        return f"{a.feature.id!r} would be multiplied, and it may not be turned up freely"
    if kept < -SLACK:
        return f"{a.feature.id!r} would be inverted"
    return ""


def _items(steered: PolicyInput) -> Iterable[tuple[Applied, ResolvedIntervention]]:
    by_layer = {hook: list(items) for hook, items in steered.resolved.interventions.items()}
    hook = steered.bundle.info.hook
    there = [a for a in steered.resolved.applied if a.layer == steered.bundle.layer]
    return zip(there, by_layer.get(hook, ()), strict=True)


def _direction(item: ResolvedIntervention, bundle: Bundle) -> Tensor:
    if item.pinned:
        found = as_vector(item.pinned.direction, bundle.sae.d_in).float().cpu()
        return found / torch.linalg.vector_norm(found).clamp_min(1e-12)
    return bundle.sae.W_dec[item.index].float().cpu()


MAX_FACTOR = 100.0
"""Policy: maximum factor on a live activation."""


def check_policy(resolved: Resolved, settings: Settings, *, scale: float = 1.0) -> None:
    """Check the steering against the policy, under `scale`. Raises BadStrength with the allowed maximum."""
    for hook, norm in resolved.push_norm.items():
        most = settings.max_push
        if not norm <= most:
            raise BadStrength(
                f"the summed push at {hook} is {norm:.3g} typical lengths of the stream; at most {most:g} are allowed: "
                f"lower the strengths, set steering.scale to {suggested_scale(scale * most / norm)}, or steering.over_budget to 'cut'"
            )
    for edit in resolved.edits.values():
        # With a clamp the master scale is applied apart, so only the gates give the factor on a
        # live activation.
        factor = float((1 - edit.gate).abs().max()) if len(edit.gate) else 0.0
        if not factor <= MAX_FACTOR:
            raise BadStrength(
                f"a live activation would be multiplied by {factor:.3g}; at most {MAX_FACTOR:g} is allowed: "
                "lower the strength of the scale, or steering.scale"
            )
