"""The SAE's revisions: which there are, which is served, another one. Knows manifests and the swap, no tensors."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import caller_of, manifest_of, noted
from server.api.openapi import wire
from server.errors import ApiError
from server.serving.revision_switch import Swap
from server.serving.served_model import Tiller
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle

router = APIRouter(prefix="/v1/saes")


@router.get("", openapi_extra=wire(schemas.saes.SaeList))
async def list_saes(request: Request) -> dict[str, Any]:
    """All revisions, the shipped one first."""
    tiller: Tiller = request.app.state.tiller
    data = await asyncio.to_thread(lambda: [_listed(tiller, name) for name in tiller.revisions.names()])
    return {"object": "list", "data": data, "has_more": False, "next_cursor": None}


@router.get("/{revision}", openapi_extra=wire(schemas.saes.SaeInFull, 409))
async def get_sae(request: Request, revision: str) -> dict[str, Any]:
    """One revision with its report, and which features were retired."""
    tiller: Tiller = request.app.state.tiller
    manifest = await manifest_of(tiller, revision)
    seen = {p.id for p in await tiller.presets(caller_of(request))}
    retired = [{"id": f"{tiller.model}/{n}", **gone.model_dump()} for n, gone in manifest.retired.items()]
    return _told(tiller, manifest) | {
        "report": _visible(manifest.report, seen),
        "retired": retired,
        "sha256": manifest.sha256,
    }


@router.post("/rollback", openapi_extra=wire(schemas.saes.Activated, 404, 409))
async def roll_back_sae(request: Request) -> dict[str, str]:
    """Serve the parent of the revision that is served."""
    tiller: Tiller = request.app.state.tiller
    active = tiller.bundle.info.revision
    parent = (await manifest_of(tiller, active)).parent
    if parent is None:
        raise ApiError(
            409,
            f"{active!r} came with the bundle, there is nothing before it; GET /v1/saes lists what there is",
            code="no_parent",
            param="revision",
        )
    return await _activated(request, parent)


@router.post("/{revision}/activate", openapi_extra=wire(schemas.saes.Activated, 409))
async def activate_sae(request: Request, revision: str) -> dict[str, str]:
    """Serve a revision; the answer comes when new requests get it."""
    await manifest_of(request.app.state.tiller, revision)
    return await _activated(request, revision)


async def _activated(request: Request, revision: str) -> dict[str, str]:
    swap: Swap = request.app.state.swap
    try:
        previous = await swap.activate(revision)
    except BadBundle as error:
        serving = request.app.state.tiller.bundle.info.revision
        raise ApiError(
            409, f"{error}; {serving!r} is served as before", code="revision_refused", param="revision"
        ) from error
    await noted(request, "revision activated", revision=revision, previous=previous)
    return {"previous": previous, "active": revision}


def _visible(report: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """A report without what it says of presets that a caller does not see: their names are their owners'."""
    gates = [g for g in report.get("gates", ()) if g["name"].partition(":")[0] != "preset" or g["name"][7:] in seen]
    named = {"gates": gates, "presets": [p for p in report.get("presets", ()) if p in seen]}
    return report | {k: v for k, v in named.items() if k in report}


def _listed(tiller: Tiller, revision: str) -> dict[str, Any]:
    """A revision, or what is wrong with it: one that is damaged must not hide the others."""
    try:
        return _told(tiller, tiller.revisions.manifest(revision))
    except BadBundle as error:
        return {"id": revision, "object": "sae", "active": False, "error": str(error)}


def _told(tiller: Tiller, manifest: Manifest) -> dict[str, Any]:
    told = {"id": manifest.revision, "object": "sae"}
    told |= manifest.model_dump(include={"bundle", "parent", "created", "model", "hook", "d_in", "d_sae", "figures"})
    return told | {"active": manifest.revision == tiller.bundle.info.revision}
