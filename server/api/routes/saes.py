"""`/v1/saes`: list the SAE's revisions, activate one, roll back."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server import schemas
from server.api.dependencies import current_caller, current_model, find_manifest, write_audit
from server.api.openapi import wire
from server.errors import ApiError
from server.serving.revision_switch import RevisionSwitch
from server.serving.served_model import ServedModel
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle

router = APIRouter(prefix="/v1/saes")


@router.get("", openapi_extra=wire(schemas.saes.SaeList))
async def list_saes(request: Request) -> dict[str, Any]:
    """All revisions, the embedded one first."""
    served = current_model(request)
    data = await asyncio.to_thread(lambda: [_sae_summary(served, name) for name in served.revisions.names()])
    return {"object": "list", "data": data, "has_more": False, "next_cursor": None}


@router.get("/{revision}", openapi_extra=wire(schemas.saes.SaeDetail, 409))
async def get_sae(request: Request, revision: str) -> dict[str, Any]:
    """One revision with its report and its retired features."""
    served = current_model(request)
    manifest = await find_manifest(served, revision)
    seen = {p.id for p in await served.presets(current_caller(request))}
    retired = [{"id": f"{served.model}/{n}", **gone.model_dump()} for n, gone in manifest.retired.items()]
    return _sae_to_dict(served, manifest) | {
        "report": _visible_report(manifest.report, seen),
        "retired": retired,
        "sha256": manifest.sha256,
    }


@router.post("/rollback", openapi_extra=wire(schemas.saes.Activated, 404, 409))
async def roll_back_sae(request: Request) -> dict[str, str]:
    """Serve the parent of the served revision."""
    served = current_model(request)
    active = served.bundle.info.revision
    parent = (await find_manifest(served, active)).parent
    if parent is None:
        raise ApiError(
            409,
            f"{active!r} came with the bundle and has no parent; GET /v1/saes lists the revisions",
            code="no_parent",
            param="revision",
        )
    return await _activate(request, parent)


@router.post("/{revision}/activate", openapi_extra=wire(schemas.saes.Activated, 409))
async def activate_sae(request: Request, revision: str) -> dict[str, str]:
    """Serve a revision; the response is sent once new requests use it."""
    await find_manifest(current_model(request), revision)
    return await _activate(request, revision)


async def _activate(request: Request, revision: str) -> dict[str, str]:
    swap: RevisionSwitch = request.app.state.revision_switch
    try:
        previous = await swap.activate(revision)
    except BadBundle as error:
        serving = current_model(request).bundle.info.revision
        raise ApiError(
            409, f"{error}; {serving!r} is still served", code="revision_refused", param="revision"
        ) from error
    await write_audit(request, "revision activated", revision=revision, previous=previous)
    return {"previous": previous, "active": revision}


def _visible_report(report: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """The report without presets that the caller may not see: their names are private."""
    gates = [g for g in report.get("gates", ()) if g["name"].partition(":")[0] != "preset" or g["name"][7:] in seen]
    named = {"gates": gates, "presets": [p for p in report.get("presets", ()) if p in seen]}
    return report | {k: v for k, v in named.items() if k in report}


def _sae_summary(served: ServedModel, revision: str) -> dict[str, Any]:
    """A revision, or its error: a damaged one must not hide the others."""
    try:
        return _sae_to_dict(served, served.revisions.manifest(revision))
    except BadBundle as error:
        return {"id": revision, "object": "sae", "active": False, "error": str(error)}


def _sae_to_dict(served: ServedModel, manifest: Manifest) -> dict[str, Any]:
    told = {"id": manifest.revision, "object": "sae"}
    told |= manifest.model_dump(include={"bundle", "parent", "created", "model", "hook", "d_in", "d_sae", "figures"})
    return told | {"active": manifest.revision == served.bundle.info.revision}
