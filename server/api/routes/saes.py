"""`/v1/saes`: list the SAE's revisions, activate one, roll back."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server.api.dependencies import current_caller, current_model, find_manifest, write_audit
from server.api.openapi import errors
from server.errors import ApiError
from server.schemas.saes import Activated, SaeDetail, SaeList, SaeSummary
from server.serving.revision_switch import RevisionSwitch
from server.serving.served_model import ServedModel
from steering.catalogue.revisions import Manifest
from steering.errors import BadBundle

router = APIRouter(prefix="/v1/saes", tags=["SAE"])


@router.get("", response_model_exclude_unset=True)
async def list_saes(request: Request) -> SaeList:
    """All revisions, the embedded one first."""
    served = current_model(request)
    data = await asyncio.to_thread(lambda: [_sae_summary(served, name) for name in served.revisions.names()])
    return SaeList.of_all(data)


@router.get("/{revision}", responses=errors(400, 404, 409), response_model_exclude_unset=True)
async def get_sae(request: Request, revision: str) -> SaeDetail:
    """One revision with its report and its retired features."""
    served = current_model(request)
    manifest = await find_manifest(served, revision)
    seen = {p.id for p in await served.presets(current_caller(request))}
    retired = [{"id": f"{served.model}/{n}", **gone.model_dump()} for n, gone in manifest.retired.items()]
    report = _visible_report(manifest.report, seen)
    return SaeDetail(**_summary_fields(served, manifest), report=report, retired=retired, sha256=manifest.sha256)


@router.post("/rollback", responses=errors(404, 409))
async def roll_back_sae(request: Request) -> Activated:
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


@router.post("/{revision}/activate", responses=errors(400, 404, 409))
async def activate_sae(request: Request, revision: str) -> Activated:
    """Serve a revision; the response is sent once new requests use it."""
    await find_manifest(current_model(request), revision)
    return await _activate(request, revision)


async def _activate(request: Request, revision: str) -> Activated:
    swap: RevisionSwitch = request.app.state.revision_switch
    try:
        previous = await swap.activate(revision)
    except BadBundle as error:
        serving = current_model(request).bundle.info.revision
        raise ApiError(
            409, f"{error}; {serving!r} is still served", code="revision_refused", param="revision"
        ) from error
    await write_audit(request, "revision activated", revision=revision, previous=previous)
    return Activated(previous=previous, active=revision)


def _visible_report(report: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """The report without presets that the caller may not see: their names are private."""
    gates = [g for g in report.get("gates", ()) if g["name"].partition(":")[0] != "preset" or g["name"][7:] in seen]
    named = {"gates": gates, "presets": [p for p in report.get("presets", ()) if p in seen]}
    return report | {k: v for k, v in named.items() if k in report}


def _sae_summary(served: ServedModel, revision: str) -> SaeSummary:
    """A revision, or its error: a damaged one must not hide the others."""
    try:
        return SaeSummary(**_summary_fields(served, served.revisions.manifest(revision)))
    except BadBundle as error:
        return SaeSummary(id=revision, object="sae", active=False, error=str(error))


def _summary_fields(served: ServedModel, manifest: Manifest) -> dict[str, Any]:
    fields = manifest.model_dump(include={"bundle", "parent", "created", "model", "hook", "d_in", "d_sae", "figures"})
    active = manifest.revision == served.bundle.info.revision
    return {"id": manifest.revision, "object": "sae", "active": active, **fields}
