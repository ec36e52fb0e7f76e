"""Request schema of a comparison of two to four variants."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.errors import bad_request
from server.schemas.generation import ChatRequest
from server.schemas.steering import SteeringRequest

VARIANTS = 8
"""Maximum number of variants per comparison."""


class Variant(BaseModel):
    """One variant: its name, and its steering."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80)
    steering: SteeringRequest | None = None
    model: str | None = Field(default=None, min_length=1)
    """Replaces the request's `model`: `base@preset` selects a persona."""


class CompareRequest(ChatRequest):
    """The fields of a chat request, with `variants` instead of `steering`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variants: list[Variant] = Field(min_length=1, max_length=VARIANTS)

    @model_validator(mode="after")
    def _each_by_itself(self) -> "CompareRequest":
        names = [v.name for v in self.variants]
        if repeated := [n for i, n in enumerate(names) if n in names[:i]]:
            at = f"variants.{len(names) - 1 - names[::-1].index(repeated[0])}.name"
            raise bad_request(f"two variants are called {repeated[0]!r}; give each a unique name", param=at)
        if self.steering is not None:
            raise bad_request("each variant brings its own steering; leave this one out", param="steering")
        if self.n != 1:
            raise bad_request("each variant has one reply; leave n out, or add variants", param="n")
        return self
