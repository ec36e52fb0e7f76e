"""`/v1/export`, `/v1/import` and the same of presets: out as one document, in as a whole or not at all. Knows routes and the store."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server import schemas
from server.api.openapi import wire
from server.api.routes import feedback
from server.api.routes import vectors as vectors_routes
from server.api.routes.presets import RESERVED, checked, may_change
from server.auth.audit_log import noted
from server.auth.caller import Caller, caller_of
from server.errors import ApiError, bad_request
from server.schemas.generation import check_sampling, parse
from server.serving.served_model import Tiller
from server.store.base import Conflict, Kept, Restored, Taken
from server.user_data.documents import (
    Export,
    NamedEdit,
    PresetBundle,
    as_error,
    check_each_once,
    check_measured,
    check_snapshot,
)
from steering.catalogue.bundle import number_of
from steering.errors import SteeringError, UnknownFeature
from steering.spec import Preset

router = APIRouter(prefix="/v1")
UNTOLD = {"snapshots", "sweet_spot", "calibration"}
"""Of a preset, what only its own server believes."""


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
    found = [await _importable(tiller, bundle, i, user or None, caller) for i in range(len(bundle.presets))]
    mine = [p for p in found if p is not None]
    done = await _restored(tiller, caller.person(user) or "", Kept(presets=tuple(mine)), replace=bundle.replace)
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
    await asyncio.to_thread(_check, tiller, document)
    caller = caller_of(request)
    person = caller.named(document.user)
    presets = [await _brought(tiller, p, i, document.user, caller) for i, p in enumerate(document.presets)]
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
    done = await _restored(tiller, person, kept, replace=document.replace)
    await request.app.state.swap.relabel()
    await noted(request, "imported", entries=len(done))
    return {"object": "import", "user": document.user, "counts": _counts(done)}


async def _brought(tiller: Tiller, preset: Preset, i: int, user: str | None, caller: Caller) -> Preset:
    """A preset of one's own export. Measurements and vectors are believed of a researcher alone: others would bring any."""
    await _allowed(tiller, preset.id, f"presets.{i}", caller)
    with placed(f"presets.{i}"):
        if not caller.may("researcher"):
            return await checked(tiller, preset, user=user, caller=caller)
        tiller.allowed(tiller.resolve(preset.steering, preset.pins), caller)
        return preset


async def _importable(tiller: Tiller, bundle: PresetBundle, i: int, user: str | None, caller: Caller) -> Preset | None:
    """The preset as it may be saved; None for one that comes with the model and is the same here."""
    given, place = bundle.presets[i], f"presets.{i}"
    own = (given.model or bundle.model) in ("", tiller.model)
    strange = await _unknown(tiller, given, user, caller) if own else _features(given)
    if not own or strange:
        whose = f"is for {given.model or bundle.model!r}, and this server serves {tiller.model!r}" if not own else ""
        raise bad_request(
            f"{given.id!r} {whose or 'steers what is not here'}; these features cannot be mapped: {', '.join(strange)}",
            param=f"{place}.{'steering.features' if own else 'model'}",
            code="cannot_be_mapped",
            more={"features": strange},
        )
    shipped = next((p for p in tiller.bundle.presets if p.id == given.id), None)
    if shipped and _said(given) == _said(shipped):
        return None
    await _allowed(tiller, given.id, place, caller)
    new = given.model_copy(update={"version": 1, "updated": 0})
    with placed(place):
        return await checked(tiller, new, user=user, caller=caller)


