"""`/v1/export`, `/v1/import` and their preset forms: export as one document, import all or nothing."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model, write_audit
from server.api.openapi import errors
from server.errors import ApiError, bad_request
from server.executors import IMPORTS, run_in
from server.schemas.user_data import Imported, PresetResult, PresetResults
from server.serving.served_model import ServedModel
from server.store.models import UserData
from server.user_data.documents import (
    Export,
    PresetBundle,
    check_each_once,
)
from server.user_data.transfer import (
    PRIVATE_FIELDS,
    check_export,
    count_results,
    importable_preset,
    restore_user_data,
    restored_preset,
)
from steering.catalogue.feature import number_of

router = APIRouter(prefix="/v1")
IMPORTED = 1_000_000
"""Maximum number of items in a document: it has as many features as an SAE, each with a handful of fields."""


@router.get("/presets/export", tags=["Presets"], responses=errors(400, 404), response_model_exclude_unset=True)
async def export_presets(request: Request, response: Response, ids: str = "", shipped: bool = False) -> PresetBundle:
    """The saved presets, or those in `ids` (comma-separated); with `shipped` also those of the model."""
    served = current_model(request)
    wanted = [i for i in ids.split(",") if i]
    caller = current_caller(request)
    there = {p.id: p for p in await served.presets(caller) if wanted or shipped or not p.readonly}
    if missing := [i for i in wanted if i not in there]:
        raise ApiError(404, f"no preset {missing[0][:64]!r}", code="preset_not_found", param="ids")
    chosen = [there[i] for i in wanted or there]
    presets = [p.model_copy(update={"model": served.model}).model_dump(exclude=PRIVATE_FIELDS) for p in chosen]
    fields = _document_fields(response, served, "tiller-presets.json")
    return PresetBundle.model_validate({"object": "preset.bundle", "version": 1, **fields, "presets": presets})


@router.post("/presets/import", tags=["Presets"], responses=errors(400, 409, 413))
async def import_presets(
    request: Request,
    body: Annotated[PresetBundle, Depends(JsonBody(PresetBundle, total=IMPORTED, executor=IMPORTS))],
    user: str = "",
) -> PresetResults:
    """Save the presets of a document, all or none; with `user`, they may use that user's vectors."""
    served = current_model(request)
    check_each_once([p.id for p in body.presets], "presets")
    caller = current_caller(request)
    found = [await importable_preset(served, body, i, user or None, caller) for i in range(len(body.presets))]
    mine = [p for p in found if p is not None]
    done = await restore_user_data(
        served, caller.subject(user) or "", UserData(presets=tuple(mine)), replace=body.replace
    )
    await write_audit(request, "imported", entries=len(done))
    results = [PresetResult(id=p.id, result=done.get(f"preset:{p.id}", "unchanged")) for p in body.presets]
    return PresetResults.of_all(results)


@router.get("/export", tags=["Users"], responses=errors(400), response_model_exclude_unset=True)
async def export_user(request: Request, response: Response, user: str = "") -> Export:
    """All data of a user: their presets (without keys: all presets), labels, vectors and votes."""
    served, caller = current_model(request), current_caller(request)
    kept = await served.store.user_data(caller.require_subject(user), served.model)
    mine = [p for p in kept.presets if caller.owner is None or caller.owns(p.tenant, p.owner)]
    edits = [{"id": f"{served.model}/{n}", **e.model_dump(exclude={"before"})} for n, e in sorted(kept.edits.items())]
    votes = [{"kind": s.kind, "votes": [vars(v) for v in s.votes]} for s in kept.said]
    presets, vectors = ([x.model_dump() for x in some] for some in (mine, kept.vectors))
    content = {"user": user or None, "presets": presets, "features": edits, "vectors": vectors, "votes": votes}
    fields = _document_fields(response, served, "tiller-export.json")
    return Export.model_validate({"object": "export", "version": 1, **fields, **content})


@router.post("/import", tags=["Users"], responses=errors(400, 409, 413))
async def import_user(
    request: Request, body: Annotated[Export, Depends(JsonBody(Export, total=IMPORTED, executor=IMPORTS))]
) -> Imported:
    """Import an exported document, all or nothing."""
    served = current_model(request)
    if body.model != served.model:
        raise bad_request(f"this server serves {served.model!r}; the export is of {body.model!r}", param="model")
    await run_in(IMPORTS, check_export, served, body)
    caller = current_caller(request)
    person = caller.require_subject(body.user)
    presets = [await restored_preset(served, p, i, body.user, caller) for i, p in enumerate(body.presets)]
    if body.vectors and not caller.has_role("researcher"):
        raise ApiError(
            403,
            "vectors require a key with the role 'researcher'",
            code="role_too_low",
            param="vectors",
            kind="permission_error",
        )
    whose = {"tenant": caller.tenant, "owner": caller.owner}
    kept = UserData(
        presets=tuple(p.model_copy(update=whose) for p in presets),
        edits={number_of(f.id): f.to_edit(by=None if caller.has_role("admin") else person) for f in body.features},
        vectors=tuple(body.vectors),
        said=tuple(s.to_batch() for s in body.votes),
    )
    done = await restore_user_data(served, person, kept, replace=body.replace)
    await request.app.state.revision_switch.relabel()
    await write_audit(request, "imported", entries=len(done))
    return Imported(object="import", user=body.user, counts=count_results(done))


def _document_fields(response: Response, served: ServedModel, name: str) -> dict[str, Any]:
    """Common fields of an export; the response is downloaded as the file `name`."""
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return {"model": served.model, "revision": served.bundle.info.revision, "exported": int(time.time())}
