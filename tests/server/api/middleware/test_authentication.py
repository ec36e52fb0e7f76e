"""Authentication: odd paths, pages of other origins, and requests while the model loads; raw sockets and a real page."""

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.api.app import create_app
from server.runtime.page_proxy import PageProxy
from server.settings import BadSettings, Settings, load_settings
from tests.support.live_server import serving
from tests.support.waiting import until

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
APP = "https://app.example"
EVIL = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
ROUND_ABOUT = (
    "/page/../config",
    "/page/../gradio_api/info",
    "/page/%2e%2e/config",
    "/page/%2E./config",
    "/page/..%2fconfig",
    "/page/./../config",
    "/page//../config",
    "/page/x/../../config",
    "/page/..\\config",
    "/page/..%5cconfig",
    "//config",
    "/./config",
    "/health/../config",
    "/v1/../config",
)


def page(app):
    from ui.page import mount

    return mount(app)


def forwarding(app, place):
    """The application with a page behind a socket; it lets go of the socket at its end."""
    forward, begun = PageProxy(place), app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app):
        async with begun(app) as state:
            yield state
        await forward.close()

    app.router.lifespan_context = lifespan
    app.mount("/", forward)
    return app


@contextmanager
def running(app, **where):
    """Serve in a thread."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="error", timeout_graceful_shutdown=1, **where)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until(lambda: server.started)
    yield server
    server.should_exit = True
    thread.join(120)


@pytest.fixture(scope="module", params=["one process", "a page behind a socket"])
def guarded(request, bundle, tmp_path_factory):
    """A server with a key and the page, which is in the same process, or another one's as with `--workers`."""
    folder = tmp_path_factory.mktemp("guarded")
    if request.param == "one process":
        with serving(bundle, folder / "data", mount=page, admin_key=ADMIN) as (address, _):
            yield address
        return

    def forwarded(app):
        return forwarding(app, folder / "page")

    with (
        running(page(FastAPI()), uds=str(folder / "page")),
        serving(bundle, folder / "data", mount=forwarded, admin_key=ADMIN) as (address, _),
    ):
        yield address


@pytest.fixture(scope="module")
def keyless(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("keyless"), mount=page) as (address, app):
        yield address, app


@pytest.fixture
def loading(bundle, tmp_path):
    """A server whose model never comes."""

    async def never():
        await asyncio.Event().wait()
        raise AssertionError

    app = page(create_app(Settings(bundle=bundle, data_dir=tmp_path), never))
    with running(app, port=0) as server:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def ask(address, path, method="GET", *, key=None, head="", body=b""):
    """The status for a path as it stands here: clients for HTTP would tidy it."""
    host = address.removeprefix("http://")
    name, port = host.split(":")
    key = f"Authorization: Bearer {key}\r\n" if key else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    with socket.create_connection((name, int(port)), timeout=120) as line:
        line.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{key}{head}{length}\r\n".encode() + body
        )
        answer = b""
        while b"\r\n" not in answer and (more := line.recv(4096)):
            answer += more
    return int(answer.split()[1])


@pytest.mark.parametrize("path", ROUND_ABOUT)
def test_no_path_leads_round_the_entrance(guarded, path):
    assert ask(guarded, path) == 400
    assert ask(guarded, path, key=ADMIN) == 400


def test_nothing_of_the_page_but_its_code_is_told_without_a_key(guarded):
    assert ask(guarded, "/page/shell/page.css") == 200
    for path in (
        "/config",
        "/gradio_api/info",
        "/gradio_api/queue/data",
        "/gradio_api/upload_progress",
        "/docs/",
        "/no",
    ):
        assert ask(guarded, path) == 401, path
    upload = "Content-Type: multipart/form-data; boundary=x\r\n"
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhello\r\n--x--\r\n'
    for path in ("/gradio_api/upload", "/page/../gradio_api/upload", "/page/%2e%2e/gradio_api/queue/join"):
        assert ask(guarded, path, "POST", head=upload, body=form) in (400, 401), path


