"""Steering choice: the resolved steering of a request, and how its reply reports it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.auth.caller import ANYONE, Caller
from server.engines.base import Generation, Sampling
from server.safety.guards import Verdict
from steering.catalogue.composition import Composition
from steering.catalogue.resolve import Applied, Resolved
from steering.model.chat_template import EncodedChat
from steering.spec import FeatureSnapshot, Preset

GUARD_MESSAGES = {
    "unsteered": "the model itself would refuse this, so it was not steered",
    "refused": "the server does not answer this prompt",
}


@dataclass(frozen=True)
class SteeringWarning:
    """A warning about something that was done as requested."""

    code: str
    feature: str
    message: str


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
    ticket: str = ""
    """The policy's authorization."""
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
        """The engine's request: the scope decides which prompt tokens are steered."""
        n, scope = len(chat.ids), self.resolved.spec.scope
        # The first new token is sampled at the last prompt token, so `generated` begins there.
        steered = {"assistant": chat.assistant, "all": (True,) * n, "generated": (False,) * (n - 1) + (True,)}[scope]
        return Generation(
            chat.ids,
            steered,
            True,
            self.resolved.edits,
            self.resolved.fingerprint,
            interventions=self.resolved.interventions,
            revision=self.revision,
            tenant=self.caller.subject() or "",
            sampling=sampling,
            ticket=self.ticket,
        )

    def applied_summary(self) -> dict[str, Any]:
        """Steering that was applied, as every reply reports it."""
        spec = self.resolved.spec
        summary = (
            {} if self.verdict is None else {"guards": self.verdict.to_dict(scores=self.caller.has_role("researcher"))}
        )
        return (
            summary
            | {
                "hash": self.resolved.fingerprint,
                "unit": spec.unit,
                "scope": spec.scope,
                "revision": self.revision,
                "preset": self.preset.id if self.preset else None,
                "default": self.default.id if self.default else None,
                "applied": [_applied_to_dict(a) for a in self.resolved.applied],
                "load": self.composition.load,
                "predicted": self.composition.verdict,
                "warnings": [w.__dict__ for w in self.warnings()],
            }
            | ({"cut": self.cut} if self.cut is not None else {})
        )

    def warnings(self) -> list[SteeringWarning]:
        """Warnings about doses, about combinations of features, and about a cut."""
        its_own = {f.id for p in self.presets for f in p.steering.features}
        found = [
            w
            for a in self.resolved.applied
            for w in _dose_warnings(a, self.revision, of_preset=a.feature.id in its_own)
        ]
        found += [SteeringWarning("overlap", o.one, o.says) for o in self.composition.overlaps]
        if self.verdict and self.verdict.outcome != "as asked":
            found.append(SteeringWarning("guards", "", GUARD_MESSAGES[self.verdict.outcome]))
        if self.cut is not None:
            says = f"all strengths are multiplied by {self.cut:.3g}, so that the summed push is as long as is allowed"
            found.append(SteeringWarning("cut", "", says))
        return found


def _dose_warnings(a: Applied, revision: str, *, of_preset: bool) -> list[SteeringWarning]:
    found, name = [], a.feature.label or a.feature.id
    if a.gone and not a.vector:
        kept = f"{name}: revision {revision} has it no more; what was saved with the preset steers"
        found.append(SteeringWarning("retired", a.feature.id, kept))
    if a.mode in ("scale", "ablate"):
        return found  # these have no dose
    if not a.measured:
        message = f"{name}: its dose was not measured; 1.0 is half of a typical length"
        return [*found, SteeringWarning("not_measured", a.feature.id, message)]
    calibration = a.feature.calibration
    if (
        calibration and calibration.points and not calibration.works and not of_preset
    ):  # a preset is made of features that work together
        message = f"{name}: no dose of it had an effect that a random direction does not have"
        found.append(SteeringWarning("no_effect", a.feature.id, message))
    edge = max(abs(a.spot.low), abs(a.spot.high)) if a.spot else 1.0
    if abs(a.dose) > edge + 1e-6:
        message = f"{name}: dose {a.dose:.2f} is beyond what stays coherent"
        found.append(SteeringWarning("above_sweet_spot", a.feature.id, message))
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


def _applied_to_dict(a: Applied) -> dict[str, Any]:
    return {
        "id": a.feature.id,
        "label": a.feature.label,
        "mode": a.mode,
        "strength": a.strength,
        "dose": round(a.dose, 4),
        "max": round(a.max, 4),
        "raw": round(a.raw, 4),
        "layer": a.layer,
        "in_sweet_spot": a.in_sweet_spot,
        "measured": a.measured,
    } | ({"vector": True} if a.vector else {"retired": True} if a.gone else {})
