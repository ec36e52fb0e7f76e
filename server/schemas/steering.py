"""Request schema of `steering`."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from steering.spec import Features, Norm, Positions, Preset, Scope, SteeringSpec, Unit, Where, check_positions

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
    skip_special: bool | None = None
    """Whether special tokens and those of the chat template are left out of what is steered, in every scope; where it is
    absent as in the preset, or else as the model's doses are measured.
    """
    positions: Positions | None = Field(default=None, validate_default=True)
    """Tokens of the rendered prompt that are steered: indices, or [start, end) with null as the prompt's end; below 0 they
    count from its end. They go with the scope `positions`, which is the default then and steers them alone, and with
    `generated`, which steers them and the reply.
    """
    norm: Norm | None = None
    """`preserve`: the steered stream is scaled back to the length that it had at each token. Default: the preset's, or `free`."""
    over_budget: Literal["refuse", "cut"] = "refuse"
    """Whether a summed push above the maximum is an error (`refuse`) or is scaled down (`cut`, with an entry in `warnings`)."""
    personal: bool = False
    """Use the `user`'s learned defaults where the request gives no scale for a preset or no strength for a feature."""
    default: bool = True
    """Whether the operator's default preset, if configured, is merged in; a `preset` replaces it."""
    guard: bool = False
    """Reduce the strengths for the rest of a reply that becomes strained; `eased` reports where and why."""
    wanted: tuple[Literal["applied", "coherence"], ...] = Field(default=("applied",), alias="return")

    @field_validator("positions")
    @classmethod
    def _fit_the_scope(cls, positions: Positions | None, info: ValidationInfo) -> Positions | None:
        if scope := info.data.get("scope"):
            check_positions(scope, positions or ())
        return positions

    def spec(self, where: Where) -> SteeringSpec:
        """The steering spec without the preset; `where` is the model's own."""
        return SteeringSpec(
            features=self.features,
            unit=self.unit,
            scale=self.scale,
            scope=self.scope or ("positions" if self.positions else where.scope),
            skip_special=where.skip_special if self.skip_special is None else self.skip_special,
            positions=self.positions or (),
            norm=self.norm or "free",
        )

    def merged_with(self, preset: Preset | None, where: Where) -> SteeringSpec:
        """The preset's spec, overridden by the fields of this object; `where` is the model's own."""
        if preset is None:
            return self.spec(where)
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if self.positions:
            given.add("scope")
        return preset.steering.overridden_by(self.spec(where), given)


class ValidateRequest(BaseModel):
    """POST /v1/steering/validate."""

    model: str | None = None
    steering: SteeringRequest | None = None
    user: str | None = Field(default=None, max_length=256)
    """The user whose vectors may be used."""
