"""Presets: read, save, replace, delete. Knows values and the store; what a preset steers is checked as in a request."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from server import schemas
from server.api.openapi import wire
from server.auth.audit_log import noted
from server.auth.caller import ANYONE, Caller, caller_of
from server.errors import ApiError, bad_request
from server.schemas.generation import check_sampling, parse
from server.serving.served_model import Tiller
from server.store.base import Conflict
from server.store.encryption import alias
from steering.spec import Preset

router = APIRouter(prefix="/v1/presets")
RESERVED = ("export", "import")
"""What stands beside the ids in addresses."""


@router.get("", openapi_extra=wire(schemas.user_data.PresetList))
async def list_presets(request: Request, snapshots: bool = False) -> dict[str, Any]:
    """The bundle's presets and the saved ones; with `snapshots`, what each keeps of its features."""
    tiller: Tiller = request.app.state.tiller
    return {
        "object": "list",
        "data": [_told(p, caller_of(request), snapshots=snapshots) for p in await tiller.presets(caller_of(request))],
        "has_more": False,
        "next_cursor": None,
    }


@router.get("/{preset_id}", openapi_extra=wire(Preset))
async def get_preset(request: Request, preset_id: str, snapshots: bool = False) -> Response:
    """One preset; its version is the ETag."""
    tiller: Tiller = request.app.state.tiller
    found = await tiller.preset(preset_id, caller_of(request))
    if found is None:
        raise _missing(preset_id)
    return _answer(found, caller_of(request), snapshots=snapshots)


@router.post("", status_code=201, openapi_extra=wire(Preset, 409, takes=Preset))
async def create_preset(request: Request, user: str | None = None) -> Response:
    """Save a new preset; with `user`, it may hold that user's vectors, and keeps them."""
    tiller: Tiller = request.app.state.tiller
    caller = caller_of(request)
    wanted = await checked(tiller, parse(Preset, await request.body()), user=user, caller=caller)
    taken = ApiError(
        409,
        f"there is a preset {wanted.id!r} already; choose another id, or PUT to replace it",
        code="preset_exists",
        param="id",
    )
    if any(p.id == wanted.id for p in tiller.bundle.presets):
        raise taken
    try:
        saved = await tiller.store.save_preset(wanted, based_on=0)
    except Conflict as error:
        raise taken from error
    await noted(request, "preset saved", preset=alias(saved.id), version=saved.version, hash=saved.steering.fingerprint)
    return _answer(saved, caller, 201)


@router.put("/{preset_id}", openapi_extra=wire(Preset, 403, 409, 412, takes=Preset))
async def replace_preset(
    request: Request, preset_id: str, user: str | None = None, if_match: Annotated[str, Header()] = ""
) -> Response:
    """Create or replace; `If-Match` with a version refuses to overwrite somebody else's change."""
    tiller: Tiller = request.app.state.tiller
    wanted = parse(Preset, await request.body())
    if wanted.id != preset_id:
        raise bad_request(f"the body's id {wanted.id!r} is not that of the address, {preset_id!r}", param="id")
    caller = caller_of(request)
    await may_change(tiller, preset_id, caller)
    wanted = await checked(tiller, wanted, user=user, caller=caller)
    match = if_match.strip('"')
    if match not in ("", "*") and not (match.isdecimal() and len(match) < 19):
        raise bad_request(f"If-Match must be a preset's version, not {match[:64]!r}", param="If-Match")
    try:
        based_on = int(match) if match.isdecimal() else None
        saved = await tiller.store.save_preset(wanted, based_on=based_on)
    except Conflict as error:
        raise ApiError(
            412, f"{error}; read it again and repeat your change", code="version_conflict", param="If-Match"
        ) from error
    await noted(
        request, "preset saved", preset=alias(preset_id), version=saved.version, hash=saved.steering.fingerprint
    )
    return _answer(saved, caller)


@router.delete("/{preset_id}", openapi_extra=wire(schemas.user_data.Deleted, 403, 409))
async def delete_preset(request: Request, preset_id: str) -> dict[str, Any]:
    """Forget a saved preset."""
    tiller: Tiller = request.app.state.tiller
    held = await may_change(tiller, preset_id, caller_of(request))
    if held and held.tenant == "" and preset_id in await _defaults(tiller):
        said = f"{preset_id!r} is steered by default; name another default first, or none"
        raise ApiError(409, said, code="preset_in_use", param="id")
    if held is None or not await tiller.store.delete_preset(preset_id, held.tenant):
        raise _missing(preset_id)
    await noted(request, "preset deleted", preset=alias(preset_id))
    return {"id": preset_id, "object": "preset", "deleted": True}


