"""Write rules common to all stores: versions, conflicts, ownership and limits."""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from server.store.base import AlreadyExists, Conflict
from server.store.models import Restored, StoredVote, VoteBatch
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector

Given = tuple[int, str, StoredVote]
"""A vote with the number of its feedback, and its kind."""


def place_of(preset_id: str, tenant: str) -> str:
    """Storage name of a tenant's preset; ids have no slash."""
    return f"{tenant}/{preset_id}" if tenant else preset_id


def sorted_presets(presets: Iterable[Preset]) -> list[Preset]:
    """Presets sorted by name."""
    return sorted(presets, key=lambda p: (p.name.lower(), p.id))


def saved_preset(held: Preset | None, preset: Preset, *, based_on: int | None) -> Preset:
    """The preset as saved over the one that is `held`. Raises Conflict, also if that has another owner: whoever may replace
    it was looked up before, and another one may have come since.
    """
    version = held.version if held else 0
    if based_on is not None and based_on != version:
        raise Conflict(f"preset {preset.id!r} is at version {version}, not {based_on}")
    if held and held.owner != preset.owner:
        raise Conflict(f"preset {preset.id!r} was saved by somebody else in this moment")
    return preset.model_copy(update={"version": version + 1, "updated": int(time.time()), "readonly": False})


def restored_preset(held: Preset | None, preset: Preset) -> tuple[Preset, Restored]:
    """The preset as imported: a new one keeps its version and time; a replacement gets the next version."""
    now = preset.model_copy(update={"readonly": False, "updated": preset.updated or int(time.time())})
    if held is None:
        return now, "created"
    if now.model_copy(update={"version": held.version, "updated": held.updated}) == held:
        return held, "unchanged"
    counted = {"version": max(held.version, now.version) + 1, "updated": int(time.time())}
    return now.model_copy(update=counted), "replaced"


def restored(held: str | None, body: str) -> Restored:
    """Import result of a record."""
    return "created" if held is None else "unchanged" if held == body else "replaced"


def check_restored(done: Mapping[str, Restored], *, replace: bool) -> None:
    """Raises AlreadyExists for a record with different content, unless it is to be replaced."""
    if not replace and (taken := [name for name, result in done.items() if result == "replaced"]):
        raise AlreadyExists(taken)


def edited(held: FeatureEdit | None, changes: Mapping[str, Any], *, by: str | None) -> FeatureEdit:
    """A feature's edit after a change."""
    before = (held or FeatureEdit()).model_dump(exclude={"before"})
    return FeatureEdit.model_validate({**before, **changes, "by": by, "at": int(time.time())})


def check_vector(names: Collection[str], user: str, vector: Vector, *, replace: bool, most: int) -> None:
    """Raises Conflict if the name exists and `replace` is not set, or if there are `most` already."""
    if vector.name in names and not replace:
        raise Conflict(f"there is a vector {vector.name!r} already")
    if vector.name not in names and len(names) >= most:
        raise Conflict(f"{user!r} has {len(names)} vectors, the maximum")


def check_vectors(n: int, user: str, *, most: int) -> None:
    """Raises Conflict if the import would exceed `most` vectors."""
    if n > most:
        raise Conflict(f"{user!r} would have {n} vectors; the maximum is {most}")


def digest(messages: str) -> str:
    """Hash that identifies a conversation."""
    return hashlib.sha256(messages.encode()).hexdigest()


def is_of(user: str, person: str) -> bool:
    """Whether a name is a person's, or that of one of the person's users."""
    return user == person or user.startswith(f"{person}/")


def is_owned(body: str, tenant: str, owner: str | None) -> bool:
    """Whether a stored preset belongs to this owner."""
    preset = json.loads(body)
    return (preset.get("tenant", ""), preset.get("owner")) == (tenant, owner)


def check_shares(n: int, *, most: int) -> None:
    """Raises Conflict if there are too many shares."""
    if n >= most:
        raise Conflict(f"there are {n} shares, the maximum")


def edits_by(edits: Mapping[int, FeatureEdit], user: str) -> dict[int, FeatureEdit]:
    """Edits of features by a user, or by an anonymous one."""
    return {n: e for n, e in sorted(edits.items()) if e.by in (user, None)}


def group_votes(votes: Iterable[Given]) -> list[VoteBatch]:
    """Votes in order, grouped by feedback."""
    return [VoteBatch(kind, tuple(v for _, _, v in some)) for (_, kind), some in groupby(votes, key=lambda g: g[:2])]


def missing_votes(wanted: Sequence[VoteBatch], held: Iterable[VoteBatch]) -> list[VoteBatch]:
    """The votes that are not stored yet."""
    there = {*held}
    return [s for s in wanted if s not in there]
