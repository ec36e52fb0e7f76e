"""`/v1/saes/{revision}/changes`: what a revision changes for features, labels and presets."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from server.api.dependencies import current_caller, current_model, find_manifest
from server.api.openapi import errors
from server.errors import ApiError, bad_request
from server.schemas.saes import ChangePage, SaeChanges
from server.serving.served_model import ServedModel
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, number_of
from steering.catalogue.feature_edits import FeatureEdit
from steering.catalogue.revision_diff import FeatureChange, RevisionDiff
from steering.catalogue.revision_diff import diff_revisions as compared
from steering.errors import BadBundle
from steering.spec import Preset

router = APIRouter(prefix="/v1/saes", tags=["SAE"])
HELD = 8
"""Number of comparisons in the cache; revisions never change, so entries stay valid."""


@router.get("/{revision}/changes", responses=errors(400, 404, 409))
async def get_sae_changes(
    request: Request,
    revision: str,
    since: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0)] = 0,
) -> SaeChanges:
    """Differences from the revision `since`, or from the parent; page each list with its `next_cursor`."""
    served = current_model(request)
    since = since or (await find_manifest(served, revision)).parent
    if since is None:
        raise bad_request(f"{revision!r} has no parent; name the revision to compare with: ?since=…", param="since")
    found = await _diff(request, since, revision)
    names = _Labels(await served.store.feature_edits(served.model))
    page = lambda items: ChangePage.at(items, cursor, limit, total=len(items))  # noqa: E731
    of = lambda which: [c for c in found.changed if which(c)]  # noqa: E731
    return SaeChanges(
        object="sae.changes",
        revision=revision,
        since=since,
        kept=found.kept,
        added=page([names.to_dict(f) | {"density": f.density} for f in found.added]),
        retired=page([names.to_dict(f) for f in found.retired]),
        moved=page([names.to_dict(c.after) | {"cosine": _round_change(c)} for c in of(lambda c: c.moved)]),
        stale=page([names.to_dict(c.after) | {"cosine": _round_change(c)} for c in of(names.stale)]),
        relabelled=page(
            [names.to_dict(c.after) | {"before": c.before.label} for c in of(lambda c: c.relabelled and names.shown(c))]
        ),
        remeasured=page(
            [
                names.to_dict(c.after) | {"dose": c.after.dose, "before": c.before.dose}
                for c in of(lambda c: c.remeasured)
            ]
        ),
        presets=page(_affected_presets(await served.presets(current_caller(request)), found, names)),
    )


class _Labels:
    """Labels of features: the users' edits first, then the bundle's."""

    def __init__(self, edits: Mapping[int, FeatureEdit]) -> None:
        self._edits = edits

    def to_dict(self, f: Feature) -> dict[str, Any]:
        """A feature's id and label."""
        edit = self._edits.get(f.index)
        return {"id": f.id, "label": edit.label if edit and edit.label is not None else f.label}

    def shown(self, c: FeatureChange) -> bool:
        """Whether the label shown is the bundle's own."""
        edit = self._edits.get(c.after.index)
        return edit is None or edit.label is None

    def stale(self, c: FeatureChange) -> bool:
        """Whether the label shown has become doubtful."""
        return c.stale and self.shown(c)


async def _diff(request: Request, since: str, revision: str) -> RevisionDiff:
    state = request.app.state
    held: dict[tuple[str, str], RevisionDiff] = getattr(state, "changes", {})
    if (since, revision) not in held:
        served: ServedModel = state.served_model
        opened = [
            await _open_published(served, name, param) for name, param in ((since, "since"), (revision, "revision"))
        ]
        found = await asyncio.to_thread(compared, *opened)
        held = dict([*held.items(), ((since, revision), found)][-HELD:])
        state.changes = held
    return held[since, revision]


async def _open_published(served: ServedModel, revision: str, param: str) -> Bundle:
    """The revision as published: without the users' labels, which change."""
    await find_manifest(served, revision, param=param)
    try:
        return await asyncio.to_thread(served.revisions.open, revision, gently=True)
    except BadBundle as error:
        raise ApiError(409, str(error), code="revision_refused", param=param) from error


def _affected_presets(presets: Sequence[Preset], found: RevisionDiff, names: _Labels) -> list[dict[str, Any]]:
    """Presets that use changed features."""
    gone = {f.index: names.to_dict(f) | {"what": ["retired"], "cosine": None} for f in found.retired}
    tests: dict[str, Callable[[FeatureChange], bool]] = {
        "moved": lambda c: c.moved,
        "stale": names.stale,
        "remeasured": lambda c: c.remeasured,
    }
    for c in found.changed:
        if what := [name for name, test in tests.items() if test(c)]:
            gone[c.after.index] = names.to_dict(c.after) | {"what": what, "cosine": _round_change(c)}
    touched = []
    for p in presets:
        if mine := [gone[n] for i in p.steering.features if (n := number_of(i.id)) in gone]:
            touched.append({"id": p.id, "name": p.name, "readonly": p.readonly, "features": mine})
    return touched


def _round_change(c: FeatureChange) -> float:
    return round(c.cosine, 4)
