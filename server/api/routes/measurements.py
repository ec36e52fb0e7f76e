"""`/v1/steering/sweep` and `/v1/features/{id}/calibrate`: measurements that run as jobs."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.api.body import JsonBody
from server.api.dependencies import (
    current_account,
    current_caller,
    current_model,
    job_queue,
    owner_of_request,
    write_audit,
)
from server.api.errors import to_api_error
from server.api.openapi import errors
from server.errors import ApiError, bad_request
from server.jobs.tasks.sweep import SweepConfig, resolve_sweep
from server.schemas.features import CalibrateRequest
from server.schemas.jobs import Job
from server.serving.served_model import ServedModel
from steering.errors import BadChat, SteeringError, UnknownFeature

router = APIRouter(prefix="/v1")


@router.post("/steering/sweep", status_code=202, tags=["Steering"], responses=errors(400, 404, 413))
async def sweep_feature(request: Request, body: Annotated[SweepConfig, Depends(JsonBody(SweepConfig))]) -> Job:
    """Run one feature at several strengths on the given prompts; the job's result has the replies and their scores."""
    served = current_model(request)
    if served.guards and not current_caller(request).has_role("researcher"):  # guards do not check the replies of a job
        said = "on a server with guards, a sweep requires a key with the role 'researcher'"
        raise ApiError(403, said, code="role_too_low", kind="permission_error")
    try:
        for wanted in resolve_sweep(served.bundle, body, served.settings):
            served.check_allowed(wanted, current_caller(request))
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="feature") from error
    await asyncio.to_thread(_check_prompts, served, body)
    account = current_account(request)
    for wanted in resolve_sweep(served.bundle, body, served.settings):
        await account.count_spec(wanted.fingerprint)
    await account.count_tokens(len(body.strengths) * len(body.prompts) * body.max_tokens)
    return await _submit(request, "sweep", body.model_dump(mode="json"))


@router.post(
    "/features/{feature_id:path}/calibrate",
    status_code=202,
    tags=["Features"],
    responses=errors(400, 404, 413),
)
async def calibrate_feature(
    request: Request,
    feature_id: str,
    body: Annotated[CalibrateRequest, Depends(JsonBody(CalibrateRequest, optional=True))],
) -> Job:
    """Measure a feature's dose and its effects; the result is served as a new revision."""
    served = current_model(request)
    try:
        _, feature = served.catalogue.find(feature_id[:300])
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error
    served.bundle.sae.check_reads()
    if feature.typical_max <= 0:
        raise bad_request(f"{feature_id!r} is not known to be active anywhere; describe the features first", param="id")
    return await _submit(request, "calibrate", {"features": [feature.id], "presets": False, "prompts": body.prompts})


def _check_prompts(served: ServedModel, order: SweepConfig) -> None:
    """Raise a 400 for a prompt that the template cannot render, or that leaves no room for the reply."""
    for i, prompt in enumerate(order.prompts):
        try:
            n = len(served.engine.encode_chat([{"role": "user", "content": prompt}]).ids)
        except (BadChat, SteeringError) as error:
            raise bad_request(to_api_error(error).message, param=f"prompts.{i}") from error
        if n + order.max_tokens > served.engine.max_model_len:
            raise bad_request(
                f"the context holds {served.engine.max_model_len} tokens; this prompt takes {n} and max_tokens asks for {order.max_tokens}",
                param=f"prompts.{i}",
                code="context_length_exceeded",
            )


async def _submit(request: Request, kind: str, config: dict[str, object]) -> Job:
    job = await asyncio.to_thread(job_queue(request).submit, kind, config, by=owner_of_request(request))
    await write_audit(request, "job begun", job=job.id, type=job.type)
    return job
