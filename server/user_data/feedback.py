"""Feedback: a user's votes on replies, and the default doses estimated from them."""

import time
from collections.abc import Sequence
from typing import Any

from server.auth.caller import Caller
from server.errors import bad_request
from server.schemas.steering import SteeringRequest
from server.serving.served_model import ServedModel
from server.store.models import StoredVote
from steering.doses.preference import Range, Vote, preferred_dose
from steering.errors import UnknownFeature
from steering.spec import VECTOR

MAX_VOTES = 2000
"""Number of votes kept per user; older ones are deleted."""
MOVED_SLIDER_VOTE = 0.3
"""Weight of a moved slider, in thumbs."""


async def with_user_defaults(
    served: ServedModel, caller: Caller, person: str, asked: SteeringRequest
) -> SteeringRequest:
    """The request with the user's defaults for what it leaves open: the scale of a preset, the
    strength of a feature."""
    votes = await served.store.votes(person, served.model)
    changes: dict[str, Any] = {}
    if asked.preset and "scale" not in asked.model_fields_set:
        subject = f"preset:{asked.preset}"
        if (span := await dose_range(served, subject, caller)) and (theirs := votes_of(votes, subject)):
            changes["scale"] = preferred_dose(theirs, span)
    items = []
    for item in asked.features:
        subject = f"feature:{item.id}"
        if "strength" not in item.model_fields_set and item.mode == "add" and (theirs := votes_of(votes, subject)):
            span = await dose_range(served, subject, caller)
            item = item.model_copy(update={"strength": preferred_dose(theirs, span)}) if span else item
        items.append(item)
    return asked.model_copy(update={**changes, "features": tuple(items)}) if votes else asked


async def votes_from_spec(
    served: ServedModel, caller: Caller, asked: SteeringRequest, liked: float, weight: float
) -> list[StoredVote]:
    """Votes on each slider of a reply; with several sliders, each has less weight."""
    sliders = [(f"preset:{asked.preset}", asked.scale)] if asked.preset else []
    if asked.unit == "dose":
        mine = [i for i in asked.features if not i.id.startswith(VECTOR)]  # a vector has no range for a default
        sliders += [(f"feature:{i.id}", i.strength) for i in mine if i.mode == "add"]
    for subject, _ in sliders:
        if await dose_range(served, subject, caller) is None:
            kind, _, name = subject.partition(":")
            raise bad_request(f"there is no {kind} {name!r}", param="steering")
    now, each = time.time(), weight / max(1, len(sliders)) ** 0.5
    return [StoredVote(subject, dose, liked, each, now) for subject, dose in sliders]


def changed_subjects(votes: Sequence[StoredVote]) -> list[StoredVote]:
    """Sliders that differ between the two sides of a comparison; equal ones get no vote."""
    doses: dict[str, set[float]] = {}
    for v in votes:
        doses.setdefault(v.subject, set()).add(v.dose)
    return [v for v in votes if len(doses[v.subject]) > 1 or len([o for o in votes if o.subject == v.subject]) == 1]


async def dose_range(served: ServedModel, subject: str, caller: Caller) -> Range | None:
    """Range of a slider's default: its sweet spot, or up to dose 1.0 if not measured; None without any."""
    kind, _, name = subject.partition(":")
    if kind == "preset":
        preset = await served.preset(name, caller)
        if preset is None:
            return None
        spot = preset.sweet_spot
        return Range(spot.low, spot.high, min(1.0, spot.high)) if spot else Range(0.2, 1.2, 1.0)
    try:
        feature = served.catalogue.find(name)[1]
    except UnknownFeature:
        return None
    spot = feature.sweet_spot
    return Range(spot.low, spot.high, 0.5 * (spot.low + spot.high)) if spot else Range(0.1, 1.0, 0.5)


def votes_of(votes: Sequence[StoredVote], subject: str) -> list[Vote]:
    """The votes on one subject."""
    return [Vote(v.dose, v.liked, v.weight) for v in votes if v.subject == subject]
