"""Validation errors: plain sentences at every route, rather than Python's or pydantic's messages."""

import json
import re

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from server import validation
from server.api.app import create_app
from server.errors import ApiError
from server.jobs.queue import JobQueue
from server.settings import Settings

SCHEMA = create_app(Settings(), lambda: None).openapi()
WRONG = [
    None, True, 0, -1, 1.5, 10**30, float("inf"), "", "x", "5", "a" * 21_000, [], {}, [None] * 2001, [0] * 2001, ["x"] * 2001,
    [[]], [{}], {"x": 1}, {"x": {}}, {str(i): 1 for i in range(400)},
]  # fmt: skip
MACHINES = re.compile(
    r"input|validation|tuple|dict|\bstr\b|\bint\b|\bfloat\b|bool|none|array|pydantic|error|parse|^list |items? after|instance|\{|\}",
    re.IGNORECASE,
)
"""Words of those who made it, not of those who use it."""


def models():
    """Every model that a route takes, by its name."""
    bodies = [
        a["requestBody"]["content"]["application/json"]
        for m in SCHEMA["paths"].values()
        for a in m.values()
        if "requestBody" in a
    ]
    named = {b["schema"]["$ref"].rpartition("/")[2] for b in bodies}
    return {kind.__name__: TypeAdapter(kind) for kind in descendants(BaseModel) if kind.__name__ in named}


def descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def ways(schema, names, depth=6):
    """Values that are wrong at one place each, for all places of a schema."""
    yield from WRONG
    inner = [schema[k] for k in ("items", "additionalProperties") if isinstance(schema.get(k), dict)]
    for one in (
        *schema.get("anyOf", ()),
        *schema.get("oneOf", ()),
        names.get(schema.get("$ref", "").rpartition("/")[2], {}),
    ):
        yield from ways(one, names, depth - 1) if depth and one else ()
    for key, one in schema.get("properties", {}).items() if depth else ():
        yield from ({key: value} for value in ways(one, names, depth - 1))
    for one in (*inner, *schema.get("prefixItems", ())) if depth else ():
        yield from (made for value in ways(one, names, depth - 1) for made in ([value], {"k": value}))


def found(adapter):
    """All that is wrong with all of them."""
    schema = adapter.json_schema()
    for value in ways(schema, schema.get("$defs", {})):
        for text, strict in ((json.dumps(value), True), (json.dumps(value), False)):
            try:
                adapter.validate_json(text, strict=strict)
            except ApiError as error:
                yield {"type": "value_error", "input": None, "told": error.message}
            except ValidationError as error:
                yield from error.errors(include_url=False)[:50]
                yield from (
                    {**p, "told": validation.first_error(error.errors(include_url=False))[1]}
                    for p in error.errors()[:1]
                )


def in_words(adapter):
    """Each kind of refusal; raises AssertionError for one that is not in plain words."""
    seen = {}
    for problem in found(adapter):
        said = problem.get("told") or validation.message(problem)
        seen.setdefault((problem["type"], said.replace(validation.describe_value(problem["input"]), "")), problem)
    for (kind, said), problem in seen.items():
        assert kind in {
            "value_error",
            "string_pattern_mismatch",
            *validation.KINDS,
            *validation.LIMITS,
            *validation.KEYS,
        }, problem
        assert not MACHINES.search(re.sub("'[^']*'", "", said)), said
        assert kind != "string_pattern_mismatch" or problem["ctx"]["pattern"] in validation.SHAPES
    return seen


@pytest.mark.parametrize("name", sorted(models()))
def test_no_body_is_refused_in_a_machines_words(name):
    assert in_words(models()[name])


@pytest.mark.parametrize("kind", ["sae_train", "sae_update", "calibrate", "sweep", "map"])
def test_nor_what_a_job_is_told(kind, tmp_path):
    assert in_words(TypeAdapter(JobQueue(Settings(data_dir=tmp_path)).task(kind)[0]))


def test_every_model_that_a_route_takes_is_walked():
    assert len(models()) >= 20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages: must have 1 or more items, got 0"),
        ({"messages": "hi"}, "messages: must be a list, got 'hi'"),
        ({"messages": ["hi"]}, "messages.0: must be an object, got 'hi'"),
        ({"model": ""}, "model: must have 1 or more characters, got ''"),
        ({"temperature": "hot"}, "temperature: must be a number, got 'hot'"),
        ({"temperature": 3}, "temperature: must be at most 2, got 3"),
        ({"max_tokens": 1.5}, "max_tokens: must be an integer, got 1.5"),
        ({"stream": "yes, please"}, "stream: must be true or false, got 'yes, please'"),
        ({"steering": {"unit": "doses"}}, "steering.unit: must be 'dose', 'max' or 'raw', got 'doses'; did you mean 'dose'?"),
        ({"steering": {"features": [{"id": "x"}] * 33}}, "steering.features: must have at most 32 items, got 33"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x: must be an integer, got 'x'"),
        ({"seed": 2**63}, "seed: must be less than 9223372036854775808, got 9223372036854775808"),
        ({"user": "a" * 300}, "user: must have at most 256 characters, got 300"),
    ],
)  # fmt: skip
def test_a_chat_is_refused_in_a_sentence(http, change, says):
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], **change}
    assert http.post("/v1/chat/completions", json=body).json()["error"]["message"] == says


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/features?limit=x", "limit: must be an integer, got 'x'"),
        ("/v1/features?sort=scores", "sort: must be 'score', 'density', 'max' or 'label', got 'scores'; did you mean 'score'?"),
        ("/v1/features?labelled=perhaps", "labelled: must be true or false, got 'perhaps'"),
        ("/v1/features?min_density=nan", "min_density: must be a finite number, got 'nan'"),
        ("/v1/features?cursor=x", "cursor: must be a number, the next_cursor of the previous page, got 'x'"),
    ],
)  # fmt: skip
def test_an_address_is_refused_in_a_sentence(http, path, says):
    assert http.get(path).json()["error"]["message"] == says


def test_of_several_forms_all_are_told_or_the_one_that_was_meant(http):
    says = lambda a: http.post("/v1/features/contrast", json={"a": a, "b": ["x"]}).json()["error"]["message"]  # noqa: E731
    assert says(["x", 5]) == "a.1: must be text or a list, got 5"
    assert says(["x", ["y"]]) == "a.1.0: must be an object, got 'y'"
