"""Models, features and steering: what there is, what people call it, what a spec would do. Knows the catalogue and the wire."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from torch import Tensor

from server import schemas
from server.api.dependencies import account_of, caller_of, noted
from server.api.openapi import wire
from server.errors import ApiError
from server.features.read_text import read
from server.features.search import Index, find
from server.schemas.analysis import Looked
from server.schemas.body import parse
from server.schemas.features import EditRequest, FeatureQuery, SearchRequest
from server.serving.served_model import Tiller
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import UnknownFeature
from steering.model.passage import Passage

router = APIRouter(prefix="/v1")
LONG = {"examples", "samples", "histogram", "top_logits"}
"""What is told of one feature, not in a list of many."""


@router.get("/features", openapi_extra=wire(schemas.features.FeatureList, 429))
async def find_features(request: Request, query: Annotated[FeatureQuery, Query()]) -> dict[str, Any]:
    """Search by words, by meaning, by what a prompt evokes, or by id; page with `cursor`."""
    return await _found(request, query)


@router.post("/features/search", openapi_extra=wire(schemas.features.FeatureList, 429, takes=SearchRequest))
async def find_common_features(request: Request) -> dict[str, Any]:
    """What several prompts have in common, and others have not."""
    asked = parse(SearchRequest, await request.body())
    return await _found(request, FeatureQuery.model_validate({**asked.model_dump(), "mode": "common"}))


@router.get("/features/{feature_id:path}", openapi_extra=wire(schemas.features.FeatureInFull))
async def get_feature(request: Request, feature_id: str) -> dict[str, Any]:
    """All that is known of one feature."""
    return _whole(*_named(request, feature_id))


@router.patch("/features/{feature_id:path}", openapi_extra=wire(schemas.features.FeatureInFull, takes=EditRequest))
async def edit_feature(request: Request, feature_id: str) -> dict[str, Any]:
    """Call a feature something, note something, star it; null takes a label or a note back. Updates leave it alone."""
    asked = parse(EditRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    bundle, found = _named(request, feature_id)
    await tiller.store.edit_feature(
        bundle.info.name, found.index, asked.changes(), by=caller_of(request).person(asked.user)
    )
    await request.app.state.swap.relabel()
    await noted(request, "feature edited", feature=found.id, fields=sorted(asked.changes()))
    return _whole(*_named(request, feature_id))


async def _found(request: Request, query: FeatureQuery) -> dict[str, Any]:
    tiller: Tiller = request.app.state.tiller

    async def read_(text: str, chat: bool) -> tuple[Passage, Tensor]:
        chat = chat and bool(tiller.engine.tokenizer.chat_template)
        asked = Looked(messages=[{"role": "user", "content": text}]) if chat else Looked(text=text, plain=True)
        passage, stream, _ = await read(tiller, asked, account_of(request))
        return passage, stream

    hits, start = await find(_index(request, tiller), query, read_), int(query.cursor)
    more = len(hits) > start + query.limit
    return {
        "object": "list",
        "data": [
            _feature(f) | {"score": score and float(f"{score:.4g}")} for f, score in hits[start : start + query.limit]
        ],
        "total": len(hits),
        "has_more": more,
        "next_cursor": str(start + query.limit) if more else None,
    }


def _index(request: Request, tiller: Tiller) -> Index:
    """The index of what is served; another revision or another label is another catalogue, and so another index."""
    state = request.app.state
    if getattr(state, "index", None) is None or state.index.catalogue is not tiller.catalogue:
        state.index = Index(tiller.catalogue, tiller.settings.meaning_model)
    return state.index


def _named(request: Request, feature_id: str) -> tuple[Bundle, Feature]:
    tiller: Tiller = request.app.state.tiller
    if len(feature_id) > 256:
        raise ApiError(404, "no feature has an id of more than 256 characters", code="feature_not_found", param="id")
    try:
        return tiller.catalogue.find(feature_id)
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error


def _whole(bundle: Bundle, found: Feature) -> dict[str, Any]:
    similar = [{"id": f.id, "label": f.label, "cosine": round(c, 4)} for f, c in bundle.neighbours(found.index)]
    more = found.model_dump(include=LONG)
    return _feature(found) | more | {"layer": bundle.layer, "similar": similar}


def _feature(f: Feature) -> dict[str, Any]:
    starred = bool(f.edited and f.edited.starred)
    return f.model_dump(exclude=LONG) | {"object": "feature", "starred": starred}
