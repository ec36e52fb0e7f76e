"""What several routes need of a request: the caller, the job queue, the revisions' manifest."""

import asyncio
from typing import Any

from fastapi import Request

from server.auth.caller import ANYONE, Caller
from server.auth.permissions import MINIMUM_ROLES
from server.errors import ApiError
from server.jobs.queue import JobQueue
from server.limits.account import Account
from server.serving.served_model import ServedModel
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle


def owner_of_request(request: Request) -> tuple[str, str | None]:
    """The tenant and owner of what a request begins."""
    caller = current_caller(request)
    return caller.tenant, caller.owner


def job_queue(request: Request) -> JobQueue:
    """The queue is opened when it is first asked for: few servers have jobs."""
    state = request.app.state
    if getattr(state, "jobs", None) is None:
        state.jobs = JobQueue(state.settings)
    return state.jobs


async def find_manifest(served: ServedModel, revision: str, *, param: str = "revision") -> Manifest:
    """What is known of a revision. Raises a 404 with those there are, or a 409 if it is damaged."""
    names = await asyncio.to_thread(served.revisions.names)
    if revision not in names:
        raise ApiError(
            404, f"no revision {revision[:64]!r}; there are {', '.join(names)}", code="revision_not_found", param=param
        )
    try:
        return await asyncio.to_thread(served.revisions.manifest, revision)
    except BadBundle as error:
        raise ApiError(409, str(error), code="revision_refused", param=param) from error


def current_caller(request: Request) -> Caller:
    """Whoever the border has let in."""
    return getattr(request.state, "caller", ANYONE)


def current_account(request: Request) -> Account:
    """What the request's caller is counted against."""
    return Account(current_caller(request), request.app.state.rate_limiter, request.app.state.audit_log)


async def write_audit(request: Request, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
    """Say what whoever asks has done."""
    state = request.app.state
    if state.served_model:
        await state.audit_log.write(state.served_model.store, current_caller(request), act, **about)


async def audit_refusal(request: Request, error: ApiError) -> None:
    """Note what the policy has refused; other errors are nobody's deed."""
    if error.code == "policy_refused":
        route = getattr(request.scope.get("route"), "path", "")
        await write_audit(request, "refused", route=route, rule=error.more.get("rule"))


async def check_permission(request: Request) -> None:
    """Raise ApiError for a caller whose role is too low; before anything else of the request is looked at."""
    route = request.scope["route"].path
    least, caller = MINIMUM_ROLES[request.method, route], current_caller(request)
    if not caller.has_role(least):
        raise ApiError(
            403,
            f"this needs a key with the role {least!r} or above; yours has {caller.role!r}",
            code="role_too_low",
            kind="permission_error",
        )


def current_model(request: Request) -> ServedModel:
    """What is served now; another revision of the SAE is another value, so a request keeps the one it began with."""
    return request.app.state.served_model
