"""`/v1/export`, `/v1/import` and their preset forms: export as one document, import all or nothing."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server import schemas
from server.api.dependencies import current_caller, current_model, write_audit
from server.api.openapi import wire
from server.errors import ApiError, bad_request
from server.schemas.body import parse_body
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


@router.get("/presets/export", openapi_extra=wire(PresetBundle, 404))
async def export_presets(request: Request, ids: str = "", shipped: bool = False) -> Response:
    """The saved presets, or those in `ids` (comma-separated); with `shipped` also those of the model."""
    served = current_model(request)
    wanted = [i for i in ids.split(",") if i]
    caller = current_caller(request)
    there = {p.id: p for p in await served.presets(caller) if wanted or shipped or not p.readonly}
    if missing := [i for i in wanted if i not in there]:
        raise ApiError(404, f"no preset {missing[0][:64]!r}", code="preset_not_found", param="ids")
    chosen = [there[i] for i in wanted or there]
    presets = [p.model_copy(update={"model": served.model}).model_dump(exclude=PRIVATE_FIELDS) for p in chosen]
    return _document(served, "preset.bundle", {"presets": presets})


@router.post("/presets/import", openapi_extra=wire(schemas.user_data.PresetResults, 403, 409, takes=PresetBundle))
async def import_presets(request: Request, user: str = "") -> dict[str, Any]:
    """Save the presets of a document, all or none; with `user`, they may use that user's vectors."""
    served = current_model(request)
    bundle = await asyncio.to_thread(parse_body, PresetBundle, await request.body())
    check_each_once([p.id for p in bundle.presets], "presets")
    caller = current_caller(request)
    found = [await importable_preset(served, bundle, i, user or None, caller) for i in range(len(bundle.presets))]
    mine = [p for p in found if p is not None]
    done = await restore_user_data(
        served, caller.subject(user) or "", UserData(presets=tuple(mine)), replace=bundle.replace
    )
    await write_audit(request, "imported", entries=len(done))
    results = [{"id": p.id, "result": done.get(f"preset:{p.id}", "unchanged")} for p in bundle.presets]
    return {"object": "list", "data": results, "has_more": False, "next_cursor": None}


@router.get("/export", openapi_extra=wire(Export))
async def export_user(request: Request, user: str = "") -> Response:
    """All data of a user: their presets (without keys: all presets), labels, vectors and votes."""
    served, caller = current_model(request), current_caller(request)
    kept = await served.store.user_data(caller.require_subject(user), served.model)
    mine = [p for p in kept.presets if caller.owner is None or caller.owns(p.tenant, p.owner)]
    edits = [{"id": f"{served.model}/{n}", **e.model_dump(exclude={"before"})} for n, e in sorted(kept.edits.items())]
    votes = [{"kind": s.kind, "votes": [vars(v) for v in s.votes]} for s in kept.said]
    presets, vectors = ([x.model_dump() for x in some] for some in (mine, kept.vectors))
    return _document(
        served,
        "export",
        {"user": user or None, "presets": presets, "features": edits, "vectors": vectors, "votes": votes},
    )


@router.post("/import", openapi_extra=wire(schemas.user_data.Imported, 403, 409, takes=Export))
async def import_user(request: Request) -> dict[str, Any]:
    """Import an exported document, all or nothing."""
    served = current_model(request)
    document = await asyncio.to_thread(parse_body, Export, await request.body())
    if document.model != served.model:
        raise bad_request(f"this server serves {served.model!r}; the export is of {document.model!r}", param="model")
    await asyncio.to_thread(check_export, served, document)
    caller = current_caller(request)
    person = caller.require_subject(document.user)
    presets = [await restored_preset(served, p, i, document.user, caller) for i, p in enumerate(document.presets)]
    if document.vectors and not caller.has_role("researcher"):
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
        edits={number_of(f.id): f.to_edit(by=None if caller.has_role("admin") else person) for f in document.features},
        vectors=tuple(document.vectors),
        said=tuple(s.to_batch() for s in document.votes),
    )
    done = await restore_user_data(served, person, kept, replace=document.replace)
    await request.app.state.revision_switch.relabel()
    await write_audit(request, "imported", entries=len(done))
    return {"object": "import", "user": document.user, "counts": count_results(done)}


def _document(served: ServedModel, kind: str, content: dict[str, Any]) -> Response:
    about = {"model": served.model, "revision": served.bundle.info.revision, "exported": int(time.time())}
    name = f"tiller-{'presets' if kind == 'preset.bundle' else 'export'}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return JSONResponse({"object": kind, "version": 1, **about, **content}, headers=headers)
