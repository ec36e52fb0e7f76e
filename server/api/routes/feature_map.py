"""`/v1/features-map`: two-dimensional map of all features."""

import asyncio
import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from server.api.dependencies import current_model
from server.api.openapi import errors
from server.features.map_files import load_map, map_folder
from server.schemas.features import FeaturesMap, FeaturesMapMeta, MapPoint
from steering.interpret.feature_map import ABOUT, FeatureMap

router = APIRouter(prefix="/v1/features-map", tags=["Features"])


BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
"""Media type of a map as float32, x and y alternating."""


@router.get(
    "",
    response_model=FeaturesMap,
    responses={200: {"content": BINARY}, 304: {"description": "Not modified."}} | errors(400),
)
async def get_features_map(
    request: Request,
    response: Response,
    format: Literal["json", "bin"] = "json",
    if_none_match: Annotated[str, Header()] = "",
) -> FeaturesMap | Response:
    """Coordinates of each feature: pairs of numbers in −1 … 1, in the order of the SAE's rows;
    `bin` is float32, x and y alternating."""
    served = current_model(request)
    found = await _map(request)
    tag = f'"{hashlib.sha256(found.data).hexdigest()[:32]}-{format}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in [t.strip().removeprefix("W/") for t in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    if format == "bin":
        return Response(found.data, media_type="application/octet-stream", headers=headers)
    response.headers.update(headers)
    return FeaturesMap(
        object="features_map",
        revision=served.bundle.info.revision,
        method=found.about.method,
        index=[f.index for f in served.bundle.features],
        points=[[round(x, 4), round(y, 4)] for x, y in found.points.tolist()],
    )


@router.get("/meta", responses=errors(400))
async def get_features_map_meta(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
    cursor: Annotated[str, Query(pattern=r"^[0-9]{1,9}$")] = "0",
) -> FeaturesMapMeta:
    """The clusters with their names, and one page of the points' metadata."""
    served = current_model(request)
    found, start = await _map(request), int(cursor)
    points = [
        MapPoint(
            id=f.id,
            label=f.label,
            density=f.density,
            max_activation=f.max_activation,
            kind=[*f.kind],
            cluster=found.about.member[start + i],
        )
        for i, f in enumerate(served.bundle.features[start : start + limit])
    ]
    total, more = len(served.bundle.features), len(served.bundle.features) > start + limit
    return FeaturesMapMeta(
        object="list",
        revision=served.bundle.info.revision,
        method=found.about.method,
        clusters=[*found.about.clusters],
        total=total,
        data=points,
        has_more=more,
        next_cursor=str(start + limit) if more else None,
    )


async def _map(request: Request) -> FeatureMap:
    """The map of the served revision, read or computed once; read again after a job has written a new one."""
    state, served = request.app.state, current_model(request)
    if getattr(state, "map_lock", None) is None:
        state.map_lock, state.map = asyncio.Lock(), None
    async with state.map_lock:
        file = map_folder(served.settings, served.bundle) / ABOUT
        of = (served.bundle.files, file.stat().st_mtime_ns if file.exists() else 0)
        if state.map is None or state.map[0] != of:
            state.map = of, await asyncio.to_thread(load_map, served.settings, served.bundle)
        return state.map[1]
