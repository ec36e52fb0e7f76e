"""API keys: over HTTP and from the command line, browser sign-in, roles at every route, limits per period."""

import asyncio
import subprocess
import sys
import time
from itertools import pairwise

import httpx
import openai
import pytest

from server.api.routes import ROUTERS
from server.auth import keyring, permissions
from server.auth.keyring import Keyring, check_reachable
from server.auth.keys import hash_secret, new_key
from server.settings import BadSettings, Settings
from server.store.models import ROLES, Key, RateLimits
from server.store.sqlite.store import SqliteStore
from tests.support.halted_engine import halted
from tests.support.live_server import asking, serving
from tests.support.waiting import LIMIT, until

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def guarded(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    with serving(bundle, folder / "data", admin_key=ADMIN, live=4) as (address, app):
        yield address, app


@pytest.fixture
def admin(guarded):
    with as_(guarded[0], ADMIN) as http:
        yield http


def as_(address, secret, **headers):
    headers = {"Authorization": f"Bearer {secret}", **headers} if secret else headers
    return httpx.Client(base_url=address, headers=headers)


def made(admin, name="ada", **about):
    answer = admin.post("/v1/keys", json={"name": name, **about})
    assert answer.status_code == 201, answer.text
    return answer.json()


def routes():
    found = []
    for router in ROUTERS:
        found += [(m, r.path) for r in router.routes for m in r.methods if m != "HEAD"]
    return found


def test_every_route_has_a_least_role_and_no_role_is_for_a_route_that_is_not_there():
    assert {*routes()} == {*permissions.MINIMUM_ROLES}


def test_every_route_refuses_whoever_has_no_key(guarded):
    with as_(guarded[0], None) as nobody:
        for method, path in routes():
            answer = nobody.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"


def test_every_route_refuses_the_role_below_its_own(guarded, admin):
    held = {role: made(admin, f"of-{role}", role=role)["secret"] for role in ROLES}
    for (method, path), least in permissions.MINIMUM_ROLES.items():
        below = {b: a for a, b in pairwise(ROLES)}.get(least)
        if below:
            with as_(guarded[0], held[below]) as http:
                answer = http.request(method, path.replace("{", "").replace("}", "").replace(":path", ""))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role_too_low"), (method, path)


def test_what_gradio_does_needs_a_key_too_and_health_does_not(guarded):
    with as_(guarded[0], None) as nobody:
        for path in ("/", "/gradio_api/info", "/openapi.json", "/docs", "/gradio_api/queue/join"):
            assert nobody.get(path).status_code == 401, path
        assert [nobody.get(p).status_code for p in ("/livez", "/health", "/version", "/metrics")] == [200] * 4


def test_a_key_is_told_once_and_kept_as_a_hash(guarded, admin):
    key = made(admin, "once", role="creator", days=2)
    assert key["secret"].startswith(key["prefix"])
    listed = next(k for k in admin.get("/v1/keys").json()["data"] if k["id"] == key["id"])
    assert "secret" not in listed
    assert "digest" not in listed
    on_disk = lambda what: subprocess.run(["grep", "-raq", what, guarded[1].state.settings.data_dir]).returncode == 0  # noqa: E731
    # by another process: to close a file of SQLite's is to let go of its locks
    assert not on_disk(key["secret"])
    assert on_disk(hash_secret(key["secret"]))


def test_a_key_works_with_openais_client_until_it_is_deleted(guarded, admin):
    key = made(admin, "gone", role="user")
    with openai.OpenAI(base_url=f"{guarded[0]}/v1", api_key=key["secret"], max_retries=0) as client:
        assert client.chat.completions.create(**HELLO).choices[0].message.content
        assert admin.delete(f"/v1/keys/{key['id']}").json()["deleted"]
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            client.chat.completions.create(**HELLO)


def test_a_key_that_was_deleted_elsewhere_is_refused_within_a_second(guarded, admin):
    key = made(admin, "elsewhere")
    with as_(guarded[0], key["secret"]) as http:
        assert http.get("/v1/me").status_code == 200
        subprocess.run(tiller("keys", "rm", key["id"], guarded), check=True)
        until(lambda: http.get("/v1/me").status_code == 401)


def test_a_key_from_the_command_line_gets_in_at_once(guarded):
    said = subprocess.run(
        tiller("keys", "new", "cli", guarded, "--role", "creator", "--tokens", "99"), check=True, capture_output=True, text=True
    )  # fmt: skip
    with as_(guarded[0], said.stdout.strip()) as http:
        until(lambda: http.get("/v1/me").status_code == 200)
        me = http.get("/v1/me").json()
    assert (me["owner"], me["role"], me["limits"]["tokens"], me["limits"]["requests"]) == ("cli", "creator", 99, 240)
    listed = subprocess.run(tiller("keys", "ls", guarded), check=True, capture_output=True, text=True).stdout
    assert "cli" in listed
    assert said.stdout.strip() not in listed


def test_a_key_is_told_what_its_role_does_not_reach_and_what_it_may_steer(guarded, admin):
    told = {}
    for role in ("viewer", "creator"):
        with as_(guarded[0], made(admin, f"who-{role}", role=role)["secret"]) as http:
            told[role] = http.get("/v1/me").json()
    assert admin.get("/v1/me").json()["beyond"] == {}
    assert told["viewer"]["beyond"]["POST /v1/presets"] == "creator"
    assert "POST /v1/chat/completions" not in told["viewer"]["beyond"]
    assert "POST /v1/presets" not in told["creator"]["beyond"]
    assert told["creator"]["beyond"]["POST /v1/jobs"] == "admin"
    assert told["viewer"]["steering"]["steers"] == "presets"
    assert told["creator"]["steering"]["features"] == 16


async def test_a_new_key_is_not_refused_because_the_store_is_slow(tmp_path, monkeypatch):
    class Slow(SqliteStore):
        async def keys(self):
            await asyncio.sleep(0.6)
            return await super().keys()

    store, ring = Slow(tmp_path / "store.db"), Keyring(Settings(data_dir=tmp_path))
    first, secret = new_key("first", "user")
    await store.add_key(first)
    assert (await ring.authenticate(store, secret, None)).owner == "first"
    later, newer = new_key("later", "user")
    await store.add_key(later)
    monkeypatch.setattr(keyring, "FRESH", 0.0)
    assert (await ring.authenticate(store, newer, None)).owner == "later"
    assert await ring.authenticate(store, "sk-tiller-nobodys", None) is None
    await store.close()


async def test_what_was_changed_here_holds_at_once_however_slowly_the_store_tells_of_it(tmp_path, monkeypatch):
    """A look that began before the change knows the old, and may end after it."""
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SqliteStore):
        async def setting(self, key):
            found = await super().setting(key)
            if first_look:
                first_look.pop()
                began.set()
                await go_on.wait()
            else:
                await asyncio.sleep(2 * keyring.PATIENCE)
            return found

    store, ring, first_look = Slow(tmp_path / "store.db"), Keyring(Settings(data_dir=tmp_path)), [True]
    (gone, secret), (stays, other) = new_key("gone", "user"), new_key("stays", "user")
    for key in (gone, stays):
        await store.add_key(key)
    assert (await ring.authenticate(store, secret, None)).owner == "gone"
    monkeypatch.setattr(keyring, "FRESH", 0.0)
    assert (
        await ring.authenticate(store, other, None)
    ).owner == "stays"  # which has begun a look, and not waited for it
    await asyncio.wait_for(began.wait(), LIMIT)
    await store.delete_key(gone.id)
    await ring.reload(store)
    monkeypatch.setattr(keyring, "FRESH", 60.0)
    assert await ring.authenticate(store, secret, None) is None
    go_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await ring.authenticate(store, secret, None) is None
    assert (await ring.authenticate(store, other, None)).owner == "stays"
    await store.close()


