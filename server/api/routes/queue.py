"""`/v1/queue`: how many replies are to begin before one's own. Knows names of requests; the order is the engine's.

A request is known by the `X-Request-Id` it was sent with, to whoever sent it and to nobody else. Each replica knows
those that wait with itself alone.
"""

from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_caller, current_model
from server.api.openapi import wire
from server.errors import ApiError

router = APIRouter(prefix="/v1/queue")


@router.get("/{request_id}", openapi_extra=wire(schemas.completions.Place))
async def get_place(request: Request, request_id: str) -> dict[str, Any]:
    """The place of a reply that waits for room; 404 once it has begun, or where it never was."""
    served = current_model(request)
    before = served.engine.queue_position(current_caller(request).subject() or "", request_id)
    if before is None:
        raise ApiError(404, f"no request {request_id[:64]!r} of yours waits here", code="not_found", param="id")
    return {"object": "place", "id": request_id, "before": before, "running": served.engine.occupancy[0]}
