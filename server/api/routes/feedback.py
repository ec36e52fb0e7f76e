"""`/v1/feedback`: thumbs, comparisons and moved sliders set a user's own defaults; nothing is trained.

A vote applies to the sliders of a reply: its preset's scale, and the features named beside it. It
changes the defaults of the user who gave it only, and can be deleted, alone or with all others.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model
from server.api.openapi import errors
from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.schemas.steering import SteeringRequest
from server.schemas.user_data import Default, Defaults, Feedback, VoteGiven, VotesDeleted
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

router = APIRouter(prefix="/v1", tags=["Users"])


@router.post("/feedback", responses=errors(400, 413))
async def give_feedback(request: Request, body: Annotated[Feedback, Depends(JsonBody(Feedback))]) -> Defaults:
    """Give feedback on a reply; returns the user's defaults after it."""
    served = current_model(request)
    caller = current_caller(request)
    sides: list[tuple[SteeringRequest | None, float, float]] = {
        "thumb": [(body.steering, 1.0 if body.up else 0.0, 1.0)],
        "ab": [(body.better, 1.0, 1.0), (body.worse, 0.0, 1.0)],
        "move": [(body.after, 1.0, MOVED_SLIDER_VOTE), (body.before, 0.0, MOVED_SLIDER_VOTE)],
    }[body.kind]
    found = [
        v
        for asked, liked, weight in sides
        if asked
        for v in await votes_from_spec(served, caller, asked, liked, weight)
    ]
    if body.kind != "thumb":
        found = changed_subjects(found)
    if not found:
        raise bad_request("no slider to vote on: name a preset or features", param="steering")
    person = caller.require_subject(body.user)
    await served.store.add_votes(person, served.model, body.kind, found, most=MAX_VOTES)
    return await _defaults(served, caller, person, body.user)


@router.get("/feedback", responses=errors(400))
async def get_defaults(request: Request, user: str = "") -> Defaults:
    """A user's learned defaults, and the votes behind them."""
    caller = current_caller(request)
    return await _defaults(current_model(request), caller, caller.require_subject(user), user)


@router.delete("/feedback", responses=errors(400, 404))
async def take_back_feedback(request: Request, user: str = "", last: bool = False) -> VotesDeleted:
    """Delete the last feedback with `last`, or all of it."""
    served = current_model(request)
    caller = current_caller(request)
    person = caller.require_subject(user)
    gone = await served.store.drop_votes(person, served.model, last=last)
    if last and not gone:
        raise ApiError(404, "there is no feedback to delete", code="not_found", param="user")
    return VotesDeleted(deleted=gone, **dict(await _defaults(served, caller, person, user)))


async def _defaults(served: ServedModel, caller: Caller, person: str, user: str | None) -> Defaults:
    votes = await served.store.votes(person, served.model)
    found = []
    for subject in dict.fromkeys(v.subject for v in votes):
        span = await dose_range(served, subject, caller)
        if span is None:
            continue  # the preset or feature is gone; its votes are kept in case it is restored
        theirs = votes_of(votes, subject)
        found.append(
            Default(
                subject=subject,
                default=preferred_dose(theirs, span),
                liked_most=liked_most(theirs, span),
                was=span.start,
                low=span.low,
                high=span.high,
                votes=len(theirs),
            )
        )
    given = [
        VoteGiven(subject=v.subject, dose=v.dose, liked=v.liked, weight=v.weight, at=v.created) for v in votes[-50:]
    ]
    return Defaults(user=user or None, defaults=found, votes=given)
