"""Null is absent: every field of every request body that has a default takes null, and is then as if left out."""

import json

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from server.api.body import JsonBody, allows_null, fields_of, parse_body, without_nulls
from server.api.openapi_examples import EXAMPLES
from server.api.routes import OPEN_ROUTERS, ROUTERS
from server.errors import ApiError
from server.jobs.tasks.sae_train import SaeTrainConfig
from server.schemas.generation import ChatRequest

FULL = {
    "features": [{"id": "small/1", "strength": 0.5, "mode": "add"}],
    "unit": "dose",
    "return": ["applied"],
}
MORE = {
    "ChatRequest": {"stream_options": {"include_usage": True}, "steering": FULL},
    "CompletionRequest": {"steering": FULL},
    "ValidateRequest": {"steering": FULL},
    "CompareRequest": {"variants": [{"name": "a", "steering": FULL, "model": "m"}]},
    "AnalyzeRequest": {"other": {"text": "Hm.", "plain": True}},
    "Preset": {"steering": {"features": FULL["features"], "unit": "dose"}},
}
"""What the examples of the documentation do not have, so that every level is reached."""


def request_models():
    """The model of every JSON body that a route takes."""

    def found(dependant):
        own = [dependant.call.model] if isinstance(dependant.call, JsonBody) else []
        return own + [model for d in dependant.dependencies for model in found(d)]

    routes = [r for router in (*ROUTERS, *OPEN_ROUTERS) for r in router.routes if isinstance(r, APIRoute)]
    return sorted({model for r in routes for model in found(r.dependant)}, key=lambda model: model.__name__)


MODELS = request_models()


def objects(kind, value, path=()):
    """Each object in a body with its path and model."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield from objects(kind, each, (*path, i))
    elif isinstance(value, dict):
        models = [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else models_in(kind)
        for model in models:
            yield path, model
            for name, (inner, _) in fields_of(model).items():
                yield from objects(inner, value.get(name), (*path, name))


def models_in(kind):
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in getattr(kind, "__args__", ()) for model in models_in(part)]


def changed(body, path, name, *, null):
    """The body with a field that is null, or without it."""
    body = json.loads(json.dumps(body))
    at = body
    for step in path:
        at = at[step]
    at.pop(name, None)
    if null:
        at[name] = None
    return json.dumps(body).encode()


def outcome(model, raw):
    try:
        return parse_body(model, raw)
    except (ApiError, ValidationError) as error:
        return str(error)


def test_every_route_with_a_body_is_tried():
    assert {m.__name__ for m in MODELS} == EXAMPLES.keys()


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_null_is_as_if_the_field_were_left_out(model):
    body = EXAMPLES[model.__name__] | MORE.get(model.__name__, {})
    assert isinstance(outcome(model, json.dumps(body).encode()), model)
    for path, inner in objects(model, body):
        for name, (kind, has_default) in fields_of(inner).items():
            if has_default:
                with_null, without = (outcome(model, changed(body, path, name, null=n)) for n in (True, False))
                removes = allows_null(kind) and isinstance(without, str)  # an edit's null label is an edit
                assert with_null == without or removes, (path, name)


@pytest.mark.parametrize("field", ["n", "stream", "logprobs", "stop", "temperature", "stream_options", "steering"])
def test_a_chat_with_a_null_field_is_a_chat_without_it(field):
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], field: None}
    assert parse_body(ChatRequest, json.dumps(body).encode()) == ChatRequest.model_validate(
        {k: v for k, v in body.items() if k != field}
    )


def test_a_required_field_may_not_be_null():
    with pytest.raises(ValidationError):
        parse_body(ChatRequest, json.dumps({"model": None, "messages": []}).encode())


def test_fields_of_a_jobs_configuration_and_of_a_map_are_left_out_too():
    assert without_nulls(SaeTrainConfig, {"out": None, "model": None}) == {"model": None}
    assert without_nulls(dict[str, float], {"top_p": None, "seed": 1}) == {"seed": 1}


def test_lists_of_numbers_are_not_walked():
    many = [[1] * 10] * 10
    assert without_nulls(list[list[int]], many) is many
    assert without_nulls(list[dict[str, int]], [{"a": None, "b": 1}]) == [{"b": 1}]
