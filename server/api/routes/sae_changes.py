"""`/v1/saes/{revision}/changes`: what a revision changes for those who steer. Knows revisions, presets and what people call features."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from server import schemas
from server.api.dependencies import caller_of, manifest_of
from server.api.openapi import wire
from server.errors import ApiError, bad_request
from server.serving.served_model import Tiller
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, number_of
from steering.catalogue.feature_edits import Edited
from steering.catalogue.revision_diff import Changed, Changes
from steering.catalogue.revision_diff import changes as compared
from steering.errors import BadBundle
from steering.spec import Preset

router = APIRouter(prefix="/v1/saes")
HELD = 8
"""So many comparisons are kept; a revision never changes, so they stay right."""


@router.get("/{revision}/changes", openapi_extra=wire(schemas.saes.SaeChanges, 409))
async def get_sae_changes(
    request: Request,
    revision: str,
    since: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Any]:
    """What is not as it was in the revision `since`, or in its parent; each list goes on with its `next_cursor`."""
    tiller: Tiller = request.app.state.tiller
    since = since or (await manifest_of(tiller, revision)).parent
    if since is None:
        raise bad_request(f"{revision!r} has no parent; say since which revision: ?since=…", param="since")
    found = await _compared(request, since, revision)
    names = _Names(await tiller.store.feature_edits(tiller.model))
    page = lambda items: _page(items, cursor, limit)  # noqa: E731
    of = lambda which: [c for c in found.changed if which(c)]  # noqa: E731
    return {
        "object": "sae.changes",
        "revision": revision,
        "since": since,
        "kept": found.kept,
        "added": page([names.told(f) | {"density": f.density} for f in found.added]),
        "retired": page([names.told(f) for f in found.retired]),
        "moved": page([names.told(c.after) | {"cosine": _short(c)} for c in of(lambda c: c.moved)]),
        "stale": page([names.told(c.after) | {"cosine": _short(c)} for c in of(names.stale)]),
        "relabelled": page(
            [names.told(c.after) | {"before": c.before.label} for c in of(lambda c: c.relabelled and names.shown(c))]
        ),
        "remeasured": page(
            [names.told(c.after) | {"dose": c.after.dose, "before": c.before.dose} for c in of(lambda c: c.remeasured)]
        ),
        "presets": page(_touched(await tiller.presets(caller_of(request)), found, names)),
    }


class _Names:
    """What features are called here: by people, else by their bundle."""

    def __init__(self, edits: Mapping[int, Edited]) -> None:
        self._edits = edits

    def told(self, f: Feature) -> dict[str, Any]:
        """A feature's id and label."""
        edit = self._edits.get(f.index)
        return {"id": f.id, "label": edit.label if edit and edit.label is not None else f.label}

    def shown(self, c: Changed) -> bool:
        """Whether the bundle's label is the one that people see."""
        edit = self._edits.get(c.after.index)
        return edit is None or edit.label is None

    def stale(self, c: Changed) -> bool:
        """Whether the label that people see came to be in doubt."""
        return c.stale and self.shown(c)


async def _compared(request: Request, since: str, revision: str) -> Changes:
    state = request.app.state
    held: dict[tuple[str, str], Changes] = getattr(state, "changes", {})
    if (since, revision) not in held:
        tiller: Tiller = state.tiller
        opened = [await _opened(tiller, name, param) for name, param in ((since, "since"), (revision, "revision"))]
        found = await asyncio.to_thread(compared, *opened)
        held = dict([*held.items(), ((since, revision), found)][-HELD:])
        state.changes = held
    return held[since, revision]


async def _opened(tiller: Tiller, revision: str, param: str) -> Bundle:
    """As it was published: without what people call its features, which changes."""
    await manifest_of(tiller, revision, param=param)
    try:
        return await asyncio.to_thread(tiller.revisions.open, revision, gently=True)
    except BadBundle as error:
        raise ApiError(409, str(error), code="revision_refused", param=param) from error


def _touched(presets: Sequence[Preset], found: Changes, names: _Names) -> list[dict[str, Any]]:
    """The presets that steer by features which are not as they were."""
    gone = {f.index: names.told(f) | {"what": ["retired"], "cosine": None} for f in found.retired}
    tests: dict[str, Callable[[Changed], bool]] = {
        "moved": lambda c: c.moved,
        "stale": names.stale,
        "remeasured": lambda c: c.remeasured,
    }
    for c in found.changed:
        if what := [name for name, test in tests.items() if test(c)]:
            gone[c.after.index] = names.told(c.after) | {"what": what, "cosine": _short(c)}
    touched = []
    for p in presets:
        if mine := [gone[n] for i in p.steering.features if (n := number_of(i.id)) in gone]:
            touched.append({"id": p.id, "name": p.name, "readonly": p.readonly, "features": mine})
    return touched


def _page(items: Sequence[dict[str, Any]], cursor: int, limit: int) -> dict[str, Any]:
    more = len(items) > cursor + limit
    return {
        "object": "list",
        "data": items[cursor : cursor + limit],
        "total": len(items),
        "has_more": more,
        "next_cursor": str(cursor + limit) if more else None,
    }


def _short(c: Changed) -> float:
    return round(c.cosine, 4)
