"""`/v1/presets`: list, retrieve, create, replace and delete presets; their steering is validated as in a request."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from server.api.body import JsonBody
from server.api.dependencies import current_caller, current_model, write_audit
from server.api.openapi import errors
from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.schemas.user_data import Deleted, PresetList
from server.store.base import Conflict
from server.store.encryption import pseudonym
from server.user_data.presets import check_may_replace, check_preset, default_preset_ids
from steering.spec import Preset

router = APIRouter(prefix="/v1/presets", tags=["Presets"])


@router.get("", responses=errors(400), response_model_exclude_unset=True)
async def list_presets(request: Request, snapshots: bool = False) -> PresetList:
    """The bundle's presets and the saved ones; with `snapshots`, the feature snapshots of each."""
    served, caller = current_model(request), current_caller(request)
    return PresetList.of_all([_visible(p, caller, snapshots=snapshots) for p in await served.presets(caller)])


@router.get("/{preset_id}", responses=errors(400, 404), response_model_exclude_unset=True)
async def get_preset(request: Request, response: Response, preset_id: str, snapshots: bool = False) -> Preset:
    """One preset; its version is the ETag."""
    served = current_model(request)
    found = await served.preset(preset_id, current_caller(request))
    if found is None:
        raise _not_found(preset_id)
    response.headers["ETag"] = f'"{found.version}"'
    return _visible(found, current_caller(request), snapshots=snapshots)


@router.post("", status_code=201, responses=errors(400, 409, 413), response_model_exclude_unset=True)
async def create_preset(
    request: Request, response: Response, body: Annotated[Preset, Depends(JsonBody(Preset))], user: str | None = None
) -> Preset:
    """Save a new preset; with `user`, it may use that user's vectors, and keeps copies of them."""
    served = current_model(request)
    caller = current_caller(request)
    wanted = await check_preset(served, body, user=user, caller=caller)
    taken = ApiError(
        409,
        f"there is a preset {wanted.id!r} already; choose another id, or PUT to replace it",
        code="preset_exists",
        param="id",
    )
    if any(p.id == wanted.id for p in served.bundle.presets):
        raise taken
    try:
        saved = await served.store.save_preset(wanted, based_on=0)
    except Conflict as error:
        raise taken from error
    await write_audit(
        request, "preset saved", preset=pseudonym(saved.id), version=saved.version, hash=saved.steering.fingerprint
    )
    response.headers["ETag"] = f'"{saved.version}"'
    return _visible(saved, caller)


@router.put("/{preset_id}", responses=errors(400, 404, 409, 412, 413), response_model_exclude_unset=True)
async def replace_preset(
    request: Request,
    response: Response,
    preset_id: str,
    body: Annotated[Preset, Depends(JsonBody(Preset))],
    user: str | None = None,
    if_match: Annotated[str, Header()] = "",
) -> Preset:
    """Create or replace a preset; `If-Match` with a version fails if the preset has changed since."""
    served = current_model(request)
    if body.id != preset_id:
        raise bad_request(f"the body's id {body.id!r} does not match the path's, {preset_id!r}", param="id")
    caller = current_caller(request)
    await check_may_replace(served, preset_id, caller)
    wanted = await check_preset(served, body, user=user, caller=caller)
    match = if_match.strip('"')
    if match not in ("", "*") and not (match.isdecimal() and len(match) < 19):
        raise bad_request(f"If-Match must be a preset's version, not {match[:64]!r}", param="If-Match")
    try:
        based_on = int(match) if match.isdecimal() else None
        saved = await served.store.save_preset(wanted, based_on=based_on)
    except Conflict as error:
        raise ApiError(
            412, f"{error}; read it again and repeat your change", code="version_conflict", param="If-Match"
        ) from error
    await write_audit(
        request, "preset saved", preset=pseudonym(preset_id), version=saved.version, hash=saved.steering.fingerprint
    )
    response.headers["ETag"] = f'"{saved.version}"'
    return _visible(saved, caller)


@router.delete("/{preset_id}", responses=errors(400, 404, 409))
async def delete_preset(request: Request, preset_id: str) -> Deleted:
    """Delete a saved preset."""
    served = current_model(request)
    held = await check_may_replace(served, preset_id, current_caller(request))
    if held and held.tenant == "" and preset_id in await default_preset_ids(served):
        said = f"{preset_id!r} is the default preset; set another default first, or none"
        raise ApiError(409, said, code="preset_in_use", param="id")
    if held is None or not await served.store.delete_preset(preset_id, held.tenant, seen=held):
        raise _not_found(preset_id)
    await write_audit(request, "preset deleted", preset=pseudonym(preset_id))
    return Deleted(id=preset_id, object="preset", deleted=True)


def _not_found(preset_id: str) -> ApiError:
    return ApiError(
        404, f"no preset {preset_id!r}; GET /v1/presets lists the presets", code="preset_not_found", param="id"
    )


def _visible(preset: Preset, caller: Caller, *, snapshots: bool = False) -> Preset:
    """The preset as its answer shows it: unset fields are left out there, so all others are set here."""
    readonly = preset.readonly or not caller.can_change(preset)
    shown = preset.model_dump(exclude=set() if snapshots else {"snapshots"})
    return Preset.model_validate(shown | {"readonly": readonly})
