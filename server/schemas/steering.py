"""Request schema of `steering`."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from steering.spec import Features, Preset, Scope, SteeringSpec, Unit

Finite = Annotated[float, Field(allow_inf_nan=False)]
# JSON knows one kind of number: 16.0 is a whole one, true and "16" are none.
Whole = Annotated[int, BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)]


class SteeringRequest(BaseModel):
    """The `steering` object. A key that it doesn't know is refused, so that a typo is not silently unsteered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = None
    features: Features = ()
    unit: Unit = "dose"
    scale: Finite = 1.0
    scope: Scope = "assistant"
    over_budget: Literal["refuse", "cut"] = "refuse"
    """What becomes of a summed push that is longer than allowed; a cut is told in `warnings`."""
    personal: bool = False
    """Where the request names no scale of a preset, or no strength of a feature, take those that its `user` came to like."""
    default: bool = True
    """Whether the operator's default preset, if there is one, lies under what is asked here; a preset replaces it."""
    guard: bool = False
    """Ease the strengths for the rest of a reply that strains; where and why is told in `eased`."""
    wanted: tuple[Literal["applied", "coherence"], ...] = Field(default=("applied",), alias="return")

    def spec(self) -> SteeringSpec:
        """The spec without the preset."""
        return SteeringSpec(features=self.features, unit=self.unit, scale=self.scale, scope=self.scope)

    def merged_with(self, preset: Preset | None) -> SteeringSpec:
        """The preset's spec with what is given here laid over it."""
        return preset.steering.overridden_by(self.spec(), self.model_fields_set) if preset else self.spec()


class ValidateRequest(BaseModel):
    """POST /v1/steering/validate."""

    model: str | None = None
    steering: SteeringRequest | None = None
    user: str | None = Field(default=None, max_length=256)
    """Whose vectors it may steer by."""
