"""Preset saving: validation, ownership and reserved ids."""

from server.auth.caller import ANYONE, Caller
from server.errors import ApiError, bad_request
from server.schemas.generation import check_sampling
from server.serving.served_model import ServedModel
from steering.spec import Preset, Where

RESERVED_IDS = ("export", "import")
"""Ids that are paths of the API."""


async def check_preset(served: ServedModel, wanted: Preset, *, user: str | None, caller: Caller = ANYONE) -> Preset:
    """The preset as the caller may save it, with feature snapshots and owner. Raises ApiError and SteeringError.

    Measurements and vectors in the request are ignored; stored measurements are kept while the
    steering stays the same.
    """
    if wanted.id in RESERVED_IDS:
        raise bad_request(f"{wanted.id!r} is reserved; choose another id", param="id")
    if wanted.model not in ("", served.model):
        raise bad_request(f"this server serves {served.model!r}; the preset is for {wanted.model!r}", param="model")
    check_sampling(wanted.sampling)
    wanted = _with_where(wanted, served.bundle.info.where)
    held = await _stored_preset(served, wanted.id, caller)
    kept = await served.vectors(caller.subject(user), wanted.steering)
    kept |= held.pins if held and held.model == served.model else {}
    served.check_allowed(served.resolve(wanted.steering, kept), caller)
    same = held is not None and held.steering == wanted.steering
    found = {k: getattr(held, k) if same else None for k in ("sweet_spot", "calibration")}
    whose = {"tenant": held.tenant, "owner": held.owner} if held else {"tenant": caller.tenant, "owner": caller.owner}
    mine = wanted.model_copy(update={"model": served.model, "snapshots": (), **found, **whose})
    return served.bundle.pinned(mine, kept=kept)


def _with_where(preset: Preset, where: Where) -> Preset:
    """The preset with a scope of its own, so that it keeps its meaning with whatever bundle."""
    own = preset.steering.model_fields_set
    missing = {name: getattr(where, name) for name in ("scope", "skip_special") if name not in own}
    return preset.model_copy(update={"steering": preset.steering.model_copy(update=missing)}) if missing else preset


async def default_preset_ids(served: ServedModel) -> set[str]:
    """Ids of the default presets: the server's, and keys'."""
    keys = await served.store.keys()
    return {p for p in (served.settings.default_preset, *(k.default_preset for k in keys)) if p}


async def check_may_replace(served: ServedModel, preset_id: str, caller: Caller = ANYONE) -> Preset | None:
    """The stored preset that the caller may replace. Raises ApiError for a preset that comes with
    the model, is for another model, or belongs to another owner."""
    held = await _stored_preset(served, preset_id, caller)
    if caller.tenant == "" and not caller.has_role("admin") and preset_id in await default_preset_ids(served):
        message = f"{preset_id!r} is the operator's default preset, and only an admin can change it; choose another id"
        raise ApiError(403, message, code="preset_in_use", param="id", kind="permission_error")
    if held and held.model != served.model:
        raise ApiError(
            409,
            f"{preset_id!r} is saved for {held.model!r}, which this server does not serve now; choose another id",
            code="preset_exists",
            param="id",
        )
    if any(p.id == preset_id for p in served.bundle.presets):
        raise ApiError(
            403,
            f"{preset_id!r} comes with the model and cannot be changed; save yours under another id",
            code="preset_readonly",
            param="id",
            kind="permission_error",
        )
    if held and not caller.can_change(held):
        if not caller.can_see(held):  # the owner's own tenant may learn it; for others the id is only taken
            message = f"the id {preset_id!r} is taken; choose another one"
            raise ApiError(409, message, code="preset_exists", param="id")
        raise ApiError(
            403,
            f"{preset_id!r} belongs to {held.owner or 'everybody'} and only they can change it; save yours under another id",
            code="not_yours",
            param="id",
            kind="permission_error",
        )
    return held


async def _stored_preset(served: ServedModel, preset_id: str, caller: Caller) -> Preset | None:
    """The preset stored under an id in the caller's tenant."""
    return await served.store.preset(preset_id, caller.tenant)
