"""Import and export: validation and database writes of presets and user data."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.schemas.generation import check_sampling
from server.schemas.user_data import Counts
from server.serving.served_model import ServedModel
from server.store.base import AlreadyExists, Conflict
from server.store.models import Restored, UserData
from server.user_data import feedback, vectors
from server.user_data.documents import (
    Export,
    NamedEdit,
    PresetBundle,
    as_error,
    check_each_once,
    check_measured,
    check_snapshot,
)
from server.user_data.presets import RESERVED_IDS, check_may_replace, check_preset
from steering.catalogue.feature import number_of
from steering.errors import SteeringError, UnknownFeature
from steering.spec import Preset

PRIVATE_FIELDS = {"snapshots", "sweet_spot", "calibration"}
"""Fields of a preset that other servers do not accept."""


async def restored_preset(served: ServedModel, preset: Preset, i: int, user: str | None, caller: Caller) -> Preset:
    """A preset of the user's own export. Measurements and vectors are accepted from researchers
    only: they could be forged."""
    await _check_may_replace(served, preset.id, f"presets.{i}", caller)
    with error_context(f"presets.{i}"):
        if not caller.has_role("researcher"):
            return await check_preset(served, preset, user=user, caller=caller)
        served.check_allowed(served.resolve(preset.steering, preset.pins), caller)
        return preset


async def importable_preset(
    served: ServedModel, bundle: PresetBundle, i: int, user: str | None, caller: Caller
) -> Preset | None:
    """The preset to save; None for one that comes with the model and is unchanged."""
    given, place = bundle.presets[i], f"presets.{i}"
    own = (given.model or bundle.model) in ("", served.model)
    strange = await _missing_features(served, given, user, caller) if own else _feature_ids(given)
    if not own or strange:
        whose = f"is for {given.model or bundle.model!r}, and this server serves {served.model!r}" if not own else ""
        raise bad_request(
            f"{given.id!r} {whose or 'uses unknown features'}; these features cannot be mapped: {', '.join(strange)}",
            param=f"{place}.{'steering.features' if own else 'model'}",
            code="cannot_be_mapped",
            more={"features": strange},
        )
    shipped = next((p for p in served.bundle.presets if p.id == given.id), None)
    if shipped and _comparable_fields(given) == _comparable_fields(shipped):
        return None
    await _check_may_replace(served, given.id, place, caller)
    new = given.model_copy(update={"version": 1, "updated": 0})
    with error_context(place):
        return await check_preset(served, new, user=user, caller=caller)


async def _missing_features(served: ServedModel, preset: Preset, user: str | None, caller: Caller) -> list[str]:
    """Features of a preset that neither the SAE nor a stored preset has, and vectors that the user does not have."""
    held = await served.store.preset(preset.id, caller.tenant)
    known, missing = {*await served.vectors(caller.subject(user), preset.steering), *(held.pins if held else ())}, []
    for name in _feature_ids(preset):
        try:
            if name not in known:
                served.catalogue.find(name)
        except UnknownFeature:
            missing.append(name)
    return missing


@contextmanager
def error_context(place: str) -> Iterator[None]:
    """Add the location in the document to an error."""
    try:
        yield
    except (ApiError, SteeringError) as error:
        raise as_error(error, place) from error


def check_export(served: ServedModel, document: Export) -> None:
    """Validate a whole export before writing. Raises ApiError."""
    check_each_once([p.id for p in document.presets], "presets")
    check_each_once([f.id for f in document.features], "features")
    check_each_once([v.name for v in document.vectors], "vectors")
    for i, feature in enumerate(document.features):
        _check_edit(served, feature, f"features.{i}")
    for i, vector in enumerate(document.vectors):
        if vector.snapshot.id != vector.id:
            raise bad_request(f"the vector {vector.name!r} has the id {vector.snapshot.id!r}", param=f"vectors.{i}")
        check_snapshot(vector.snapshot, served.engine.width, param=f"vectors.{i}.snapshot")
    for i, preset in enumerate(document.presets):
        with error_context(f"presets.{i}"):
            _check_preset(served, preset)


def _check_preset(served: ServedModel, preset: Preset) -> None:
    """In an export a preset brings its own snapshots: it may use features that the SAE no longer has."""
    if preset.id in RESERVED_IDS or preset.model != served.model:
        raise bad_request(f"{preset.id!r} is for {preset.model!r}, or has an invalid id", param="model")
    check_sampling(preset.sampling)
    check_measured(preset, served.engine.width)
    served.resolve(preset.steering, preset.pins)


def _check_edit(served: ServedModel, feature: NamedEdit, param: str) -> None:
    if feature.id != f"{served.model}/{number_of(feature.id)}" or number_of(feature.id) < 0:
        raise bad_request(f"{feature.id!r} is not a feature of {served.model!r}", param=f"{param}.id")
    if feature.to_edit().empty:
        raise bad_request(f"there is no edit of {feature.id!r}; leave it out", param=param)


async def _check_may_replace(served: ServedModel, preset_id: str, place: str, caller: Caller) -> None:
    try:
        await check_may_replace(served, preset_id, caller)
    except ApiError as error:
        raise error.within(place) from error


async def restore_user_data(served: ServedModel, user: str, kept: UserData, *, replace: bool) -> dict[str, Restored]:
    """Write a user's data in one transaction. Raises ApiError on conflict."""
    most = {"votes": feedback.MAX_VOTES, "vectors": vectors.MAX_VECTORS}
    try:
        return await served.store.restore(user, served.model, kept, replace=replace, **most)
    except AlreadyExists as error:
        names = [n.replace("feature:", f"feature:{served.model}/") for n in error.names]
        raise ApiError(
            409,
            f"{', '.join(names[:8])}: exists already with different content; nothing was imported: set replace to true, or leave them out",
            code="import_conflict",
            param="replace",
            more={"conflicts": names},
        ) from error
    except Conflict as error:
        raise ApiError(409, f"{error}; nothing was imported", code="import_conflict", param="vectors") from error


def count_results(done: dict[str, Restored]) -> dict[str, Counts]:
    """How many of each kind were created, replaced and left unchanged."""
    found: dict[str, Counter[str]] = {}
    for name, result in done.items():
        found.setdefault(name.partition(":")[0], Counter())[result] += 1
    return {
        kind: Counts(created=n["created"], replaced=n["replaced"], unchanged=n["unchanged"])
        for kind, n in found.items()
    }


def _feature_ids(preset: Preset) -> list[str]:
    return [f.id for f in preset.steering.features]


def _comparable_fields(preset: Preset) -> dict[str, Any]:
    return preset.model_dump(
        exclude={*PRIVATE_FIELDS, "model", "readonly", "version", "updated", "tenant", "owner", "visibility"}
    )