async def _unknown(tiller: Tiller, preset: Preset, user: str | None, caller: Caller) -> list[str]:
    """Which of its features are neither here nor kept with a preset of that id, or are vectors that this user has not."""
    held = await tiller.store.preset(preset.id, caller.tenant)
    known, missing = {*await tiller.vectors(caller.person(user), preset.steering), *(held.pins if held else ())}, []
    for name in _features(preset):
        try:
            if name not in known:
                tiller.catalogue.find(name)
        except UnknownFeature:
            missing.append(name)
    return missing


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Say where in the document it was that something is wrong."""
    try:
        yield
    except (ApiError, SteeringError) as error:
        raise as_error(error, place) from error


def _check(tiller: Tiller, document: Export) -> None:
    check_each_once([p.id for p in document.presets], "presets")
    check_each_once([f.id for f in document.features], "features")
    check_each_once([v.name for v in document.vectors], "vectors")
    for i, feature in enumerate(document.features):
        _check_edit(tiller, feature, f"features.{i}")
    for i, vector in enumerate(document.vectors):
        if vector.snapshot.id != vector.id:
            raise bad_request(f"the vector {vector.name!r} has the id {vector.snapshot.id!r}", param=f"vectors.{i}")
        check_snapshot(vector.snapshot, tiller.engine.width, param=f"vectors.{i}.snapshot")
    for i, preset in enumerate(document.presets):
        with placed(f"presets.{i}"):
            _check_preset(tiller, preset)


def _check_preset(tiller: Tiller, preset: Preset) -> None:
    """A preset comes with its own snapshots here: it may steer what the SAE has no more."""
    if preset.id in RESERVED or preset.model != tiller.model:
        raise bad_request(f"{preset.id!r} is for {preset.model!r}, or has an id that cannot be", param="model")
    check_sampling(preset.sampling)
    check_measured(preset, tiller.engine.width)
    tiller.resolve(preset.steering, preset.pins)


def _check_edit(tiller: Tiller, feature: NamedEdit, param: str) -> None:
    if feature.id != f"{tiller.model}/{number_of(feature.id)}" or number_of(feature.id) < 0:
        raise bad_request(f"{feature.id!r} is no feature of {tiller.model!r}", param=f"{param}.id")
    if feature.edited().empty:
        raise bad_request(f"nothing is said of {feature.id!r}; leave it out", param=param)


async def _allowed(tiller: Tiller, preset_id: str, place: str, caller: Caller) -> None:
    try:
        await may_change(tiller, preset_id, caller)
    except ApiError as error:
        raise error.within(place) from error


async def _restored(tiller: Tiller, user: str, kept: Kept, *, replace: bool) -> dict[str, Restored]:
    most = {"votes": feedback.MOST, "vectors": vectors_routes.MOST}
    try:
        return await tiller.store.restore(user, tiller.model, kept, replace=replace, **most)
    except Taken as error:
        names = [n.replace("feature:", f"feature:{tiller.model}/") for n in error.names]
        raise ApiError(
            409,
            f"{', '.join(names[:8])}: there already, and not the same; nothing was imported: set replace to true, or leave them out",
            code="import_conflict",
            param="replace",
            more={"conflicts": names},
        ) from error
    except Conflict as error:
        raise ApiError(409, f"{error}; nothing was imported", code="import_conflict", param="vectors") from error


def _counts(done: dict[str, Restored]) -> dict[str, dict[str, int]]:
    """How many of each kind were created, replaced and left unchanged."""
    found: dict[str, dict[str, int]] = {}
    for name, result in done.items():
        of = found.setdefault(name.partition(":")[0], {"created": 0, "replaced": 0, "unchanged": 0})
        of[result] += 1
    return found


def _features(preset: Preset) -> list[str]:
    return [f.id for f in preset.steering.features]


def _said(preset: Preset) -> dict[str, Any]:
    return preset.model_dump(
        exclude={*UNTOLD, "model", "readonly", "version", "updated", "tenant", "owner", "visibility"}
    )


def _document(tiller: Tiller, kind: str, content: dict[str, Any]) -> Response:
    about = {"model": tiller.model, "revision": tiller.bundle.info.revision, "exported": int(time.time())}
    name = f"tiller-{'presets' if kind == 'preset.bundle' else 'export'}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return JSONResponse({"object": kind, "version": 1, **about, **content}, headers=headers)
