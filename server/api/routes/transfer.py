"""`/v1/export`, `/v1/import` and the same of presets: out as one document, in as a whole or not at all. Knows routes and the store."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server import schemas
from server.api.dependencies import caller_of, noted
from server.api.openapi import wire
from server.errors import ApiError, bad_request
from server.schemas.body import parse
from server.serving.served_model import Tiller
from server.store.models import Kept
from server.user_data.documents import (
    Export,
    PresetBundle,
    check_each_once,
)
from server.user_data.transfer import (
    UNTOLD,
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
    """The saved presets, those of `ids` (with commas between), with `shipped` also those that come with the model."""
    tiller: Tiller = request.app.state.tiller
    wanted = [i for i in ids.split(",") if i]
    caller = caller_of(request)
    there = {p.id: p for p in await tiller.presets(caller) if wanted or shipped or not p.readonly}
    if missing := [i for i in wanted if i not in there]:
        raise ApiError(404, f"no preset {missing[0][:64]!r}", code="preset_not_found", param="ids")
    chosen = [there[i] for i in wanted or there]
    presets = [p.model_copy(update={"model": tiller.model}).model_dump(exclude=UNTOLD) for p in chosen]
    return _document(tiller, "preset.bundle", {"presets": presets})


@router.post("/presets/import", openapi_extra=wire(schemas.user_data.PresetResults, 403, 409, takes=PresetBundle))
async def import_presets(request: Request, user: str = "") -> dict[str, Any]:
    """Save the presets of a bundle, all or none; with `user`, they may hold that user's vectors."""
    tiller: Tiller = request.app.state.tiller
    bundle = await asyncio.to_thread(parse, PresetBundle, await request.body())
    check_each_once([p.id for p in bundle.presets], "presets")
    caller = caller_of(request)
    found = [await importable_preset(tiller, bundle, i, user or None, caller) for i in range(len(bundle.presets))]
    mine = [p for p in found if p is not None]
    done = await restore_user_data(tiller, caller.person(user) or "", Kept(presets=tuple(mine)), replace=bundle.replace)
    await noted(request, "imported", entries=len(done))
    results = [{"id": p.id, "result": done.get(f"preset:{p.id}", "unchanged")} for p in bundle.presets]
    return {"object": "list", "data": results, "has_more": False, "next_cursor": None}


@router.get("/export", openapi_extra=wire(Export))
async def export_user(request: Request, user: str = "") -> Response:
    """All that is kept of a user: their presets (without keys everybody's), their own words, vectors and votes."""
    tiller, caller = request.app.state.tiller, caller_of(request)
    kept = await tiller.store.kept(caller.named(user), tiller.model)
    mine = [p for p in kept.presets if caller.owner is None or caller.owns(p.tenant, p.owner)]
    edits = [{"id": f"{tiller.model}/{n}", **e.model_dump(exclude={"before"})} for n, e in sorted(kept.edits.items())]
    votes = [{"kind": s.kind, "votes": [vars(v) for v in s.votes]} for s in kept.said]
    presets, vectors = ([x.model_dump() for x in some] for some in (mine, kept.vectors))
    return _document(
        tiller,
        "export",
        {"user": user or None, "presets": presets, "features": edits, "vectors": vectors, "votes": votes},
    )


@router.post("/import", openapi_extra=wire(schemas.user_data.Imported, 403, 409, takes=Export))
async def import_user(request: Request) -> dict[str, Any]:
    """Bring back what was exported, all or nothing."""
    tiller: Tiller = request.app.state.tiller
    document = await asyncio.to_thread(parse, Export, await request.body())
    if document.model != tiller.model:
        raise bad_request(f"this server serves {tiller.model!r}; the export is of {document.model!r}", param="model")
    await asyncio.to_thread(check_export, tiller, document)
    caller = caller_of(request)
    person = caller.named(document.user)
    presets = [await restored_preset(tiller, p, i, document.user, caller) for i, p in enumerate(document.presets)]
    if document.vectors and not caller.may("researcher"):
        raise ApiError(
            403, "vectors take a researcher's key", code="role_too_low", param="vectors", kind="permission_error"
        )
    whose = {"tenant": caller.tenant, "owner": caller.owner}
    kept = Kept(
        presets=tuple(p.model_copy(update=whose) for p in presets),
        edits={number_of(f.id): f.edited(by=None if caller.may("admin") else person) for f in document.features},
        vectors=tuple(document.vectors),
        said=tuple(s.said() for s in document.votes),
    )
    done = await restore_user_data(tiller, person, kept, replace=document.replace)
    await request.app.state.swap.relabel()
    await noted(request, "imported", entries=len(done))
    return {"object": "import", "user": document.user, "counts": count_results(done)}


def _document(tiller: Tiller, kind: str, content: dict[str, Any]) -> Response:
    about = {"model": tiller.model, "revision": tiller.bundle.info.revision, "exported": int(time.time())}
    name = f"tiller-{'presets' if kind == 'preset.bundle' else 'export'}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return JSONResponse({"object": kind, "version": 1, **about, **content}, headers=headers)
