"""`/v1/features`: list, search and edit features."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from torch import Tensor

from server import schemas
from server.api.dependencies import current_account, current_caller, current_model, write_audit
from server.api.openapi import wire
from server.errors import ApiError
from server.features.read_text import read_text
from server.features.search import Index, search_features
from server.schemas.analysis import TextInput
from server.schemas.body import parse_body
from server.schemas.features import EditRequest, FeatureQuery, SearchRequest
from server.serving.served_model import ServedModel
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import UnknownFeature
from steering.model.passage import Passage

router = APIRouter(prefix="/v1")
DETAIL_FIELDS = {"examples", "samples", "histogram", "top_logits"}
"""Fields of a single feature that lists leave out."""


@router.get("/features", openapi_extra=wire(schemas.features.FeatureList, 429))
async def find_features(request: Request, query: Annotated[FeatureQuery, Query()]) -> dict[str, Any]:
    """Search by words, by meaning, by what a prompt activates, or by id; page with `cursor`."""
    return await _search(request, query)


@router.post("/features/search", openapi_extra=wire(schemas.features.FeatureList, 429, takes=SearchRequest))
async def find_common_features(request: Request) -> dict[str, Any]:
    """Features active in several prompts and inactive in others."""
    asked = parse_body(SearchRequest, await request.body())
    return await _search(request, FeatureQuery.model_validate({**asked.model_dump(), "mode": "common"}))


@router.get("/features/{feature_id:path}", openapi_extra=wire(schemas.features.FeatureDetail))
async def get_feature(request: Request, feature_id: str) -> dict[str, Any]:
    """One feature with all its details."""
    return _feature_detail(*_find_feature(request, feature_id))


@router.patch("/features/{feature_id:path}", openapi_extra=wire(schemas.features.FeatureDetail, takes=EditRequest))
async def edit_feature(request: Request, feature_id: str) -> dict[str, Any]:
    """Set a feature's label, note or star; null removes a label or note. SAE updates keep these edits."""
    asked = parse_body(EditRequest, await request.body())
    served = current_model(request)
    bundle, found = _find_feature(request, feature_id)
    await served.store.edit_feature(
        bundle.info.name, found.index, asked.changes(), by=current_caller(request).subject(asked.user)
    )
    await request.app.state.revision_switch.relabel()
    await write_audit(request, "feature edited", feature=found.id, fields=sorted(asked.changes()))
    return _feature_detail(*_find_feature(request, feature_id))


async def _search(request: Request, query: FeatureQuery) -> dict[str, Any]:
    served = current_model(request)

    async def read_(text: str, chat: bool) -> tuple[Passage, Tensor]:
        chat = chat and bool(served.engine.tokenizer.chat_template)
        asked = TextInput(messages=[{"role": "user", "content": text}]) if chat else TextInput(text=text, plain=True)
        passage, stream, _ = await read_text(served, asked, current_account(request))
        return passage, stream

    hits, start = await search_features(_search_index(request, served), query, read_), int(query.cursor)
    more = len(hits) > start + query.limit
    return {
        "object": "list",
        "data": [
            _feature_summary(f) | {"score": score and float(f"{score:.4g}")}
            for f, score in hits[start : start + query.limit]
        ],
        "total": len(hits),
        "has_more": more,
        "next_cursor": str(start + query.limit) if more else None,
    }


def _search_index(request: Request, served: ServedModel) -> Index:
    """Search index of the served catalogue; another revision or a changed label makes another
    catalogue, and so another index."""
    state = request.app.state
    if getattr(state, "index", None) is None or state.index.catalogue is not served.catalogue:
        state.index = Index(served.catalogue, served.settings.meaning_model)
    return state.index


def _find_feature(request: Request, feature_id: str) -> tuple[Bundle, Feature]:
    served = current_model(request)
    if len(feature_id) > 256:
        raise ApiError(404, "no feature has an id of more than 256 characters", code="feature_not_found", param="id")
    try:
        return served.catalogue.find(feature_id)
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error


def _feature_detail(bundle: Bundle, found: Feature) -> dict[str, Any]:
    similar = [{"id": f.id, "label": f.label, "cosine": round(c, 4)} for f, c in bundle.neighbours(found.index)]
    more = found.model_dump(include=DETAIL_FIELDS)
    return _feature_summary(found) | more | {"layer": bundle.layer, "similar": similar}


def _feature_summary(f: Feature) -> dict[str, Any]:
    starred = bool(f.edited and f.edited.starred)
    return f.model_dump(exclude=DETAIL_FIELDS) | {"object": "feature", "starred": starred}
