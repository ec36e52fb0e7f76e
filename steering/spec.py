"""What to steer: pure values. Knows nothing of tensors, models or files.

A `SteeringSpec` is the only thing that travels from a slider to the model. Two specs that do the same
have the same canonical form and so, mostly, the same fingerprint.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from steering.calibration import Calibration, SweetSpot
from steering.errors import BadStrength

Mode = Literal["add", "clamp", "scale", "ablate"]
Unit = Literal["dose", "max", "raw"]
Scope = Literal["assistant", "all", "generated"]

MAX_FEATURES = 32
VECTOR = "vector/"
"""What the ids of named vectors begin with; they are no bundle's."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intervention(_Value):
    """One feature, what to do to it, and how much."""

    id: str = Field(min_length=1, max_length=256)
    """`<bundle>/<index>`, or `vector/<name>`"""
    strength: float = Field(default=1.0, allow_inf_nan=False)
    """In the spec's unit; for `scale` a plain factor, for `ablate` unused."""
    mode: Mode = "add"

    @property
    def is_identity(self) -> bool:
        """Whether the model would run just as it does without this."""
        return (self.mode == "add" and self.strength == 0) or (self.mode == "scale" and self.strength == 1)


def _each_once(features: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    ids = [f.id for f in features]
    if repeated := next((i for i in ids if ids.count(i) > 1), None):
        first, second = [n for n, i in enumerate(ids) if i == repeated][:2]
        raise ValueError(
            f"{repeated!r} is there twice, at {first} and at {second}; keep one, with the strength it is to have"
        )
    return features


Features = Annotated[tuple[Intervention, ...], Field(max_length=MAX_FEATURES), AfterValidator(_each_once)]
"""Each of them once."""


class SteeringSpec(_Value):
    """Interventions that act together, the unit of their strengths, and which tokens they touch."""

    features: Features = ()
    unit: Unit = "dose"
    scale: float = Field(default=1.0, allow_inf_nan=False)
    """Multiplies the whole edit: 0 is unsteered, 0.5 half of every push."""
    scope: Scope = "assistant"

    def canonical(self) -> "SteeringSpec":
        """Return the same steering, said in the one way that all equal specs share.

        What does nothing is dropped, a `clamp` to 0 is an `ablate`, features stand in the order of
        their ids, and `scale` is folded into the strengths where that is exact: everywhere but
        beside a `clamp`, whose target and gate would need one strength each.
        """
        kept = [_canonical(f) for f in self.features if not f.is_identity] if self.scale else []
        fold = not any(f.mode == "clamp" for f in kept)
        if fold:
            kept = [g for f in kept if not (g := _scaled(f, self.scale)).is_identity]
        return SteeringSpec(
            features=tuple(sorted(kept, key=lambda f: f.id)),
            unit=self.unit if kept else "dose",
            scale=1.0 if fold else self.scale,
            scope=self.scope if kept else "assistant",
        )

    @property
    def fingerprint(self) -> str:
        """Name the canonical form: `s_` and 16 hex digits of its SHA-256; `s_0` when it is empty."""
        spec = self.canonical()
        if not spec.features:
            return "s_0"
        text = json.dumps(spec.model_dump(), sort_keys=True, separators=(",", ":"))
        return "s_" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def overridden_by(self, explicit: "SteeringSpec", fields: set[str]) -> "SteeringSpec":
        """Return this spec with the `fields` that were given in `explicit`, its features merged in by id."""
        merged = {f.id: f for f in self.features} | {f.id: f for f in explicit.features}
        given = {k: getattr(explicit, k) for k in ("unit", "scale", "scope") if k in fields}
        return SteeringSpec(**{**self.model_dump(), **given, "features": tuple(merged.values())})

    def on_top_of(self, base: "SteeringSpec") -> "SteeringSpec":
        """Both at once: the features of `base` at its own scale, but where this spec says something else of them.

        Raises BadStrength where the two cannot be one: other units, or scales that a `clamp` keeps apart.
        """
        under, over = base.canonical(), self.canonical()
        said = {f.id for f in self.features}
        kept = tuple(f for f in under.features if f.id not in said)
        if not kept:
            return self
        if not over.features:
            return under.model_copy(update={"features": kept})
        if (under.unit, under.scale) != (over.unit, over.scale):
            raise BadStrength(
                f"what is steered by default is in the unit {under.unit!r} at the scale {under.scale:g}, and this in "
                f"{over.unit!r} at {over.scale:g}: say the same, or set steering.default to false"
            )
        return SteeringSpec(features=kept + over.features, unit=over.unit, scale=over.scale, scope=over.scope)


class FeatureSnapshot(_Value):
    """A feature as it was when a preset was saved: its units, and enough to steer it when it is gone.

    The vectors are float32, little-endian, in base64: exact, and a third of what digits would take.
    """

    id: str = Field(min_length=1, max_length=256)
    revision: str
    label: str = ""
    direction: str
    """Its row of the decoder."""
    encoder: str
    """What reads its activation off the stream; empty for a vector that nothing reads, which can only be added."""
    bias: float = Field(allow_inf_nan=False)
    threshold: float = Field(allow_inf_nan=False)
    typical_max: float = Field(allow_inf_nan=False)
    dose: float = Field(allow_inf_nan=False)
    """Raw strength of dose 1.0, measured or drawn from the layer's typical norm."""
    knots: tuple[tuple[float, float], ...] = ()
    """The curve from dose to raw strength, where one was measured."""
    measured: bool = False


class Vector(_Value):
    """A direction that somebody made from examples, to steer by like a feature; its snapshot is all that steers."""

    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    method: Literal["diffmean", "probe"]
    snapshot: FeatureSnapshot
    auroc: float | None = None
    """How well it tells texts apart that were held out; None if there were too few to hold any out."""
    texts: tuple[int, int] = (0, 0)
    """How many it was made from, with it and without."""
    created: int = 0

    @property
    def id(self) -> str:
        """Its id among a spec's features."""
        return VECTOR + self.name


class Preset(_Value):
    """A persona: a named spec with all that makes a chat begin well."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    name: str = Field(min_length=1, max_length=80)
    description: str = Field(default="", max_length=500)
    model: str = ""
    system_prompt: str | None = Field(default=None, max_length=4000)
    sampling: dict[str, float] = Field(default_factory=dict)
    steering: SteeringSpec = SteeringSpec()
    starter_prompts: tuple[str, ...] = Field(default=(), max_length=12)
    readonly: bool = False
    tenant: str = ""
    owner: str | None = None
    """Who may change it; None for what everybody may. The server says, not who saves."""
    visibility: Literal["private", "shared"] = "private"
    """Whether others of the owner's tenant may steer by it."""
    version: int = 1
    updated: int = 0
    sweet_spot: SweetSpot | None = None
    """Of its `scale`, where it was measured."""
    calibration: Calibration | None = None
    """The same as a curve; its raw strength is the scale."""
    snapshots: tuple[FeatureSnapshot, ...] = ()
    """Of its features; the server takes them when the preset is saved."""

    @property
    def pins(self) -> dict[str, FeatureSnapshot]:
        """The snapshots by feature."""
        return {s.id: s for s in self.snapshots}


def _canonical(f: Intervention) -> Intervention:
    if f.mode == "ablate" or (f.mode == "clamp" and f.strength == 0) or (f.mode == "scale" and f.strength == 0):
        return Intervention(id=f.id, strength=0.0, mode="ablate")
    return f


def _scaled(f: Intervention, by: float) -> Intervention:
    if by == 1:
        return f
    if f.mode == "add":
        return f.model_copy(update={"strength": f.strength * by})
    kept = 1.0 if f.mode == "ablate" else 1.0 - f.strength
    return _canonical(Intervention(id=f.id, strength=1.0 - kept * by, mode="scale"))
