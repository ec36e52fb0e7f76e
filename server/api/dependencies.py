"""FastAPI dependencies shared by several routes: caller, job queue, revision manifest, search index."""

import asyncio
from typing import Any

from fastapi import Request
from torch import Tensor

from server.auth.caller import ANYONE, Caller
from server.auth.permissions import MINIMUM_ROLES
from server.errors import ApiError
from server.features.search import Index
from server.jobs.queue import JobQueue
from server.limits.account import Account
from server.serving.served_model import ServedModel
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle
from steering.interpret.label_embeddings import Encode
from steering.model.input_embeddings import read_input_embeddings


def owner_of_request(request: Request) -> tuple[str, str | None]:
    """Tenant and owner under which a request creates something."""
    caller = current_caller(request)
    return caller.tenant, caller.owner


def job_queue(request: Request) -> JobQueue:
    """Job queue, opened on first use: few servers run jobs."""
    state = request.app.state
    if getattr(state, "jobs", None) is None:
        state.jobs = JobQueue(state.settings)
    return state.jobs


async def find_manifest(served: ServedModel, revision: str, *, param: str = "revision") -> Manifest:
    """Manifest of a revision. Raises a 404 that lists the revisions, or a 409 if it is damaged."""
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
    """Caller that the authentication middleware has set."""
    return getattr(request.state, "caller", ANYONE)


def current_account(request: Request) -> Account:
    """Account that the request's usage counts against: limits belong to a key, and audit-log entries to its owner."""
    caller, state = current_caller(request), request.app.state
    limiter = state.rate_limiter if caller.key else None
    return Account(caller, limiter, None if caller.owner is None else state.audit_log)


async def write_audit(request: Request, act: str, **about: Any) -> None:  # noqa: ANN401 - JSON
    """Write an audit-log entry for the caller's action."""
    state = request.app.state
    if state.served_model:
        await state.audit_log.write(state.served_model.store, current_caller(request), act, **about)


async def audit_refusal(request: Request, error: ApiError) -> None:
    """Write an audit-log entry for a request that the policy refused; other errors are not logged here."""
    if error.code == "policy_refused":
        route = getattr(request.scope.get("route"), "path", "")
        await write_audit(request, "refused", route=route, rule=error.more.get("rule"))


async def check_permission(request: Request) -> None:
    """Raise ApiError if the caller's role is too low; runs before the rest of the request is validated."""
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
    """Model served now. Another SAE revision is another value, so a request keeps the one it started with."""
    return request.app.state.served_model


def current_index(request: Request) -> Index:
    """Search index of the served catalogue; another revision or a changed label makes another
    catalogue, and so another index."""
    state, served = request.app.state, current_model(request)
    if getattr(state, "index", None) is None or state.index.catalogue is not served.catalogue:
        state.index = Index(served.catalogue, served.settings.meaning_model, lambda: _embeddings(served))
    return state.index


def _embeddings(served: ServedModel) -> tuple[Tensor, Encode]:
    tokenizer = served.engine.tokenizer
    weights = read_input_embeddings(str(served.settings.model or served.bundle.model_path))
    return weights, lambda word: tokenizer(word, add_special_tokens=False)["input_ids"]
