"""Error shape: unknown paths and wrong methods are refused in OpenAI's shape; the page is unaffected."""

import httpx
import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, StreamingResponse

from server.api.middleware.error_shape import ErrorShapeMiddleware
from tests.server.api.test_bad_input import CHAT
from tests.support.live_server import serving


@pytest.fixture(scope="module")
def page(bundle, tmp_path_factory):
    from ui.page import mount

    with (
        serving(bundle, tmp_path_factory.mktemp("data"), mount=mount) as (address, _),
        httpx.Client(base_url=address) as client,
    ):
        yield client


def refusal(answer):
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("GET", "/v1/nope"),
        ("TRACE", "/v1/nope"),
        ("DELETE", "/v1/chat/nope"),
        ("GET", "/assets/nope"),
        ("GET", "/static/nope.js"),
        ("GET", "/docs/nope"),
        ("GET", "/docs/files/nope"),
        ("GET", "/page/nope.js"),
    ],
)
def test_where_nothing_is_says_where_to_look(page, method, path):
    status, code, message = refusal(page.request(method, path))
    assert (status, code) == (404, "not_found")
    assert path in message
    assert "/docs lists the routes" in message


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("TRACE", "/v1/models", "GET"),
        ("PUT", "/v1/features/small/1", "GET, PATCH"),
        ("PATCH", "/v1/presets/mine", "DELETE, GET, PUT"),
        ("POST", "/health", "GET"),
        ("DELETE", "/metrics", "GET"),
        ("GET", "/sign-out", "POST"),
        ("POST", "/", "GET"),
        ("PUT", "/config", "GET"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_says_which_are_right(page, method, path, takes):
    answer = page.request(method, path)
    assert refusal(answer) == (405, "method_not_supported", f"{path} allows {takes}, not {method}")
    assert answer.headers["allow"] == takes
    assert answer.headers["x-request-id"].startswith("req_")


def test_the_official_client_reads_what_went_astray(live):
    with openai.OpenAI(base_url=f"{live[0]}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.images.generate(prompt="a bridge")
        assert caught.value.code == "not_found"
        assert "/v1/images/generations" in str(caught.value)


def test_a_question_without_a_body_of_its_answer_has_a_status(page):
    answer = page.head("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_the_page_and_what_it_asks_of_gradio_are_as_they_were(page):
    assert "gradio" in page.get("/").text
    assert page.get("/page/shell/page.css").status_code == 200
    assert page.get("/config").json()["components"]
    assert page.get("/gradio_api/queue/data").json()["detail"]
    assert page.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_what_a_mounted_application_refuses_otherwise_keeps_its_words_and_its_time_to_wait():
    app = FastAPI()

    @app.get("/away")
    async def away():
        return PlainTextResponse("not there now", 503, {"Retry-After": "2"})

    @app.get("/mine")
    async def mine():
        return StreamingResponse(iter([b"<p>gone", b"</p>"]), 410, media_type="text/html")

    app.add_middleware(ErrorShapeMiddleware, routes=[])
    client = TestClient(app)
    answer = client.get("/away")
    assert refusal(answer) == (503, "http_error", "not there now")
    assert answer.headers["retry-after"] == "2"
    assert client.get("/mine").text == "<p>gone</p>"