def test_an_expired_key_is_refused(guarded, admin):
    key = made(admin, "short", days=2 / 86_400)
    with as_(guarded[0], key["secret"]) as http:
        until(lambda: http.get("/v1/me").status_code == 401)
        assert "has expired" in http.get("/v1/me").json()["error"]["message"]


def test_a_wrong_body_names_what_is_wrong(admin):
    for body, param in (({"name": "Ä"}, "name"), ({"name": "a", "role": "king"}, "role"), ({"name": "a", "days": 0}, "days"),
                        ({"name": "a", "default_preset": "none"}, "default_preset"), ({"name": "a", "x": 1}, "x")):  # fmt: skip
        answer = admin.post("/v1/keys", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_browser_signs_in_and_out_with_the_same_key(guarded, admin):
    key = made(admin, "browser")
    with httpx.Client(base_url=guarded[0], headers={"Accept": "text/html"}) as browser:
        sent = browser.get("/")
        assert (sent.status_code, sent.headers["location"]) == (303, "sign-in")
        assert "API key" in browser.get("/sign-in").text
        wrong = browser.post("/sign-in", data={"key": "sk-tiller-wrong"})
        assert (wrong.status_code, "not known here" in wrong.text) == (401, True)
        right = browser.post("/sign-in", data={"key": key["secret"]})
        cookie = right.headers["set-cookie"]
        assert right.status_code == 303
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert key["secret"] not in cookie
        assert browser.get("/v1/me").json()["owner"] == "browser"
        foreign = browser.post("/v1/feedback", json={}, headers={"Origin": "http://evil.example"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "wrong_origin")
        own = browser.post("/v1/feedback", json={}, headers={"Origin": guarded[0]})
        assert own.json()["error"]["code"] != "wrong_origin"
        browser.post("/sign-out")
        assert browser.get("/v1/me").status_code == 401


def test_the_right_key_is_let_in_after_any_number_of_wrong_ones(guarded, admin):
    key = made(admin, "behind-a-proxy")
    with httpx.Client(base_url=guarded[0]) as browser:
        wrong = [browser.post("/sign-in", data={"key": "sk-tiller-wrong"}).status_code for _ in range(12)]
        assert wrong[-1] == 429
        assert browser.post("/sign-in", data={"key": key["secret"]}).status_code == 303
        assert browser.post("/sign-in", data={"key": "sk-tiller-wrong"}).status_code == 429


def test_a_forged_cookie_is_nobodys(guarded):
    with httpx.Client(base_url=guarded[0], cookies={"tiller_session": "ImtleV8xIg.aaaa.bbbb"}) as browser:
        assert browser.get("/v1/me").status_code == 401


def test_a_cookie_is_worth_nothing_when_its_key_is_deleted(guarded, admin):
    key = made(admin, "cookie")
    with httpx.Client(base_url=guarded[0]) as browser:
        browser.post("/sign-in", data={"key": key["secret"]})
        assert browser.get("/v1/me").status_code == 200
        admin.delete(f"/v1/keys/{key['id']}")
        assert browser.get("/v1/me").status_code == 401


@pytest.mark.parametrize("how", ["command line", "http"])
def test_who_ends_all_sessions_makes_every_cookie_worthless_and_no_key(guarded, admin, how):
    key = made(admin, f"sessions-{how[:4]}")
    with httpx.Client(base_url=guarded[0]) as browser, httpx.Client(base_url=guarded[0]) as operator:
        for page, secret in ((browser, key["secret"]), (operator, ADMIN)):
            page.post("/sign-in", data={"key": secret})
            assert page.get("/v1/me").status_code == 200
        if how == "http":
            assert admin.delete("/v1/sessions").json() == {"object": "sessions", "deleted": True}
            assert browser.get("/v1/me").status_code == 401
        else:
            subprocess.run(tiller("keys", "sign-out", guarded), check=True)
            until(lambda: browser.get("/v1/me").status_code == 401)
        until(lambda: operator.get("/v1/me").status_code == 401)
        browser.post("/sign-in", data={"key": key["secret"]})
        assert browser.get("/v1/me").status_code == 200
    with as_(guarded[0], key["secret"]) as http:
        assert http.get("/v1/me").status_code == 200


def test_requests_tokens_replies_and_steerings_are_limited_each(guarded, admin):
    few = made(admin, "few", role="creator", limits={"requests": 3})
    with as_(guarded[0], few["secret"]) as http:
        answers = [http.post("/v1/chat/completions", json=HELLO) for _ in range(4)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert http.get("/v1/presets").status_code == 200  # looking costs nothing
        assert http.get("/v1/features", params={"q": "a"}).status_code == 429  # searching does
    refused = answers[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "3 requests a minute" in refused.json()["error"]["message"]

    short = made(admin, "short-of-tokens", limits={"tokens": 5})
    with as_(guarded[0], short["secret"]) as http:
        assert http.post("/v1/chat/completions", json=HELLO).status_code == 200
        until(lambda: http.post("/v1/chat/completions", json=HELLO).status_code == 429)

    steady = made(admin, "steady", role="creator", limits={"specs": 2})
    with as_(guarded[0], steady["secret"]) as http:
        said = [http.post("/v1/chat/completions", json=HELLO | steered(s / 10)).status_code for s in (1, 2, 1, 3, 2)]
    assert said == [200, 200, 200, 429, 200]


def steered(strength):
    return {"steering": {"features": [{"id": "small/1", "strength": strength}]}}


def test_so_many_replies_at_a_time_and_a_place_is_free_when_one_ends(guarded, admin):
    key = made(admin, "one-at-a-time", limits={"concurrent": 1})
    long = HELLO | {"max_tokens": 200, "stream": True, "ignore_eos": True}
    engine, mine = guarded[1].state.served_model.engine, {"Authorization": f"Bearer {key['secret']}"}
    with as_(guarded[0], key["secret"]) as http:
        with halted(engine), asking(guarded[0], "/v1/chat/completions", long, **mine):
            until(lambda: sum(engine.occupancy) == 1)
            assert http.post("/v1/chat/completions", json=HELLO).status_code == 429
        until(lambda: http.post("/v1/chat/completions", json=HELLO).status_code == 200)


def test_nobody_elses_limit_is_touched(guarded, admin):
    one, other = (made(admin, n, limits={"requests": 1}) for n in ("limit-a", "limit-b"))
    for key in (one, other):
        with as_(guarded[0], key["secret"]) as http:
            assert http.post("/v1/chat/completions", json=HELLO).status_code == 200


def test_a_server_that_others_can_reach_is_refused_without_a_key(tmp_path):
    async def check(**about):
        store = SqliteStore(tmp_path / "tiller.db")
        try:
            await check_reachable(Settings(data_dir=tmp_path, **about), store)
            await store.add_key(new_key("ada", "admin")[0])
            await check_reachable(Settings(data_dir=tmp_path, host="0.0.0.0"), store)
        finally:
            await store.close()

    with pytest.raises(BadSettings, match="tiller keys new"):
        asyncio.run(check(host="0.0.0.0"))
    with pytest.raises(BadSettings, match="tiller keys new"):
        asyncio.run(check(host="0.0.0.0", admin_key=""))
    asyncio.run(check(host="127.0.0.1"))
    asyncio.run(check(host="0.0.0.0", admin_key="something-long-enough-for-nobody-to-guess"))


def test_an_open_server_on_loopback_asks_for_nothing(http):
    me = http.get("/v1/me").json()
    assert (me["role"], me["owner"], me["key"]) == ("admin", None, None)
    assert http.get("/sign-in").headers["location"] == "./"


def test_no_key_gives_more_than_it_says():
    key, secret = new_key("a", "user", limits=RateLimits(tokens=7))
    assert isinstance(key, Key)
    assert hash_secret(secret) == key.digest
    assert key.is_valid()
    assert not key.model_copy(update={"expires": int(time.time()) - 1}).is_valid()


def tiller(*words):
    """A command; the server among its words stands for its data directory."""
    flat = []
    for word in words:
        flat += ["--data-dir", str(word[1].state.settings.data_dir)] if isinstance(word, tuple) else [word]
    return [sys.executable, "-m", "server", *flat]
