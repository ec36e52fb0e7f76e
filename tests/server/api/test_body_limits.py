"""Body limits: whatever list or object of a request body is too long is refused before its items are validated."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Annotated, Any, Union, get_args, get_origin

import httpx
import pytest
from pydantic import ValidationError

from server.api.body import parse_body
from server.api.body_limits import MAX_ITEMS, MAX_TOTAL, check_items
from server.api.json_types import fields_of
from server.api.routes.transfer import IMPORTED
from server.errors import ApiError
from server.schemas.analysis import ContrastRequest
from server.schemas.generation import ChatRequest
from server.user_data.documents import Export, PresetBundle
from tests.server.api.test_body import MODELS
from tests.support.live_server import serving
from tests.support.waiting import until

MANY = 60_000
DOCUMENTS = (Export, PresetBundle)


@pytest.fixture(scope="module")
def with_page(bundle, tmp_path_factory):
    """The address of a server with the page."""

    def page(app):
        from ui.page import mount

        return mount(app)

    with serving(bundle, tmp_path_factory.mktemp("with-page"), mount=page) as (address, _):
        yield address


def long_values(kind: Any, depth: int = 0) -> Iterator[object]:
    """JSON of a type with a list or an object somewhere in it that is far too long."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from long_values(arguments[0], depth)
    elif origin in (list, tuple):
        yield [0] * MANY
        yield from ([inner] for inner in long_values(arguments[0], depth + 1))
    elif origin is dict:
        yield {str(i): [] for i in range(MANY)}
    elif origin is Union or arguments:
        for form in arguments:
            yield from long_values(form, depth)
    elif depth < 8 and (known := fields_of(kind)):
        yield {f"no{i}": 0 for i in range(MANY)}
        for name, (inner, _) in known.items():
            yield from ({name: value} for value in long_values(inner, depth + 1))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_no_list_of_any_body_is_validated_item_by_item_when_it_is_too_long(model):
    bodies = list(long_values(model))
    assert bodies
    for body in bodies:
        try:
            parse_body(model, json.dumps(body).encode(), total=IMPORTED if model in DOCUMENTS else MAX_TOTAL)
        except ApiError:
            continue
        except ValidationError as error:
            assert error.error_count() <= MAX_ITEMS, (error.title, body.keys())


def test_a_list_that_is_too_long_is_named_with_its_limit():
    body = {"model": "small", "messages": [], "steering": {"features": [0] * 33}}
    with pytest.raises(ApiError) as refused:
        parse_body(ChatRequest, json.dumps(body).encode())
    assert refused.value.param == "steering.features"
    assert refused.value.message == "steering.features: must have at most 32 items, got 33"


def test_lists_within_lists_count_together():
    documents = {"a": [[{"role": "user", "content": "a"}] * 60] * 900, "b": ["b"]}
    with pytest.raises(ApiError, match="more than 50000 items in all"):
        check_items(ContrastRequest, documents)
    check_items(ContrastRequest, documents | {"a": documents["a"][:800]})


def test_a_prompt_of_many_tokens_is_no_long_list():
    assert check_items(next(m for m in MODELS if m.__name__ == "CompletionRequest"), {"prompt": [1] * 200_000}) is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs", "/gradio_api/queue/join", "/sign-in"])
def test_a_client_that_leaves_within_its_body_is_no_failure_of_the_server(with_page, path, capfd):
    line = HTTPConnection(with_page.removeprefix("http://"))
    line.putrequest("POST", path)
    line.putheader("Content-Length", "1000")
    line.endheaders(b'{"model": ')
    line.close()
    said = ""

    def logged():
        nonlocal said
        said += capfd.readouterr().out
        return "method=POST" in said

    until(logged)
    assert httpx.get(f"{with_page}/livez").status_code == 200
    assert "Traceback" not in said
    assert "unhandled" not in said
    assert "status=500" not in said
