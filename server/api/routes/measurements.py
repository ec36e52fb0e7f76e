"""`/v1/steering/sweep` and `/v1/features/{id}/calibrate`: measurements that take a while, begun as jobs. Knows orders, does none."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.dependencies import account_of, by_whom, caller_of, jobs_of, noted
from server.api.errors import as_api_error
from server.api.openapi import wire
from server.errors import ApiError, bad_request
from server.jobs.tasks.sweep import SweepOrder, resolved
from server.schemas.body import parse
from server.schemas.jobs import Job
from server.schemas.steering import Whole
from server.serving.served_model import Tiller
from steering.errors import BadChat, SteeringError, UnknownFeature

router = APIRouter(prefix="/v1")


class CalibrateRequest(BaseModel):
    """POST /v1/features/{id}/calibrate; the body may be left out."""

    model_config = ConfigDict(extra="forbid")

    prompts: Whole = Field(default=16, ge=4, le=16)
    """How many of the fixed questions; fewer are faster and less sure."""


@router.post("/steering/sweep", status_code=202, openapi_extra=wire(Job, 404, 429, takes=SweepOrder))
async def sweep_feature(request: Request) -> Response:
    """Try one feature at several strengths on your prompts; the job's result has the replies and what they are worth."""
    tiller: Tiller = request.app.state.tiller
    order = parse(SweepOrder, await request.body())
    if tiller.watch and not caller_of(request).may("researcher"):  # a job's replies are read by no guard
        said = "where guards read replies, a sweep takes a researcher's key"
        raise ApiError(403, said, code="role_too_low", kind="permission_error")
    try:
        for wanted in resolved(tiller.bundle, order, tiller.settings):
            tiller.allowed(wanted, caller_of(request))
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="feature") from error
    await asyncio.to_thread(_check_prompts, tiller, order)
    account = account_of(request)
    for wanted in resolved(tiller.bundle, order, tiller.settings):
        await account.steers(wanted.fingerprint)
    await account.spent(len(order.strengths) * len(order.prompts) * order.max_tokens)
    return await _begun(request, "sweep", order.model_dump(mode="json"))


@router.post(
    "/features/{feature_id:path}/calibrate",
    status_code=202,
    openapi_extra=wire(Job, takes=CalibrateRequest, optional=True),
)
async def calibrate_feature(request: Request, feature_id: str) -> Response:
    """Measure how far one feature can be pushed, and what that does; what comes of it is served as a new revision."""
    tiller: Tiller = request.app.state.tiller
    raw = await request.body()
    order = parse(CalibrateRequest, raw) if raw.strip() else CalibrateRequest()
    try:
        _, feature = tiller.catalogue.find(feature_id[:300])
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error
    tiller.bundle.sae.check_reads()
    if feature.typical_max <= 0:
        raise bad_request(f"{feature_id!r} was never seen to fire; describe the features first", param="id")
    return await _begun(request, "calibrate", {"features": [feature.id], "presets": False, "prompts": order.prompts})


def _check_prompts(tiller: Tiller, order: SweepOrder) -> None:
    """Raise a 400 for a prompt that the template cannot show, or that leaves no room for the reply."""
    for i, prompt in enumerate(order.prompts):
        try:
            n = len(tiller.engine.encode_chat([{"role": "user", "content": prompt}]).ids)
        except (BadChat, SteeringError) as error:
            raise bad_request(as_api_error(error).message, param=f"prompts.{i}") from error
        if n + order.max_tokens > tiller.engine.max_model_len:
            raise bad_request(
                f"the context holds {tiller.engine.max_model_len} tokens; this prompt takes {n} and max_tokens asks for {order.max_tokens}",
                param=f"prompts.{i}",
                code="context_length_exceeded",
            )


async def _begun(request: Request, kind: str, config: dict[str, object]) -> JSONResponse:
    job = await asyncio.to_thread(jobs_of(request).submit, kind, config, by=by_whom(request))
    await noted(request, "job begun", job=job.id, type=job.type)
    return JSONResponse(job.model_dump(), 202)
