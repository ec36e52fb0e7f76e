"""`/v1/feedback`: thumbs, comparisons and moved sliders set a user's own defaults. Knows votes and the store; trains nothing.

A vote is about the sliders of a reply: its preset's scale, and the features that were named beside it. It moves the
defaults of the one who gave it and of nobody else; each can be taken back, or all of them.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from server import schemas
from server.api.openapi import wire
from server.auth.caller import Caller, caller_of
from server.errors import ApiError, bad_request
from server.schemas.generation import SteeringRequest, parse
from server.serving.served_model import Tiller
from server.store.base import StoredVote
from steering.doses.preference import Range, Vote, liked_most, preferred
from steering.errors import UnknownFeature
from steering.spec import VECTOR

router = APIRouter(prefix="/v1")
MOST = 2000
"""Votes that are kept of each user; then the oldest go."""
MOVED = 0.3
"""What a moved slider says, in thumbs."""


class Feedback(BaseModel):
    """One thing that somebody said of a reply."""

    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=256)
    """Who says it; with a key, its owner if not given."""
    kind: Literal["thumb", "ab", "move"]
    up: bool | None = None
    """Of a thumb."""
    steering: SteeringRequest | None = None
    """Of the reply that a thumb is about."""
    better: SteeringRequest | None = None
    worse: SteeringRequest | None = None
    before: SteeringRequest | None = None
    after: SteeringRequest | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Feedback":
        needed = {"thumb": ("up", "steering"), "ab": ("better", "worse"), "move": ("before", "after")}[self.kind]
        if missing := [n for n in needed if getattr(self, n) is None]:
            raise ValueError(f"a {self.kind!r} needs {' and '.join(needed)}; {missing[0]} is missing")
        return self


@router.post("/feedback", openapi_extra=wire(schemas.user_data.Defaults, takes=Feedback))
async def give_feedback(request: Request) -> dict[str, Any]:
    """Say what you think of a reply; returns your defaults as they are then."""
    said, tiller = parse(Feedback, await request.body()), request.app.state.tiller
    caller = caller_of(request)
    sides: list[tuple[SteeringRequest | None, float, float]] = {
        "thumb": [(said.steering, 1.0 if said.up else 0.0, 1.0)],
        "ab": [(said.better, 1.0, 1.0), (said.worse, 0.0, 1.0)],
        "move": [(said.after, 1.0, MOVED), (said.before, 0.0, MOVED)],
    }[said.kind]
    found = [v for asked, liked, weight in sides if asked for v in await _votes(tiller, caller, asked, liked, weight)]
    if said.kind != "thumb":
        found = _that_differ(found)
    if not found:
        raise bad_request("no slider to learn about: name a preset or features", param="steering")
    person = caller.named(said.user)
    await tiller.store.add_votes(person, tiller.model, said.kind, found, most=MOST)
    return await _told(tiller, caller, person, said.user)


@router.get("/feedback", openapi_extra=wire(schemas.user_data.Defaults))
async def get_defaults(request: Request, user: str = "") -> dict[str, Any]:
    """A user's own defaults, what they come from, and what was said."""
    caller = caller_of(request)
    return await _told(request.app.state.tiller, caller, caller.named(user), user)


@router.delete("/feedback", openapi_extra=wire(schemas.user_data.VotesDeleted, 404))
async def take_back_feedback(request: Request, user: str = "", last: bool = False) -> dict[str, Any]:
    """Take the last thing back that was said, with `last`; or all of it."""
    tiller: Tiller = request.app.state.tiller
    caller = caller_of(request)
    person = caller.named(user)
    gone = await tiller.store.drop_votes(person, tiller.model, last=last)
    if last and not gone:
        raise ApiError(404, "nothing was said that could be taken back", code="not_found", param="user")
    return {"deleted": gone, **await _told(tiller, caller, person, user)}


