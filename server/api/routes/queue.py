"""`/v1/queue`: the position of a waiting request in the queue.

A request is found by the `X-Request-Id` that it was sent with, and only by its own caller. Each
replica knows only its own queue.
"""

from fastapi import APIRouter, Request

from server.api.dependencies import current_caller, current_model
from server.api.openapi import errors
from server.errors import ApiError
from server.schemas.completions import Place

router = APIRouter(prefix="/v1/queue", tags=["Chat"])


@router.get("/{request_id}", responses=errors(400, 404))
async def get_place(request: Request, request_id: str) -> Place:
    """Position of a waiting reply; 404 once it has started, or if the id is unknown."""
    served = current_model(request)
    before = served.engine.queue_position(current_caller(request).subject() or "", request_id)
    if before is None:
        raise ApiError(404, f"no request {request_id[:64]!r} of yours is waiting here", code="not_found", param="id")
    return Place(object="place", id=request_id, before=before, running=served.engine.occupancy[0])
