"""`/v1/jobs…`: create, follow, pause and cancel long-running jobs."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import StreamingResponse

from server.api.body import JsonBody, without_nulls
from server.api.body_limits import check_items
from server.api.dependencies import current_caller, job_queue, owner_of_request, write_audit
from server.api.openapi import JOB_EVENT, errors, event_stream
from server.api.sse import UNBUFFERED, dump_one_line
from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.jobs.queue import BadJob, JobQueue
from server.schemas.jobs import ENDED, Job, JobRequest
from server.schemas.service import Artifact, ArtifactList, JobDeleted, JobList
from server.store.base import Unavailable

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])
KEEPALIVE_SECONDS = 15.0
"""Seconds of silence after which a stream sends a keep-alive comment."""
MAX_RESULT_CHARS = 8000
"""Maximum characters of one field of a result in a list; longer ones only come with the job itself."""


@router.post("", status_code=202, responses=errors(400, 413))
async def start_job(request: Request, body: Annotated[JobRequest, Depends(JsonBody(JobRequest))]) -> Job:
    """Create a job and queue it."""
    try:
        job = await asyncio.to_thread(_submit, job_queue(request), body, owner_of_request(request))
    except BadJob as error:
        raise bad_request(str(error), param="config" if body.type in job_queue(request).kinds else "type") from error
    await write_audit(request, "job begun", job=job.id, type=job.type)
    return job


@router.get("", responses=errors(400))
async def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> JobList:
    """Jobs, newest first, without the long fields of their results; page with `cursor`."""
    caller = current_caller(request)
    jobs = [j for j in await asyncio.to_thread(job_queue(request).all) if cursor is None or j.created < cursor]
    jobs = [j for j in jobs if _is_visible(caller, j)]
    page, more = jobs[:limit], len(jobs) > limit
    cursor_of_next = str(page[-1].created) if more else None
    return JobList(object="list", data=[_job_summary(j) for j in page], has_more=more, next_cursor=cursor_of_next)


@router.get("/{job_id}", responses=errors(400, 404))
async def get_job(request: Request, job_id: str) -> Job:
    """One job in its current state."""
    return await _find_job(request, job_id)


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=event_stream(JOB_EVENT) | errors(400, 404),
)
async def follow_job(request: Request, job_id: str, last_event_id: Annotated[str, Header()] = "0") -> StreamingResponse:
    """Stream of the job's `metric`, `log` and `state` events; `Last-Event-ID` resumes after an event."""
    await _find_job(request, job_id)
    if not (last_event_id.isdecimal() and len(last_event_id) < 19):
        raise bad_request("Last-Event-ID must be the number of an event", param="Last-Event-ID")
    events = _job_events(job_queue(request), job_id, int(last_event_id))
    return StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)


@router.post("/{job_id}/cancel", status_code=202, responses=errors(400, 404, 409))
async def cancel_job(request: Request, job_id: str) -> Job:
    """Cancel a job."""
    return await _change_state(request, job_id, job_queue(request).cancel)


@router.post("/{job_id}/pause", status_code=202, responses=errors(400, 404, 409))
async def pause_job(request: Request, job_id: str) -> Job:
    """Pause a running job; other jobs run in the meantime."""
    return await _change_state(request, job_id, job_queue(request).pause)


@router.post("/{job_id}/resume", status_code=202, responses=errors(400, 404, 409))
async def resume_job(request: Request, job_id: str) -> Job:
    """Resume a paused job; if another one is running, after that."""
    return await _change_state(request, job_id, job_queue(request).resume)


@router.delete("/{job_id}", responses=errors(400, 404, 409))
async def delete_job(request: Request, job_id: str) -> JobDeleted:
    """Delete a job that has ended, and its files."""
    await _find_job(request, job_id)
    try:
        await asyncio.to_thread(job_queue(request).delete, job_id)
    except BadJob as error:
        raise ApiError(409, str(error), code="wrong_state") from error
    return JobDeleted(id=job_id, deleted=True)


@router.get("/{job_id}/artifacts", responses=errors(400, 404))
async def list_artifacts(request: Request, job_id: str) -> ArtifactList:
    """The job's files, with size and SHA-256."""
    await _find_job(request, job_id)
    jobs = job_queue(request)

    def read() -> list[Artifact]:
        return [
            Artifact(
                name=p.relative_to(jobs.folder / job_id).as_posix(),
                bytes=p.stat().st_size,
                sha256=hashlib.sha256(p.read_bytes()).hexdigest(),
            )
            for p in jobs.artifacts(job_id)
        ]

    return ArtifactList(object="list", data=await asyncio.to_thread(read))


def _submit(jobs: JobQueue, body: JobRequest, by: tuple[str, str | None]) -> Job:
    """Queue a job; a null in its configuration is absent. Raises BadJob, and ApiError for too many items."""
    schema, _ = jobs.task(body.type)
    try:
        check_items(schema, body.config)
    except ApiError as error:
        raise error.within("config") from error
    return jobs.submit(body.type, cast(dict[str, Any], without_nulls(schema, body.config)), body.idempotency_key, by=by)


async def _change_state(request: Request, job_id: str, change: Callable[[str], Job]) -> Job:
    await _find_job(request, job_id)
    try:
        return await asyncio.to_thread(change, job_id)
    except BadJob as error:
        raise ApiError(409, str(error), code="wrong_state") from error


async def _job_events(jobs: JobQueue, job_id: str, after: int) -> AsyncIterator[str]:
    spoken = time.monotonic()
    while True:
        try:
            ended = (await asyncio.to_thread(jobs.get, job_id)).state in ENDED
            events = await asyncio.to_thread(jobs.events, job_id, after)
        except BadJob:
            return  # deleted
        except Unavailable:
            yield ": the store is unavailable\n\n"  # the job continues, and so does this stream once the store is back
            await asyncio.sleep(1)
            continue
        for event in events:
            after = event["id"]
            yield f"id: {after}\nevent: {event['event']}\ndata: {dump_one_line(event['data'])}\n\n"
        if ended:
            return
        if events:
            spoken = time.monotonic()
        elif time.monotonic() - spoken > KEEPALIVE_SECONDS:
            yield ": ping\n\n"  # proxies close idle connections
            spoken = time.monotonic()
        await asyncio.sleep(0.3)


def _job_summary(job: Job) -> Job:
    result = {k: v for k, v in job.result.items() if len(json.dumps(v)) <= MAX_RESULT_CHARS}
    return job.model_copy(update={"result": result})


async def _find_job(request: Request, job_id: str) -> Job:
    """Raises ApiError for a missing job and, with the same 404, for one of another owner."""
    try:
        found = await asyncio.to_thread(job_queue(request).get, job_id)
    except BadJob as error:
        raise ApiError(404, str(error), code="not_found") from error
    if not _is_visible(current_caller(request), found):
        raise ApiError(404, f"no job {job_id!r}", code="not_found")
    return found


def _is_visible(caller: Caller, job: Job) -> bool:
    return caller.has_role("admin") or caller.owns(job.tenant, job.owner)
