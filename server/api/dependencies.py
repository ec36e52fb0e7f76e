"""What several routes need of a request: the caller, the job queue, the revisions' manifest."""

import asyncio
from typing import Any

from fastapi import Request

from server.auth.caller import ANYONE, Caller
from server.auth.permissions import LEAST
from server.errors import ApiError
from server.jobs.queue import Jobs
from server.limits.account import Account
from server.serving.served_model import Tiller
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle


def by_whom(request: Request) -> tuple[str, str | None]:
    """The tenant and owner of what a request begins."""
    caller = caller_of(request)
    return caller.tenant, caller.owner


def jobs_of(request: Request) -> Jobs:
    """The queue is opened when it is first asked for: few servers have jobs."""
    state = request.app.state
    if getattr(state, "jobs", None) is None:
        state.jobs = Jobs(state.settings)
    return state.jobs


async def manifest_of(tiller: Tiller, revision: str, *, param: str = "revision") -> Manifest:
    """What is known of a revision. Raises a 404 with those there are, or a 409 if it is damaged."""
    names = await asyncio.to_thread(tiller.revisions.names)
    if revision not in names:
        raise ApiError(
            404, f"no revision {revision[:64]!r}; there are {', '.join(names)}", code="revision_not_found", param=param
        )
    try:
        return await asyncio.to_thread(tiller.revisions.manifest, revision)
    except BadBundle as error:
        raise ApiError(409, str(error), code="revision_refused", param=param) from error


def caller_of(request: Request) -> Caller:
    """Whoever the border has let in."""
    return getattr(request.state, "caller", ANYONE)


def account_of(request: Request) -> Account:
    """What the request's caller is counted against."""
    return Account(caller_of(request), request.app.state.rates, request.app.state.audit)


async def noted(request: Request, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
    """Say what whoever asks has done."""
    state = request.app.state
    if state.tiller:
        await state.audit.note(state.tiller.store, caller_of(request), act, **about)


async def refusal(request: Request, error: ApiError) -> None:
    """Note what the policy has refused; other errors are nobody's deed."""
    if error.code == "policy_refused":
        route = getattr(request.scope.get("route"), "path", "")
        await noted(request, "refused", route=route, rule=error.more.get("rule"))


async def permitted(request: Request) -> None:
    """Raise ApiError for a caller whose role is too low; before anything else of the request is looked at."""
    route = request.scope["route"].path
    least, caller = LEAST[request.method, route], caller_of(request)
    if not caller.may(least):
        raise ApiError(
            403,
            f"this needs a key with the role {least!r} or above; yours has {caller.role!r}",
            code="role_too_low",
            kind="permission_error",
        )
