"""Export documents: preset bundles and a user's data as JSON, with their validation.

Imported documents are untrusted: snapshot vectors must have the model's width and a direction's
length, curves must rise, sweet spots must have two ends.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field

from server.errors import ApiError, bad_request
from server.store.models import StoredVote, VoteBatch
from server.user_data.feedback import MAX_VOTES as VOTES
from server.user_data.vectors import MAX_VECTORS as VECTORS
from steering.calibration import Knots
from steering.catalogue.feature_edits import FeatureEdit
from steering.edits import as_vector
from steering.errors import BadBundle, SteeringError
from steering.spec import FeatureSnapshot, Preset, Vector

PRESETS, EDITS = 2000, 100_000
"""Maximum numbers per document."""
FARTHEST = 1e6
"""Maximum of strengths, doses and activations."""
STEEPEST = 1e6
"""Maximum length of an encoder row."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class PresetBundle(BaseModel):
    """Presets to pass on: no vectors, no measurements, which the importing server has itself."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["preset.bundle"] = "preset.bundle"
    version: Literal[1] = 1
    model: str = ""
    revision: str = ""
    exported: int = 0
    presets: Annotated[list[Preset], FailFast()] = Field(max_length=PRESETS)
    replace: bool = False
    """For imports: whether existing presets with different content are replaced."""


class NamedEdit(BaseModel):
    """Edits of one feature."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=256)
    label: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^\S+( \S+)*$")
    note: str | None = Field(default=None, max_length=4000)
    starred: bool = False
    by: str | None = Field(default=None, max_length=256)
    at: int = 0

    def to_edit(self, *, by: str | None = None) -> FeatureEdit:
        """The edit as stored; made `by` the importing user, if given."""
        fields = self.model_dump(exclude={"id"})
        return FeatureEdit.model_validate(fields | ({} if by is None else {"by": by}))


class OneVote(BaseModel):
    """A vote on one slider."""

    model_config = ConfigDict(extra="forbid")

    subject: str = Field(pattern=r"^(preset|feature):", max_length=300)
    dose: float = Field(ge=-FARTHEST, le=FARTHEST)
    liked: float = Field(ge=0, le=1)
    weight: float = Field(ge=0, le=1)
    created: float = Field(ge=0, le=1e11)


class VoteBatchDocument(BaseModel):
    """Votes of one feedback on a reply, or on two."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["thumb", "ab", "move"]
    votes: list[OneVote] = Field(min_length=1, max_length=200)

    def to_batch(self) -> VoteBatch:
        """The votes as stored."""
        return VoteBatch(self.kind, tuple(StoredVote(**v.model_dump()) for v in self.votes))


class Export(BaseModel):
    """A user's data, for export and import."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["export"] = "export"
    version: Literal[1]
    user: str | None = Field(default=None, min_length=1, max_length=256)
    model: str
    revision: str = ""
    exported: int = 0
    presets: Annotated[list[Preset], FailFast()] = Field(default=[], max_length=PRESETS)
    features: Annotated[list[NamedEdit], FailFast()] = Field(default=[], max_length=EDITS)
    vectors: Annotated[list[Vector], FailFast()] = Field(default=[], max_length=VECTORS)
    votes: Annotated[list[VoteBatchDocument], FailFast()] = Field(default=[], max_length=VOTES)
    replace: bool = False
    """For imports: whether existing records with different content are replaced."""


def check_each_once(names: Sequence[str], param: str) -> None:
    """Raise a 400 for a duplicate name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise bad_request(f"{name[:64]!r} is given more than once; give each once", param=param)
        seen.add(name)


def check_measured(preset: Preset, width: int) -> None:
    """Validate a preset's measurements and snapshots. Raises a 400."""
    ids = {i.id for i in preset.steering.features}
    for i, snapshot in enumerate(preset.snapshots):
        place = f"snapshots.{i}"
        if snapshot.id not in ids:
            raise bad_request(f"the preset does not steer {snapshot.id!r}", param=place)
        check_snapshot(snapshot, width, param=place)
    spot = preset.sweet_spot
    if spot and not -FARTHEST <= spot.low <= spot.high <= FARTHEST:
        raise bad_request("a sweet spot lies between two doses, the lower one first", param="sweet_spot")
    if preset.calibration and preset.calibration.knots:
        _check_knots(preset.calibration.knots, param="calibration.knots")


def check_snapshot(snapshot: FeatureSnapshot, width: int, *, param: str) -> None:
    """Validate a snapshot against the model. Raises a 400."""
    try:
        direction = as_vector(snapshot.direction, width)
        encoder = as_vector(snapshot.encoder, width) if snapshot.encoder else torch.zeros(width)
    except BadBundle as error:
        raise bad_request(str(error), param=param) from error
    if not 0.99 < float(direction.double().norm()) < 1.01 or not float(encoder.double().norm()) <= STEEPEST:
        raise bad_request(
            f"{snapshot.id!r} needs a direction of length 1, and an encoder that is not too long", param=param
        )
    if not 0 < snapshot.dose <= FARTHEST or not 0 <= snapshot.typical_max <= FARTHEST:
        raise bad_request(f"{snapshot.id!r} has an invalid dose or maximum", param=param)
    if snapshot.knots:
        _check_knots(snapshot.knots, param=f"{param}.knots")


def as_error(error: ApiError | SteeringError, place: str) -> ApiError:
    """A validation error with its location in the document."""
    return (error if isinstance(error, ApiError) else bad_request(str(error), param=error.param)).within(place)


def _check_knots(knots: Knots, *, param: str) -> None:
    rise = all(c - a > 1e-9 and d - b > 1e-9 for (a, b), (c, d) in itertools.pairwise(knots))
    if len(knots) < 2 or not rise or (0.0, 0.0) not in knots or max(abs(x) for k in knots for x in k) > FARTHEST:
        raise bad_request("the knots of a curve rise, through (0, 0)", param=param)
