"""Steering choice: the resolved steering of a request, and how its reply reports it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.auth.caller import ANYONE, Caller
from server.engines.base import Generation, Sampling
from server.safety.guards import Verdict
from server.safety.policy import Authorization
from server.schemas import completions
from server.schemas.completions import Steering, Warned
from steering.catalogue.composition import Composition
from steering.catalogue.resolve import Applied, Resolved
from steering.model.chat_template import EncodedChat
from steering.spec import FeatureSnapshot, Preset

GUARD_MESSAGES = {
    "unsteered": "the model itself would refuse this, so it was not steered",
    "refused": "the server does not answer this prompt",
}


@dataclass(frozen=True, eq=False)
class SteeringChoice:
    """A resolved request: what to steer, and how to report it."""

    model: str
    preset: Preset | None
    resolved: Resolved
    revision: str
    composition: Composition
    coherence: bool = False
    cut: float | None = None
    """Factor on all strengths, if the summed push was too long and the caller asked for `cut`."""
    pins: Mapping[str, FeatureSnapshot] = field(default_factory=dict)
    """The preset's snapshots and the user's own vectors, as used for resolving."""
    authorization: Authorization | None = None
    """The policy's decision."""
    caller: Caller = ANYONE
    default: Preset | None = None
    """The operator's default preset, if the request leaves it on; it is merged in below everything else."""
    verdict: Verdict | None = None
    """The guards' verdict; None without guards."""
    like: Preset | None = None
    """A preset with the same steering, if none was named: a page sends sliders."""

    @property
    def presets(self) -> tuple[Preset, ...]:
        """Presets that features come from."""
        return tuple(p for p in (self.default, self.preset, self.like) if p)

    def generation_request(self, chat: EncodedChat, sampling: Sampling) -> Generation:
        """The engine's request, with the prompt tokens that are steered. Raises BadPosition."""
        where = self.resolved.spec.where
        steered = chat.steered(where)
        by_place = where.scope in ("generated", "positions") or (chat.raw and where.scope == "assistant")
        return Generation(
            chat.ids,
            steered,
            where.scope != "positions",
            self.resolved.edits,
            self.resolved.fingerprint,
            interventions=self.resolved.interventions,
            revision=self.revision,
            tenant=self.caller.subject() or "",
            sampling=sampling,
            authorization=self.authorization,
            unsteered_new=chat.special_ids if where.skip_special else frozenset(),
            marks=marks_key(steered) if by_place and self.resolved.edits else "",
        )

    def applied_summary(self) -> Steering:
        """Steering that was applied, as every reply reports it; what does not apply is unset."""
        spec = self.resolved.spec
        optional: dict[str, Any] = {} if self.cut is None else {"cut": self.cut}
        optional |= {"positions": spec.positions} if spec.positions else {}
        optional |= {"norm": spec.norm} if spec.norm != "free" else {}
        if self.verdict is not None:
            optional["guards"] = self.verdict.report(scores=self.caller.has_role("researcher"))
        return Steering(
            hash=self.resolved.fingerprint,
            unit=spec.unit,
            scope=spec.scope,
            skip_special=spec.skip_special,
            revision=self.revision,
            preset=self.preset.id if self.preset else None,
            default=self.default.id if self.default else None,
            applied=[_applied(a) for a in self.resolved.applied],
            load=self.composition.load,
            predicted=self.composition.verdict,
            warnings=self.warnings(),
            **optional,
        )

    def warnings(self) -> list[Warned]:
        """Warnings about doses, about combinations of features, and about a cut."""
        its_own = {f.id for p in self.presets for f in p.steering.features}
        found = [
            w
            for a in self.resolved.applied
            for w in _dose_warnings(a, self.revision, of_preset=a.feature.id in its_own)
        ]
        found += [Warned(code="overlap", feature=o.one, message=o.says) for o in self.composition.overlaps]
        if self.verdict and self.verdict.outcome != "as asked":
            found.append(Warned(code="guards", feature="", message=GUARD_MESSAGES[self.verdict.outcome]))
        if self.cut is not None:
            says = f"all strengths are multiplied by {self.cut:.3g}, so that the summed push is as long as is allowed"
            found.append(Warned(code="cut", feature="", message=says))
        return found


def marks_key(steered: Sequence[bool]) -> str:
    """A name of a mask of steered tokens."""
    return hashlib.sha256(bytes(steered)).hexdigest()[:16]


def _dose_warnings(a: Applied, revision: str, *, of_preset: bool) -> list[Warned]:
    found, name = [], a.feature.label or a.feature.id
    if a.gone and not a.vector:
        kept = f"{name}: revision {revision} has it no more; what was saved with the preset steers"
        found.append(Warned(code="retired", feature=a.feature.id, message=kept))
    if a.mode in ("scale", "ablate"):
        return found  # these have no dose
    if not a.measured:
        said = f"{name}: its dose was not measured; 1.0 is half of a typical length"
        return [*found, Warned(code="not_measured", feature=a.feature.id, message=said)]
    told = a.feature.calibration
    if told and told.points and not told.works and not of_preset:  # a preset is made of features that work together
        said = f"{name}: no dose of it had an effect that a random direction does not have"
        found.append(Warned(code="no_effect", feature=a.feature.id, message=said))
    edge = max(abs(a.spot.low), abs(a.spot.high)) if a.spot else 1.0
    if abs(a.dose) > edge + 1e-6:
        said = f"{name}: dose {a.dose:.2f} is beyond what stays coherent"
        found.append(Warned(code="above_sweet_spot", feature=a.feature.id, message=said))
    return found


def steering_headers(choices: Sequence[SteeringChoice]) -> dict[str, str]:
    """Headers that tell proxies whether a reply was steered, and by what; several values in sequence."""
    row = {
        "X-Tiller-Steered": ["true" if any(c.resolved.spec.features for c in choices) else "false"],
        "X-Tiller-Steering": [c.resolved.fingerprint for c in choices],
        "X-Tiller-Revision": [c.revision for c in choices],
        "X-Tiller-Preset": [c.preset.id for c in choices if c.preset],
    }
    return {name: ", ".join(dict.fromkeys(each)) for name, each in row.items() if each}


def _applied(a: Applied) -> completions.Applied:
    optional = {"vector": True} if a.vector else {"retired": True} if a.gone else {}
    return completions.Applied(
        id=a.feature.id,
        label=a.feature.label,
        mode=a.mode,
        strength=a.strength,
        dose=round(a.dose, 4),
        max=round(a.max, 4),
        raw=round(a.raw, 4),
        layer=a.layer,
        in_sweet_spot=a.in_sweet_spot,
        measured=a.measured,
        **optional,
    )
