"""Queue position of a waiting reply: the order in which the engine admits requests, visible to its own caller only."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.halted_engine import halted
from tests.support.live_server import asking, serving
from tests.support.waiting import until

ADMIN = "an-operators-key-that-is-long-enough"
LONG = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def busy(bundle, tmp_path_factory):
    """A server with keys and one seat: as two people see it, and its engine."""
    with serving(bundle, tmp_path_factory.mktemp("busy"), live=1, queue=16, admin_key=ADMIN) as (address, app):
        as_ = lambda key: httpx.Client(  # noqa: E731
            base_url=f"{address}/v1", headers={"Authorization": f"Bearer {key}"}
        )
        with as_(ADMIN) as admin:
            key = admin.post("/keys", json={"name": "ada", "owner": "ada", "role": "researcher"}).json()["secret"]
            with as_(key) as ada:
                yield admin, ada, app.state.served_model.engine


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def ask(busy, threads):
    """Ask under a name, and come back when that waits or runs."""

    def begin(http, name, path="/chat/completions", **changes):
        engine = busy[2]
        there = sum(engine.occupancy)
        asked = threads.submit(http.post, path, json=LONG | changes, headers={"X-Request-Id": name})
        until(lambda: sum(engine.occupancy) > there or asked.done())
        return asked

    return begin


def place(http, name):
    answer = http.get(f"/queue/{name}")
    return answer.json()["before"] if answer.status_code == 200 else answer.status_code


def test_places_are_those_of_the_turns_that_people_take(busy, ask):
    admin, ada, engine = busy
    with halted(engine):
        asked = [ask(admin, "runs"), *(ask(admin, f"mine-{i}") for i in range(3)), ask(ada, "hers")]
        until(lambda: engine.occupancy == (1, 4))
        assert [place(admin, f"mine-{i}") for i in range(3)] == [0, 2, 3]
        assert place(ada, "hers") == 1  # she has one, and does not wait for three
        told = ada.get("/queue/hers").json()
        assert told == {"object": "place", "id": "hers", "before": 1, "running": 1}
        assert place(admin, "runs") == 404
    assert [a.result(120).status_code for a in asked] == [200] * 5
    assert place(admin, "mine-2") == 404


def test_a_place_is_told_to_whoever_asked_and_to_nobody_else(busy, ask):
    admin, ada, engine = busy
    with halted(engine):
        asked = [ask(admin, "runs"), ask(admin, "same"), ask(ada, "same"), ask(admin, "mine")]
        until(lambda: engine.occupancy == (1, 3))
        assert (place(admin, "same"), place(ada, "same")) == (0, 1)
        assert (place(admin, "mine"), place(ada, "mine")) == (2, 404)
        refusal = ada.get("/queue/mine").json()["error"]
        assert (refusal["code"], refusal["message"]) == ("not_found", "no request 'mine' of yours is waiting here")
    assert all(a.result(120).status_code == 200 for a in asked)


def test_who_leaves_is_not_before_anybody(busy, ask):
    admin, _, engine = busy
    address = f"http://{admin.base_url.host}:{admin.base_url.port}"
    with halted(engine):
        asked = [ask(admin, "runs")]
        with asking(address, "/v1/chat/completions", LONG, Authorization=f"Bearer {ADMIN}"):
            until(lambda: engine.occupancy == (1, 1))
        until(lambda: engine.occupancy == (1, 0))
        asked.append(ask(admin, "stays"))
        assert place(admin, "stays") == 0
    assert all(a.result(120).status_code == 200 for a in asked)


def test_of_several_replies_to_one_request_the_next_tells_the_place(busy, ask):
    admin, _, engine = busy
    variants = [{"name": "default"}, {"name": "bridge", "steering": {"preset": "bridge"}}]
    with halted(engine):
        asked = [ask(admin, "runs"), ask(admin, "first"), ask(admin, "both", "/steering/compare", variants=variants)]
        until(lambda: engine.occupancy == (1, 3))
        assert place(admin, "both") == 1
    assert all(a.result(120).status_code == 200 for a in asked)
