"""Steering specs, presets, snapshots and vectors: pure values.

A `SteeringSpec` is the only thing that is passed from a slider to the model. Two specs that do the same have the same
canonical form and so, mostly, the same fingerprint.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from steering.calibration import Calibration, SweetSpot
from steering.errors import BadPosition, BadStrength

Mode = Literal["add", "clamp", "scale", "ablate"]
Unit = Literal["dose", "max", "raw"]
RoleScope = Literal["assistant", "all", "generated"]
"""Scopes that mean something for any prompt."""
Scope = Literal[RoleScope, "positions"]
Norm = Literal["free", "preserve"]

MAX_FEATURES = 32
MAX_POSITIONS = 64
LATER_FIELDS = ("skip_special", "positions", "norm")
"""Fields that are part of a fingerprint only where they are not as they were before they existed, so that it lasts."""
VECTOR = "vector/"
"""Prefix of the ids of named vectors, which belong to no bundle."""
VECTOR_NAME = r"^[a-z][a-z0-9._-]{0,63}$"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intervention(_Value):
    """One feature, the mode of intervention and its strength."""

    id: str = Field(min_length=1, max_length=256)
    """`<bundle>/<index>`, or `vector/<name>`"""
    strength: float = Field(default=1.0, allow_inf_nan=False)
    """In the spec's unit; for `scale` a plain factor, for `ablate` unused."""
    mode: Mode = "add"

    @property
    def is_identity(self) -> bool:
        """Whether the intervention changes nothing."""
        return (self.mode == "add" and self.strength == 0) or (self.mode == "scale" and self.strength == 1)