async def checked(tiller: Tiller, wanted: Preset, *, user: str | None, caller: Caller = ANYONE) -> Preset:
    """A preset as a caller may save it, its features pinned, and whose it is. Raises ApiError and SteeringError.

    Nobody brings measurements or vectors of their own; what was measured stays while the steering does.
    """
    if wanted.id in RESERVED:
        raise bad_request(f"{wanted.id!r} is an address of its own; choose another id", param="id")
    if wanted.model not in ("", tiller.model):
        raise bad_request(f"this server serves {tiller.model!r}; the preset is for {wanted.model!r}", param="model")
    check_sampling(wanted.sampling)
    held = await _held(tiller, wanted.id, caller)
    kept = await tiller.vectors(caller.person(user), wanted.steering)
    kept |= held.pins if held and held.model == tiller.model else {}
    tiller.allowed(tiller.resolve(wanted.steering, kept), caller)
    same = held is not None and held.steering == wanted.steering
    found = {k: getattr(held, k) if same else None for k in ("sweet_spot", "calibration")}
    whose = {"tenant": held.tenant, "owner": held.owner} if held else {"tenant": caller.tenant, "owner": caller.owner}
    mine = wanted.model_copy(update={"model": tiller.model, "snapshots": (), **found, **whose})
    return tiller.bundle.pinned(mine, kept=kept)


async def _defaults(tiller: Tiller) -> set[str]:
    """Ids of the presets that are steered where a request leaves it open: the server's, and keys'."""
    keys = await tiller.store.keys()
    return {p for p in (tiller.settings.default_preset, *(k.default_preset for k in keys)) if p}


async def may_change(tiller: Tiller, preset_id: str, caller: Caller = ANYONE) -> Preset | None:
    """What a caller may replace under this id. Raises ApiError for what comes with the model, is for another, or somebody else's."""
    held = await _held(tiller, preset_id, caller)
    if caller.tenant == "" and not caller.may("admin") and preset_id in await _defaults(tiller):
        said = (
            f"{preset_id!r} is what the operator steers by default, and an admin's alone to change; choose another id"
        )
        raise ApiError(403, said, code="preset_in_use", param="id", kind="permission_error")
    if held and held.model != tiller.model:
        raise ApiError(
            409,
            f"{preset_id!r} is saved for {held.model!r}, which this server does not serve now; choose another id",
            code="preset_exists",
            param="id",
        )
    if any(p.id == preset_id for p in tiller.bundle.presets):
        raise ApiError(
            403,
            f"{preset_id!r} comes with the model and cannot be changed; save yours under another id",
            code="preset_readonly",
            param="id",
            kind="permission_error",
        )
    if held and not caller.changes(held):
        if not caller.sees(held):  # who it is there for knows; for others there is an id that cannot be had
            said = f"the id {preset_id!r} is taken; choose another one"
            raise ApiError(409, said, code="preset_exists", param="id")
        raise ApiError(
            403,
            f"{preset_id!r} is {held.owner or 'everybody'}'s and only they can change it; save yours under another id",
            code="not_yours",
            param="id",
            kind="permission_error",
        )
    return held


async def _held(tiller: Tiller, preset_id: str, caller: Caller) -> Preset | None:
    """What is kept under an id where a caller's presets are."""
    return await tiller.store.preset(preset_id, caller.tenant)


def _missing(preset_id: str) -> ApiError:
    return ApiError(
        404, f"no preset {preset_id!r}; GET /v1/presets lists those there are", code="preset_not_found", param="id"
    )


def _answer(preset: Preset, caller: Caller, status: int = 200, *, snapshots: bool = False) -> Response:
    return JSONResponse(_told(preset, caller, snapshots=snapshots), status, {"ETag": f'"{preset.version}"'})


def _told(preset: Preset, caller: Caller, *, snapshots: bool) -> dict[str, Any]:
    readonly = preset.readonly or not caller.changes(preset)
    return preset.model_dump(exclude=set() if snapshots else {"snapshots"}) | {"readonly": readonly}
