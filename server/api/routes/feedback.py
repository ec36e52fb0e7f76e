"""`/v1/feedback`: thumbs, comparisons and moved sliders set a user's own defaults; nothing is trained.

A vote applies to the sliders of a reply: its preset's scale, and the features named beside it. It
changes the defaults of the user who gave it only, and can be deleted, alone or with all others.
"""

from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_caller, current_model
from server.api.openapi import wire
from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.schemas.body import parse_body
from server.schemas.steering import SteeringRequest
from server.schemas.user_data import Feedback
from server.serving.served_model import ServedModel
from server.user_data.feedback import (
    MAX_VOTES,
    MOVED_SLIDER_VOTE,
    changed_subjects,
    dose_range,
    votes_from_spec,
    votes_of,
)
from steering.doses.preference import liked_most, preferred_dose

router = APIRouter(prefix="/v1")


@router.post("/feedback", openapi_extra=wire(schemas.user_data.Defaults, takes=Feedback))
async def give_feedback(request: Request) -> dict[str, Any]:
    """Give feedback on a reply; returns the user's defaults after it."""
    said, served = parse_body(Feedback, await request.body()), current_model(request)
    caller = current_caller(request)
    sides: list[tuple[SteeringRequest | None, float, float]] = {
        "thumb": [(said.steering, 1.0 if said.up else 0.0, 1.0)],
        "ab": [(said.better, 1.0, 1.0), (said.worse, 0.0, 1.0)],
        "move": [(said.after, 1.0, MOVED_SLIDER_VOTE), (said.before, 0.0, MOVED_SLIDER_VOTE)],
    }[said.kind]
    found = [
        v
        for asked, liked, weight in sides
        if asked
        for v in await votes_from_spec(served, caller, asked, liked, weight)
    ]
    if said.kind != "thumb":
        found = changed_subjects(found)
    if not found:
        raise bad_request("no slider to vote on: name a preset or features", param="steering")
    person = caller.require_subject(said.user)
    await served.store.add_votes(person, served.model, said.kind, found, most=MAX_VOTES)
    return await _defaults_to_dict(served, caller, person, said.user)


@router.get("/feedback", openapi_extra=wire(schemas.user_data.Defaults))
async def get_defaults(request: Request, user: str = "") -> dict[str, Any]:
    """A user's learned defaults, and the votes behind them."""
    caller = current_caller(request)
    return await _defaults_to_dict(current_model(request), caller, caller.require_subject(user), user)


@router.delete("/feedback", openapi_extra=wire(schemas.user_data.VotesDeleted, 404))
async def take_back_feedback(request: Request, user: str = "", last: bool = False) -> dict[str, Any]:
    """Delete the last feedback with `last`, or all of it."""
    served = current_model(request)
    caller = current_caller(request)
    person = caller.require_subject(user)
    gone = await served.store.drop_votes(person, served.model, last=last)
    if last and not gone:
        raise ApiError(404, "there is no feedback to delete", code="not_found", param="user")
    return {"deleted": gone, **await _defaults_to_dict(served, caller, person, user)}


async def _defaults_to_dict(served: ServedModel, caller: Caller, person: str, user: str | None) -> dict[str, Any]:
    votes = await served.store.votes(person, served.model)
    found = []
    for subject in dict.fromkeys(v.subject for v in votes):
        span = await dose_range(served, subject, caller)
        if span is None:
            continue  # the preset or feature is gone; its votes are kept in case it is restored
        theirs = votes_of(votes, subject)
        found.append(
            {
                "subject": subject,
                "default": preferred_dose(theirs, span),
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