def _check_unique(features: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    ids = [f.id for f in features]
    if repeated := next((i for i in ids if ids.count(i) > 1), None):
        first, second = [n for n, i in enumerate(ids) if i == repeated][:2]
        raise ValueError(
            f"{repeated!r} is there twice, at {first} and at {second}; keep one, with the strength that you want"
        )
    return features


Features = Annotated[tuple[Intervention, ...], Field(max_length=MAX_FEATURES), AfterValidator(_check_unique)]
"""Interventions, each feature at most once."""


Position = int | tuple[int, int | None]
"""One token of the prompt, or those from a start up to an end, `null` for the prompt's; below 0 they count from its end."""


def _check_position(position: Any) -> Position:  # noqa: ANN401 - unvalidated input
    """Refuse what is no place in a list: pydantic's own message would name both forms."""
    given = position if isinstance(position, list | tuple) else [position]
    whole = [_whole(v) for v in given]
    if not (len(given) == 1 and given[0] is position and whole[0] is not None) and not (
        len(given) == 2 and given is position and whole[0] is not None and (whole[1] is not None or given[1] is None)
    ):
        raise ValueError(
            f"{_shown(position)} is no place in the prompt; give an index, or [start, end] with whole numbers or null as the end"
        )
    start, end = whole[0], whole[-1]
    assert start is not None
    if len(given) == 1:
        return start
    if end is not None and start >= end and (start < 0) == (end < 0):
        raise ValueError(f"[{start}, {end}] holds no token: the end comes after the start, and is not part of it")
    return start, end


def _shown(position: object) -> str:
    """A refused position as JSON; of objects and long lists, only the type."""
    if isinstance(position, str):
        return repr(position[:59])
    if position is None or isinstance(position, bool | int | float):
        return json.dumps(position)[:60]
    if (
        isinstance(position, list | tuple)
        and len(position) < 5
        and all(v is None or isinstance(v, int | float) for v in position)
    ):
        return json.dumps(position)
    return "an object" if isinstance(position, dict) else "a list"


def _whole(value: object) -> int | None:
    """The whole number that JSON means, if it does."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31 else None


Positions = Annotated[
    tuple[Annotated[Position, BeforeValidator(_check_position)], ...], Field(max_length=MAX_POSITIONS)
]
"""Tokens of the rendered prompt."""


class Where(NamedTuple):
    """Which tokens are steered."""

    scope: Scope = "assistant"
    skip_special: bool = False
    positions: tuple[Position, ...] = ()


ASSISTANT = Where()
"""The assistant's turns."""


def check_positions(scope: Scope, positions: tuple[Position, ...]) -> None:
    """Raise ValueError unless positions and scope go together."""
    if positions and scope not in ("positions", "generated"):
        raise ValueError(
            f"positions do not go with the scope {scope!r}, which says itself what is steered; use the scope 'positions', "
            "or 'generated' to steer the reply, too"
        )
    if scope == "positions" and not positions:
        raise ValueError("the scope 'positions' steers nothing without positions; give a list such as [[0, 8], -1]")


def indices(positions: Iterable[Position], n: int) -> Iterator[int]:
    """Yield the tokens of a prompt of `n` tokens at these positions. An index beyond it raises BadPosition; a range is cut
    off, as in Python.
    """
    for position in positions:
        if isinstance(position, tuple):
            yield from range(n)[slice(*position)]
        elif -n <= position < n:
            yield position % n
        else:
            raise BadPosition(f"there is no token {position}: the prompt has {n}, so {-n}…{n - 1} are there")


class SteeringSpec(_Value):
    """Interventions that act together, the unit of their strengths, and the tokens that they steer."""

    features: Features = ()
    unit: Unit = "dose"
    scale: float = Field(default=1.0, allow_inf_nan=False)
    """Multiplies the whole edit: 0 is unsteered, 0.5 half of every push."""
    scope: Scope = "assistant"
    skip_special: bool = False
    """Whether special tokens and those of the chat template are left out of what is steered, in every scope."""
    positions: Positions = ()
    """Tokens of the prompt that are steered, with the scopes `positions` (these alone) and `generated` (and new ones)."""
    norm: Norm = "free"
    """`preserve`: the steered stream is scaled back to the length that it had at each token."""

    @model_validator(mode="after")
    def _check_where(self) -> "SteeringSpec":
        check_positions(self.scope, self.positions)
        return self

    @property
    def where(self) -> Where:
        """Which tokens it steers."""
        return Where(self.scope, self.skip_special, self.positions)

    def canonical(self) -> "SteeringSpec":
        """Return the canonical form, which all equal specs share.

        Interventions that change nothing are dropped, a `clamp` to 0 is an `ablate`, features are sorted by id, and
        `scale` is folded into the strengths where that is exact: everywhere but together with a `clamp`, whose target
        and gate would need one strength each.
        """
        kept = [_canonical(f) for f in self.features if not f.is_identity] if self.scale else []
        fold = not any(f.mode == "clamp" for f in kept)
        if fold:
            kept = [g for f in kept if not (g := _scaled(f, self.scale)).is_identity]
        return SteeringSpec(
            features=tuple(sorted(kept, key=lambda f: f.id)),
            unit=self.unit if kept else "dose",
            scale=1.0 if fold else self.scale,
            **(self._elsewhere(sorted(set(self.positions), key=_ends)) if kept else {}),
        )

    def _elsewhere(self, positions: Iterable[Position]) -> dict[str, Any]:
        """The fields that say where and how it acts, beside the features."""
        return {
            "scope": self.scope,
            "skip_special": self.skip_special,
            "positions": tuple(positions),
            "norm": self.norm,
        }

    @property
    def fingerprint(self) -> str:
        """Id of the canonical form: `s_` and 16 hex digits of its SHA-256; `s_0` when it is empty."""
        spec = self.canonical()
        if not spec.features:
            return "s_0"
        later = {name for name in LATER_FIELDS if getattr(spec, name) == SteeringSpec.model_fields[name].default}
        text = json.dumps(spec.model_dump(exclude=later), sort_keys=True, separators=(",", ":"))
        return "s_" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def overridden_by(self, explicit: "SteeringSpec", fields: set[str]) -> "SteeringSpec":
        """Return this spec with the `fields` that were given in `explicit`, and its features merged in by id."""
        merged = {f.id: f for f in self.features} | {f.id: f for f in explicit.features}
        names = ("unit", "scale", "scope", "skip_special", "positions", "norm")
        fields_set = {k: getattr(explicit, k) for k in names if k in fields}
        if "scope" in fields and "positions" not in fields and self.positions:
            fields_set["positions"] = ()  # the preset's own belong to its scope
        return SteeringSpec(**{**self.model_dump(), **fields_set, "features": tuple(merged.values())})

    def on_top_of(self, base: "SteeringSpec") -> "SteeringSpec":
        """Return both specs as one: the features of `base` at its own scale, replaced by those of this spec with the
        same id.

        Raises BadStrength where the two cannot be merged: different units, or scales that a `clamp` keeps apart.
        """
        under, over = base.canonical(), self.canonical()
        own_ids = {f.id for f in self.features}
        kept = tuple(f for f in under.features if f.id not in own_ids)
        if not kept:
            return self
        if not over.features:
            return under.model_copy(update={"features": kept})
        if (under.unit, under.scale) != (over.unit, over.scale):
            raise BadStrength(
                f"the default steering has the unit {under.unit!r} and the scale {under.scale:g}, this one "
                f"{over.unit!r} and {over.scale:g}: use the same ones, or set steering.default to false"
            )
        return over.model_copy(update={"features": kept + over.features})


class FeatureSnapshot(_Value):
    """Copy of a feature as it was when a preset was saved: its units, and what is needed to steer it when it is gone.

    The vectors are float32, little-endian, in base64: exact, and a third of the size of decimal digits.
    """

    id: str = Field(min_length=1, max_length=256)
    revision: str
    label: str = ""
    direction: str
    """Decoder direction."""
    encoder: str
    """Encoder direction; empty for a vector without an activation, which can only be added."""
    bias: float = Field(allow_inf_nan=False)
    threshold: float = Field(allow_inf_nan=False)
    typical_max: float = Field(allow_inf_nan=False)
    dose: float = Field(allow_inf_nan=False)
    """Raw strength of dose 1.0: measured, or estimated from the layer's typical norm."""
    knots: tuple[tuple[float, float], ...] = ()
    """Curve from dose to raw strength, where one was measured."""
    measured: bool = False


class Vector(_Value):
    """Named direction computed from examples, or imported, which steers like a feature; its snapshot is all that is used for it."""

    name: str = Field(pattern=VECTOR_NAME)
    method: Literal["diffmean", "probe", "import"]
    snapshot: FeatureSnapshot
    auroc: float | None = None
    """AUROC on held-out texts; None if there were too few texts to hold any out."""
    texts: tuple[int, int] = (0, 0)
    """Number of texts it was computed from: with the concept, and without."""
    created: int = 0

    @property
    def id(self) -> str:
        """Id of the vector among a spec's features."""
        return VECTOR + self.name


class Preset(_Value):
    """Persona: a named spec with system prompt, sampling parameters and starter prompts."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    name: str = Field(min_length=1, max_length=80)
    description: str = Field(default="", max_length=500)
    model: str = ""
    system_prompt: str | None = Field(default=None, max_length=4000)
    comparison_prompt: str = Field(default="", max_length=4000)
    """A system prompt that asks for the same, to compare with; it is never sent with the preset."""
    sampling: dict[str, float] = Field(default_factory=dict)
    steering: SteeringSpec = SteeringSpec()
    starter_prompts: tuple[str, ...] = Field(default=(), max_length=12)
    readonly: bool = False
    tenant: str = ""
    owner: str | None = None
    """Who may change it; None: everyone may. Set by the server, never taken from the request."""
    visibility: Literal["private", "shared"] = "private"
    """Whether others of the owner's tenant may steer with it."""
    version: int = 1
    updated: int = 0
    sweet_spot: SweetSpot | None = None
    """Sweet spot of its `scale`, where it was measured."""
    calibration: Calibration | None = None
    """The same measurement as a curve; its raw strength is the scale."""
    snapshots: tuple[FeatureSnapshot, ...] = ()
    """Snapshots of its features; the server takes them when the preset is saved."""

    @property
    def pins(self) -> dict[str, FeatureSnapshot]:
        """The snapshots by feature id."""
        return {s.id: s for s in self.snapshots}


def _ends(position: Position) -> tuple[int, float]:
    if isinstance(position, int):
        return position, position + 0.5
    return position[0], float("inf") if position[1] is None else float(position[1])


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
