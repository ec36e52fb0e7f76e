"""`GET /metrics`: Prometheus' text. Knows where the figures that are of now are asked for; keeps none."""

import asyncio
from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from server.api.routes.jobs import jobs_of
from server.jobs.queue import Job
from server.serving.served_model import Tiller
from server.store.base import trouble
from server.telemetry import metrics
from server.version import VERSION

router = APIRouter()


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
