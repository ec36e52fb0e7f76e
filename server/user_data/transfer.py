"""Import and export of presets and of all data of one user: checks and database writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.auth.caller import Caller
from server.errors import ApiError, bad_request
from server.schemas.generation import check_sampling
from server.serving.served_model import Tiller
from server.store.base import Conflict, Taken
from server.store.models import Kept, Restored
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
from server.user_data.presets import RESERVED, checked, may_change
from steering.catalogue.feature import number_of
from steering.errors import SteeringError, UnknownFeature
from steering.spec import Preset

UNTOLD = {"snapshots", "sweet_spot", "calibration"}
"""Of a preset, what only its own server believes."""


async def restored_preset(tiller: Tiller, preset: Preset, i: int, user: str | None, caller: Caller) -> Preset:
    """A preset of one's own export. Measurements and vectors are believed of a researcher alone: others would bring any."""
    await _allowed(tiller, preset.id, f"presets.{i}", caller)
    with placed(f"presets.{i}"):
        if not caller.may("researcher"):
            return await checked(tiller, preset, user=user, caller=caller)
        tiller.allowed(tiller.resolve(preset.steering, preset.pins), caller)
        return preset


async def importable_preset(
    tiller: Tiller, bundle: PresetBundle, i: int, user: str | None, caller: Caller
) -> Preset | None:
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


def check_export(tiller: Tiller, document: Export) -> None:
    """Check a whole export before anything of it is written. Raises ApiError."""
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


async def restore_user_data(tiller: Tiller, user: str, kept: Kept, *, replace: bool) -> dict[str, Restored]:
    """Write a user's data in one transaction. Raises ApiError on conflict."""
    most = {"votes": feedback.MOST, "vectors": vectors.MOST}
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


def count_results(done: dict[str, Restored]) -> dict[str, dict[str, int]]:
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