async def own(tiller: Tiller, caller: Caller, person: str, asked: SteeringRequest) -> SteeringRequest:
    """The request with this person's defaults where it names none: the scale of a preset, the strength of a feature."""
    votes = await tiller.store.votes(person, tiller.model)
    changes: dict[str, Any] = {}
    if asked.preset and "scale" not in asked.model_fields_set:
        subject = f"preset:{asked.preset}"
        if (span := await _range(tiller, subject, caller)) and (theirs := _of(votes, subject)):
            changes["scale"] = preferred(theirs, span)
    items = []
    for item in asked.features:
        subject = f"feature:{item.id}"
        if "strength" not in item.model_fields_set and item.mode == "add" and (theirs := _of(votes, subject)):
            span = await _range(tiller, subject, caller)
            item = item.model_copy(update={"strength": preferred(theirs, span)}) if span else item
        items.append(item)
    return asked.model_copy(update={**changes, "features": tuple(items)}) if votes else asked


async def _votes(
    tiller: Tiller, caller: Caller, asked: SteeringRequest, liked: float, weight: float
) -> list[StoredVote]:
    """What is said of each slider of a reply; of several, each says less."""
    sliders = [(f"preset:{asked.preset}", asked.scale)] if asked.preset else []
    if asked.unit == "dose":
        mine = [
            i for i in asked.features if not i.id.startswith(VECTOR)
        ]  # a vector has no range of its own to learn in
        sliders += [(f"feature:{i.id}", i.strength) for i in mine if i.mode == "add"]
    for subject, _ in sliders:
        if await _range(tiller, subject, caller) is None:
            kind, _, name = subject.partition(":")
            raise bad_request(f"there is no {kind} {name!r} here", param="steering")
    now, each = time.time(), weight / max(1, len(sliders)) ** 0.5
    return [StoredVote(subject, dose, liked, each, now) for subject, dose in sliders]


def _that_differ(votes: Sequence[StoredVote]) -> list[StoredVote]:
    """A comparison says nothing of a slider that was the same on both sides."""
    doses: dict[str, set[float]] = {}
    for v in votes:
        doses.setdefault(v.subject, set()).add(v.dose)
    return [v for v in votes if len(doses[v.subject]) > 1 or len([o for o in votes if o.subject == v.subject]) == 1]


async def _range(tiller: Tiller, subject: str, caller: Caller) -> Range | None:
    """Where a slider's default may be: its sweet spot, or up to dose 1.0 where none was measured; None if there is none."""
    kind, _, name = subject.partition(":")
    if kind == "preset":
        preset = await tiller.preset(name, caller)
        if preset is None:
            return None
        spot = preset.sweet_spot
        return Range(spot.low, spot.high, min(1.0, spot.high)) if spot else Range(0.2, 1.2, 1.0)
    try:
        feature = tiller.catalogue.find(name)[1]
    except UnknownFeature:
        return None
    spot = feature.sweet_spot
    return Range(spot.low, spot.high, 0.5 * (spot.low + spot.high)) if spot else Range(0.1, 1.0, 0.5)


def _of(votes: Sequence[StoredVote], subject: str) -> list[Vote]:
    return [Vote(v.dose, v.liked, v.weight) for v in votes if v.subject == subject]


async def _told(tiller: Tiller, caller: Caller, person: str, user: str | None) -> dict[str, Any]:
    votes = await tiller.store.votes(person, tiller.model)
    found = []
    for subject in dict.fromkeys(v.subject for v in votes):
        span = await _range(tiller, subject, caller)
        if span is None:
            continue  # the preset or feature is gone; its votes wait in case it comes back
        theirs = _of(votes, subject)
        found.append(
            {
                "subject": subject,
                "default": preferred(theirs, span),
                "liked_most": liked_most(theirs, span),
                "was": span.start,
                "low": span.low,
                "high": span.high,
                "votes": len(theirs),
            }
        )
    said = [
        {"subject": v.subject, "dose": v.dose, "liked": v.liked, "weight": v.weight, "at": v.created} for v in votes
    ]
    return {"user": user or None, "defaults": found, "votes": said[-50:]}