def test_what_the_page_does_not_need_of_gradio_is_not_there(guarded):
    for path in (
        "upload",
        "run/0",
        "api/x",
        "call/x",
        "stream/x",
        "component_server",
        "process_recording",
        "vibe-edit",
    ):
        assert ask(guarded, f"/gradio_api/{path}", "POST", key=ADMIN) == 404, path
    for path in (
        "/gradio_api/info",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=http:/x",
        "/monitoring",
        "/login",
    ):
        assert ask(guarded, path, key=ADMIN) == 404, path
    for path in ("/", "/config", "/theme.css", "/page/chat/chat.js", "/openapi.json", "/docs", "/v1/me"):
        assert ask(guarded, path, key=ADMIN) == 200, path


def test_bodies_have_a_limit_everywhere(guarded):
    mb = b"x" * ((1 << 20) + 1)
    assert (
        ask(guarded, "/gradio_api/queue/join", "POST", key=ADMIN, head="Content-Type: application/json\r\n", body=mb)
        == 413
    )
    assert ask(guarded, "/sign-in", "POST", body=b"key=" + b"x" * 5000) == 413
    assert ask(guarded, "/page/shell/page.css", body=b"x" * 5000) == 413

    def chunks():
        for _ in range(200):
            yield b"x" * 100

    assert httpx.post(f"{guarded}/sign-in", content=chunks()).status_code == 413


def test_who_has_tried_too_many_keys_is_told_how_long_to_wait(guarded):
    answers = []
    while not answers or answers[-1].status_code == 401:  # a window slides: of a minute ago a part counts
        answers.append(httpx.post(f"{guarded}/sign-in", data={"key": f"sk-tiller-{len(answers)}"}))
        assert len(answers) < 30
    assert len(answers) > 5
    assert answers[-1].status_code == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    "headers",
    [
        EVIL,
        EVIL | {"Authorization": "Bearer none"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://["},
    ],
)
def test_a_page_of_another_site_changes_nothing_on_a_server_without_keys(keyless, headers):
    address, _ = keyless
    with httpx.Client(base_url=address, headers=headers) as evil:
        for path, body in (
            ("/v1/keys", '{"name": "evil", "role": "admin"}'),
            ("/v1/jobs", '{"type": "update"}'),
            ("/v1/presets", '{"id": "evil", "name": "Evil", "steering": {"features": []}}'),
            ("/gradio_api/queue/join", '{"data": [null], "fn_index": 0, "session_hash": "x"}'),
            ("/sign-out", ""),
        ):
            answer = evil.post(path, content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin"), path
    assert httpx.get(f"{address}/v1/keys").json()["data"] == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_make_a_server_without_keys_compute(keyless, site):
    address, _ = keyless
    image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    for path in ("/v1/features?q=a", "/v1/models", "/v1/features/small/0"):
        refused = httpx.get(f"{address}{path}", headers=image)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_origin"), path
    for own in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert httpx.get(f"{address}/v1/models", headers=own).status_code == 200
    assert httpx.get(f"{address}/", headers={"Sec-Fetch-Site": site}).status_code == 200  # a link to the page


def test_the_page_itself_and_programs_change_what_they_like_on_a_server_without_keys(keyless):
    address, _ = keyless
    preset = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}
    for headers in ({}, {"Origin": address, "Sec-Fetch-Site": "same-origin"}, {"Authorization": "Bearer none"}):
        assert httpx.put(f"{address}/v1/presets/mine", json=preset, headers=headers).status_code == 200, headers


def test_a_page_of_another_site_may_use_a_key(guarded):
    known = EVIL | {"Authorization": f"Bearer {ADMIN}", "Sec-Fetch-Site": "cross-site"}
    answer = httpx.post(f"{guarded}/v1/keys", content='{"name": "friend"}', headers=known)
    assert answer.json().get("error", {}).get("code") != "wrong_origin"
    assert httpx.post(f"{guarded}/v1/keys", json={"name": "x"}, headers=EVIL).status_code == 401


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/chat/completions", "/", "/gradio_api/queue/join", "/config"])
def test_no_other_origin_is_told_that_it_may_come(keyless, path):
    address, _ = keyless
    for origin in ("http://localhost:3000", "https://evil.example", "null"):
        wish = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for answer in (httpx.options(f"{address}{path}", headers=wish), httpx.get(f"{address}{path}", headers=wish)):
            assert not [name for name in answer.headers if name.startswith("access-control")], answer.request


