"""Request schema of `steering`."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from steering.spec import Features, Preset, Scope, SteeringSpec, Unit

Finite = Annotated[float, Field(allow_inf_nan=False)]
# JSON has one number type: 16.0 is an integer, true and "16" are not.
Whole = Annotated[int, BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)]


class SteeringRequest(BaseModel):
    """The `steering` object. Unknown keys are an error, so that a typo does not run unsteered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = None
    features: Features = ()
    unit: Unit = "dose"
    scale: Finite = 1.0
    scope: Scope | None = None
    """Tokens that are steered; where it is absent those of the preset, or else those that the model's doses are measured on."""
    over_budget: Literal["refuse", "cut"] = "refuse"
    """Whether a summed push above the maximum is an error (`refuse`) or is scaled down (`cut`, with an entry in `warnings`)."""
    personal: bool = False
    """Use the `user`'s learned defaults where the request gives no scale for a preset or no strength for a feature."""
    default: bool = True
    """Whether the operator's default preset, if configured, is merged in; a `preset` replaces it."""
    guard: bool = False
    """Reduce the strengths for the rest of a reply that becomes strained; `eased` reports where and why."""
    wanted: tuple[Literal["applied", "coherence"], ...] = Field(default=("applied",), alias="return")

    def spec(self, scope: Scope) -> SteeringSpec:
        """The steering spec without the preset; `scope` is the model's own."""
        return SteeringSpec(features=self.features, unit=self.unit, scale=self.scale, scope=self.scope or scope)

    def merged_with(self, preset: Preset | None, scope: Scope) -> SteeringSpec:
        """The preset's spec, overridden by the fields of this object; `scope` is the model's own."""
        given = self.model_fields_set - ({"scope"} if self.scope is None else set())
        return preset.steering.overridden_by(self.spec(scope), given) if preset else self.spec(scope)


class ValidateRequest(BaseModel):
    """POST /v1/steering/validate."""

    model: str | None = None
    steering: SteeringRequest | None = None
    user: str | None = Field(default=None, max_length=256)
    """The user whose vectors may be used."""
