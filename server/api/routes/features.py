"""Models, features and steering: what there is, what people call it, what a spec would do. Knows the catalogue and the wire."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from server import schemas
from server.api.openapi import wire
from server.api.routes.analyze import Looked, read
from server.auth.audit_log import noted
from server.auth.caller import caller_of
from server.errors import ApiError
from server.features.search import FeatureQuery, Filters, Index, Text, find
from server.limits.rate_limiter import Account
from server.schemas.generation import ValidateRequest, parse
from server.serving.served_model import Tiller
from steering.catalogue.bundle import Bundle, Feature
from steering.catalogue.composition import BROKEN, STRAINED, cosines
from steering.errors import UnknownFeature
from steering.model.passage import Passage
from steering.spec import Preset

router = APIRouter(prefix="/v1")
STARTED = int(time.time())
LONG = {"examples", "samples", "histogram", "top_logits"}
"""What is told of one feature, not in a list of many."""


class SearchRequest(Filters):
    """POST /v1/features/search."""

    model_config = ConfigDict(extra="forbid")

    prompts: list[Text] = Field(min_length=1, max_length=32)
    without: list[Text] = Field(default=[], max_length=32)


class EditRequest(BaseModel):
    """PATCH /v1/features/{id}."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(default=None, max_length=200)
    note: str | None = Field(default=None, max_length=4000)
    starred: bool = False
    user: str | None = Field(default=None, min_length=1, max_length=256)
    """Who says so."""

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str | None) -> str | None:
        found = label and " ".join(label.split())
        if found == "":
            raise ValueError("a label may not be empty; null takes it back")
        return found

    @model_validator(mode="after")
    def _something(self) -> "EditRequest":
        if not self.model_fields_set - {"user"}:
            raise ValueError("give label, note or starred")
        return self

    def changes(self) -> dict[str, Any]:
        """What is to be changed."""
        return self.model_dump(include=self.model_fields_set - {"user"})


@router.get("/models", openapi_extra=wire(schemas.completions.ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """The model, and one id for each preset."""
    tiller: Tiller = request.app.state.tiller
    return {
        "object": "list",
        "data": [_model(tiller, None), *(_model(tiller, p) for p in await tiller.presets(caller_of(request)))],
    }


@router.get("/models/{model_id:path}", openapi_extra=wire(schemas.completions.ModelCard))
async def get_model(request: Request, model_id: str) -> dict[str, Any]:
    """One model id, `base` or `base@preset`."""
    tiller: Tiller = request.app.state.tiller
    return _model(tiller, (await tiller.choose(model_id, None, caller=caller_of(request))).preset)


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


@router.post("/steering/validate", openapi_extra=wire(schemas.completions.Validated, 404, takes=ValidateRequest))
async def validate_steering(request: Request) -> dict[str, Any]:
    """What a steering object would do, without running the model."""
    body = parse(ValidateRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    choice = await tiller.choose(body.model, body.steering, user=body.user, caller=caller_of(request))
    echo = choice.echo()
    return {
        "valid": True,
        "normalized": choice.resolved.spec.model_dump(),
        "push_norm": choice.resolved.push_norm,
        **{k: echo[k] for k in ("applied", "load", "predicted", "warnings", "hash")},
        "strained_from": STRAINED,
        "broken_from": BROKEN,
        "cosines": cosines(choice.resolved, tiller.bundle),
        **({"cut": echo["cut"]} if "cut" in echo else {}),
    }


def _model(tiller: Tiller, preset: Preset | None) -> dict[str, Any]:
    about = {"object": "model", "created": STARTED, "owned_by": "local", "max_model_len": tiller.engine.max_model_len}
    if preset:
        return {
            "id": f"{tiller.model}@{preset.id}",
            **about,
            "parent": tiller.model,
            "name": preset.name,
            "description": preset.description,
        }
    steering = {
        "saes": [tiller.bundle.info.revision],
        "hook": tiller.bundle.info.hook,
        "modes": ["add", "clamp", "scale", "ablate"] if tiller.bundle.sae.reads else ["add"],
        "scopes": ["assistant", "all", "generated"],
        "max_features": tiller.settings.max_features,
    }
    return {"id": tiller.model, **about, "steering": steering}


async def _found(request: Request, query: FeatureQuery) -> dict[str, Any]:
    tiller: Tiller = request.app.state.tiller

    async def read_(text: str, chat: bool) -> tuple[Passage, Tensor]:
        chat = chat and bool(tiller.engine.tokenizer.chat_template)
        asked = Looked(messages=[{"role": "user", "content": text}]) if chat else Looked(text=text, plain=True)
        passage, stream, _ = await read(tiller, asked, Account.of(request))
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