def test_while_the_model_loads_the_door_is_closed(loading):
    for method, path in (("POST", "/gradio_api/upload"), ("GET", "/gradio_api/info"), ("GET", "/config"), ("GET", "/docs"),
                         ("POST", "/gradio_api/queue/join"), ("GET", "/v1/me"), ("GET", "/")):  # fmt: skip
        answer = httpx.request(method, f"{loading}{path}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), path
    assert ask(loading, "/page/../config") == 400
    assert [
        httpx.get(f"{loading}{p}").status_code for p in ("/livez", "/health", "/version", "/page/shell/page.css")
    ] == [
        200,
        503,
        200,
        200,
    ]


def test_a_person_who_comes_while_the_model_loads_sees_so(loading):
    answer = httpx.get(loading, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["refresh"]) == (503, "2")
    assert "is loading" in answer.text


def test_what_is_handed_on_is_the_path_that_was_judged(tmp_path):
    heard = []

    async def behind(scope, receive, send):
        if scope["type"] == "http":
            heard.append(scope["raw_path"])
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    paths = ["/a/../b", "/a/%2e%2e/b", "/a//b", "/a%2Fb", "/./", "/a/..%2fb"]
    front = forwarding(FastAPI(), tmp_path / "page")
    with running(behind, uds=str(tmp_path / "page"), lifespan="off"), running(front, port=0) as server:
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        assert [ask(address, path) for path in paths] == [200] * len(paths)
    assert [path.decode() for path in heard] == paths


HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture(scope="module", params=[None, ADMIN], ids=["keyless", "keys"])
def let_in(request, bundle, tmp_path_factory):
    """A server that lets the pages of one other site call, and what a call needs there."""
    folder = tmp_path_factory.mktemp("let_in")
    with serving(bundle, folder, mount=page, origins=(APP,), admin_key=request.param) as (address, _):
        yield address, {"Authorization": f"Bearer {request.param}"} if request.param else {}


def test_a_page_of_a_site_that_is_let_in_calls_and_reads_as_a_program_does(let_in):
    address, key = let_in
    wish = {
        "Origin": APP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
    }
    told = httpx.options(f"{address}/v1/chat/completions", headers=wish)
    assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, APP)
    assert "x-stainless-lang" in told.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in told.headers
    cross = key | {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    answer = httpx.post(f"{address}/v1/chat/completions", json=HELLO, headers=cross)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert "x-tiller-steered" in answer.headers["access-control-expose-headers"]
    wrong = httpx.post(f"{address}/v1/chat/completions", json={"model": "none"}, headers=cross)
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (400, APP)
    huge = httpx.post(f"{address}/v1/chat/completions", content=b"x" * (1 << 21), headers=cross)
    assert (huge.status_code, huge.headers["access-control-allow-origin"]) == (413, APP)


def test_nobody_else_is_let_in_and_nothing_but_the_api_is_open(let_in):
    address, _ = let_in
    for origin in ("https://evil.example", f"{APP}.evil.example", "http://app.example", f"{APP}:444", "null"):
        answer = httpx.post(f"{address}/v1/feedback", json={}, headers={"Origin": origin})
        assert answer.status_code in (401, 403), origin
        assert "access-control-allow-origin" not in answer.headers, origin
    for path in ("/", "/gradio_api/queue/join", "/sign-in", "/sign-out", "/docs", "/health"):
        for method in ("GET", "POST", "OPTIONS"):
            answer = httpx.request(method, address + path, headers={"Origin": APP, "Accept": "text/html"})
            assert "access-control-allow-origin" not in answer.headers, (method, path)
            assert method != "POST" or answer.status_code in (401, 403, 405), (method, path)


def test_a_cookie_never_speaks_for_another_site_that_is_let_in(let_in):
    address, key = let_in
    if not key:
        return  # there are no cookies
    with httpx.Client(base_url=address) as browser:
        browser.post("/sign-in", data={"key": ADMIN})
        assert browser.get("/v1/me").status_code == 200
        answer = browser.post("/v1/feedback", json={}, headers={"Origin": APP})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")


@pytest.mark.parametrize(
    "given",
    ["*", "app.example", "https://app.example/", "https://app.example/x", "ftp://a", "https://app.example:443", ""],
)
def test_what_is_no_origin_is_refused_at_the_start(given):
    with pytest.raises(BadSettings, match="is not an origin"):
        load_settings(origins=(given,))
