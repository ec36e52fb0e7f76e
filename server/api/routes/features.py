"""`/v1/features`: list, search and edit features."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from torch import Tensor

from server.api.body import JsonBody
from server.api.dependencies import current_account, current_caller, current_index, current_model, write_audit
from server.api.openapi import errors
from server.api.sse import cancel_on_disconnect
from server.errors import ApiError
from server.features.read_text import read_text
from server.features.search import search_features
from server.schemas.analysis import TextInput
from server.schemas.features import (
    EditRequest,
    FeatureDetail,
    FeatureList,
    FeatureQuery,
    FeatureSummary,
    Neighbour,
    SearchRequest,
)
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import UnknownFeature
from steering.model.passage import Passage

router = APIRouter(prefix="/v1", tags=["Features"])
DETAIL_FIELDS = {"examples", "samples", "histogram", "top_logits"}
"""Fields of a single feature that lists leave out."""


@router.get("/features", responses=errors(400), response_model_exclude_unset=True)
async def find_features(request: Request, query: Annotated[FeatureQuery, Query()]) -> FeatureList:
    """Search by words, by meaning, by what a prompt activates, or by id; page with `cursor`."""
    return await _search(request, query)


@router.post("/features/search", responses=errors(400, 413), response_model_exclude_unset=True)
async def find_common_features(
    request: Request, body: Annotated[SearchRequest, Depends(JsonBody(SearchRequest))]
) -> FeatureList:
    """Features active in several prompts and inactive in others."""
    return await _search(request, FeatureQuery.model_validate({**body.model_dump(), "mode": "common"}))


@router.get("/features/{feature_id:path}", responses=errors(400, 404))
async def get_feature(request: Request, feature_id: str) -> FeatureDetail:
    """One feature with all its details."""
    return _feature_detail(*_find_feature(request, feature_id))


@router.patch("/features/{feature_id:path}", responses=errors(400, 404, 413))
async def edit_feature(
    request: Request, feature_id: str, body: Annotated[EditRequest, Depends(JsonBody(EditRequest))]
) -> FeatureDetail:
    """Set a feature's label, note or star; null removes a label or note. SAE updates keep these edits."""
    served = current_model(request)
    bundle, found = _find_feature(request, feature_id)
    await served.store.edit_feature(
        bundle.info.name, found.index, body.changes(), by=current_caller(request).subject(body.user)
    )
    await request.app.state.revision_switch.relabel()
    await write_audit(request, "feature edited", feature=found.id, fields=sorted(body.changes()))
    return _feature_detail(*_find_feature(request, feature_id))


async def _search(request: Request, query: FeatureQuery) -> FeatureList:
    served = current_model(request)

    async def read_(text: str, chat: bool) -> tuple[Passage, Tensor]:
        chat = chat and bool(served.engine.tokenizer.chat_template)
        asked = TextInput(messages=[{"role": "user", "content": text}]) if chat else TextInput(text=text, plain=True)
        passage, stream, _ = await read_text(served, asked, current_account(request))
        return passage, stream

    searching = search_features(current_index(request), query, read_)
    hits, start = await cancel_on_disconnect(request, searching), int(query.cursor)
    more = len(hits) > start + query.limit
    return FeatureList(
        object="list",
        data=[_feature_summary(f, score) for f, score in hits[start : start + query.limit]],
        total=len(hits),
        has_more=more,
        next_cursor=str(start + query.limit) if more else None,
    )


def _find_feature(request: Request, feature_id: str) -> tuple[Bundle, Feature]:
    served = current_model(request)
    if len(feature_id) > 256:
        raise ApiError(404, "no feature has an id of more than 256 characters", code="feature_not_found", param="id")
    try:
        return served.catalogue.find(feature_id)
    except UnknownFeature as error:
        raise ApiError(404, str(error), code="feature_not_found", param="id") from error


def _feature_detail(bundle: Bundle, found: Feature) -> FeatureDetail:
    similar = [Neighbour(id=f.id, label=f.label, cosine=round(c, 4)) for f, c in bundle.neighbours(found.index)]
    return FeatureDetail(
        **dict(found), object="feature", starred=_is_starred(found), layer=bundle.layer, similar=similar
    )


def _feature_summary(f: Feature, score: float | None) -> FeatureSummary:
    score = score and float(f"{score:.4g}")
    fields = f.model_dump(exclude=DETAIL_FIELDS)
    return FeatureSummary(**fields, object="feature", starred=_is_starred(f), score=score)


def _is_starred(f: Feature) -> bool:
    return bool(f.edited and f.edited.starred)
