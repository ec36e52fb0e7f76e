"""Rate limiter: counts shared by all replicas through Redis, without blocking requests when Redis is lost."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from limits import RateLimitItemPerMinute

from server.auth.caller import Caller
from server.errors import ApiError
from server.limits import rate_limiter as rates_module
from server.limits.leases import Answer, new_lease
from server.limits.rate_limiter import RateLimiter
from server.limits.redis_leases import RedisLeases
from server.settings import Settings
from server.store.models import RateLimits
from tests.support.live_server import serving
from tests.support.redis_server import running
from tests.support.waiting import eventually

ADMIN = "the-first-key-of-this-server-is-long-enough"
ADA = Caller("user", "t", "ada", RateLimits(requests=3, tokens=100, specs=2, concurrent=1), key="key_ada")
WIDE = replace(ADA, limits=RateLimits(requests=1000))


@pytest.fixture
async def counting(monkeypatch, request):
    """Counts of servers, which on a busy machine wait longer for Redis, unless they are to find it lost."""
    made = []
    if "lost" not in request.node.name and "not_asked" not in request.node.name:
        monkeypatch.setattr(rates_module, "PATIENCE", 60.0)

    def make(**about):
        made.append(RateLimiter(Settings(**about)))
        return made[-1]

    yield make
    for rates in made:
        await rates.close()


@pytest.fixture
def server(tmp_path):
    with running(tmp_path) as server:
        yield server


async def test_two_replicas_count_together(server, counting):
    one, other = (counting(redis_url=server.url) for _ in range(2))
    await one.count_request(ADA, counts=True)
    await other.count_request(ADA, counts=True)
    await one.count_request(ADA, counts=True)
    with pytest.raises(ApiError, match="3 requests a minute"):
        await other.count_request(ADA, counts=True)
    await other.count_request(replace(ADA, key="key_bob"), counts=True)

    for rates, fingerprint in ((one, "s_a"), (other, "s_b"), (one, "s_b"), (other, "s_a")):
        await rates.count_spec(ADA, fingerprint)
    with pytest.raises(ApiError, match="2 different steerings"):
        await one.count_spec(ADA, "s_c")

    await one.count_tokens(ADA, 70)
    await other.check_budget(ADA)
    await other.count_tokens(ADA, 500)  # more than there is takes all
    with pytest.raises(ApiError, match="100 tokens a minute"):
        await one.check_budget(ADA)


async def test_two_replicas_hold_and_owe_together(server, counting):
    one, other = (counting(redis_url=server.url) for _ in range(2))
    async with one.reserve(ADA):
        with pytest.raises(ApiError, match="1 replies at a time"):
            async with other.reserve(ADA):
                pass
        async with other.reserve(replace(ADA, key="key_bob")):
            pass
    async with other.reserve(ADA):
        pass

    many = replace(ADA, limits=RateLimits(tokens=100, concurrent=8))
    async with one.reserve(many, expected=100):
        with pytest.raises(ApiError, match="100 tokens a minute"):
            async with other.reserve(many, expected=1):
                pass
    async with other.reserve(many, expected=1):
        pass
    await one.count_tokens(many, 400)  # a hundred are paid at once
    with pytest.raises(ApiError) as refused:
        await other.check_budget(many)
    assert 100 <= int(refused.value.headers["Retry-After"]) <= 240


async def test_what_is_owed_is_paid_once_however_many_ask_at_once(server, counting):
    one, other = (counting(redis_url=server.url) for _ in range(2))
    many = replace(ADA, limits=RateLimits(tokens=100))
    await one.count_tokens(many, 5000)
    await one._counts.clear(RateLimitItemPerMinute(100), "tokens", "key_ada")  # as if a minute were over

    asked = (rates.check_budget(many) for rates in (one, other) * 10)
    assert all(isinstance(said, ApiError) for said in await asyncio.gather(*asked, return_exceptions=True))
    assert (await one._shared.acquire(new_lease("key_ada", 0, 0), most=None, left=None)).taken == 4800


async def test_what_a_killed_replica_held_is_free_when_its_lease_is_over_and_what_goes_on_stays_held(server):
    killed, lives = (RedisLeases(server.url, lease=6, patience=60) for _ in range(2))
    gone, kept = (new_lease("key_ada", 1, 0) for _ in range(2))
    for replica, hold in ((killed, gone), (lives, kept)):
        assert (await replica.acquire(hold, most=2, left=None)).result == "held"
    killed._renewing.cancel()  # it renews nothing any more, as if it were gone
    assert (await lives.acquire(new_lease("key_ada", 1, 0), most=2, left=None)) == Answer("places", 2)
    late = new_lease("key_ada", 1, 0)
    await eventually(lambda: lives.acquire(late, most=2, left=None), Answer("held", 0), every=0.1)
    assert (await lives.acquire(new_lease("key_ada", 1, 0), most=2, left=None)) == Answer("places", 2)
    for hold in (kept, late):
        await lives.release(hold)
    assert (await lives.acquire(new_lease("key_ada", 2, 0), most=2, left=None)).result == "held"
    await lives.close()
    await killed._redis.aclose()


async def test_while_redis_is_lost_each_replica_holds_replies_by_itself_and_nothing_leaks(server, counting):
    rates = counting(redis_url=server.url)
    server.stop()
    for _ in range(3):
        async with rates.reserve(ADA, expected=50):
            with pytest.raises(ApiError, match="1 replies at a time"):
                async with rates.reserve(ADA):
                    pass


async def test_what_ends_while_redis_is_not_asked_is_free_when_its_lease_is_over(server, counting):
    rates = counting(redis_url=server.url)
    rates._shared._lease = 1
    async with rates.reserve(ADA):
        with server.silent():
            await rates.count_request(ADA, counts=True)  # finds it lost, so for a while nobody asks
    async with asyncio.timeout(300):
        while (answer := await rates._shared.acquire(new_lease(ADA.key, 1, 0), most=1, left=None)).result != "held":
            await asyncio.sleep(0.1)
    assert answer == Answer("held", 0)


async def test_a_redis_that_is_lost_or_says_nothing_holds_nobody_up_for_long(server, counting, monkeypatch):
    monkeypatch.setattr(rates_module, "AGAIN", 600.0)
    rates, asked = counting(redis_url=server.url), []
    await rates.count_request(ADA, counts=True)
    hit = rates._counts.hit
    monkeypatch.setattr(rates._counts, "hit", lambda *words, **more: (asked.append(words), hit(*words, **more))[1])
    with server.silent():
        for _ in range(20):
            await asyncio.wait_for(rates.count_request(WIDE, counts=True), 120)
    assert len(asked) == 1  # whoever comes after that is let through without waiting
    rates._lost_until = 0.0
    server.stop()
    for _ in range(20):
        await rates.count_spec(ADA, "s_x")


async def test_while_redis_is_lost_each_replica_counts_by_itself(server, counting):
    rates = counting(redis_url=server.url)
    server.stop()
    for _ in range(3):
        await rates.count_request(ADA, counts=True)
    with pytest.raises(ApiError, match="3 requests a minute"):
        await rates.count_request(ADA, counts=True)
    for fingerprint in ("s_a", "s_b", "s_a"):
        await rates.count_spec(ADA, fingerprint)
    with pytest.raises(ApiError, match="2 different steerings"):
        await rates.count_spec(ADA, "s_c")
    for _ in range(10):
        await rates.count_sign_in("10.0.0.1")
    with pytest.raises(ApiError, match="10 tries a minute"):
        await rates.count_sign_in("10.0.0.1")
    await rates.count_tokens(ADA, 60)
    async with rates.reserve(ADA, expected=10):
        pass
    await rates.count_tokens(ADA, 60)
    with pytest.raises(ApiError, match="100 tokens a minute") as refused:
        async with rates.reserve(ADA, expected=10):
            pass
    assert int(refused.value.headers["Retry-After"]) >= 60 * 20 / 100


async def test_what_is_owed_since_redis_was_lost_all_know_when_it_is_back(server, counting, monkeypatch):
    one = counting(redis_url=server.url)
    monkeypatch.setattr(rates_module, "PATIENCE", 60.0)
    other = counting(redis_url=server.url)
    with server.silent():
        await one.count_tokens(ADA, 1000)
    while one._here._owed[ADA.key]:  # once more if it was slow to be back
        one._lost_until = 0.0
        with suppress(ApiError):
            await one.check_budget(ADA)
    with pytest.raises(ApiError, match="100 tokens a minute"):
        await other.check_budget(ADA)


async def test_a_place_is_given_back_also_by_who_breaks_off(counting):
    rates = counting()
    with pytest.raises(RuntimeError):
        async with rates.reserve(ADA):
            with pytest.raises(ApiError, match="1 replies at a time"):
                async with rates.reserve(ADA):
                    pass
            raise RuntimeError
    async with rates.reserve(ADA):
        pass


async def test_a_steering_that_was_refused_is_refused_again(counting):
    rates = counting()
    for fingerprint in ("s_a", "s_b", "s_a"):
        await rates.count_spec(ADA, fingerprint)
    for _ in range(3):
        with pytest.raises(ApiError, match="2 different steerings"):
            await rates.count_spec(ADA, "s_c")
    await rates.count_spec(ADA, "s_b")


async def test_what_was_spent_beyond_the_limit_is_owed_and_the_wait_says_so(counting):
    rates = counting()
    await rates.count_tokens(ADA, 1300)
    with pytest.raises(ApiError) as refused:
        await rates.check_budget(ADA)
    assert int(refused.value.headers["Retry-After"]) >= 60 * 1200 / 100
    with pytest.raises(ApiError):
        async with rates.reserve(ADA):
            pass
    async with rates.reserve(replace(ADA, key="key_bob")):
        pass


async def test_replies_at_once_hold_what_they_may_come_to(counting):
    rates, wide = counting(), replace(ADA, limits=RateLimits(tokens=100, concurrent=4))
    async with rates.reserve(wide, expected=160):
        with pytest.raises(ApiError, match="100 tokens a minute"):
            async with rates.reserve(wide, expected=160):
                pass
    async with rates.reserve(wide, expected=160, places=4):
        pass
    with pytest.raises(ApiError, match="4 replies at a time"):
        async with rates.reserve(wide, places=5):
            pass


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/analyze", {"text": "the bridge is red and long"}),
        ("/v1/features/contrast", {"a": ["the bridge is red"] * 4, "b": ["hello there, how are you"] * 4}),
        ("/v1/attribute", {"text": "the bridge is red and"}),
        ("/v1/steering/sweep", {"feature": "small/1", "strengths": [0.1], "prompts": ["hello"], "max_tokens": 8}),
    ],
)
def test_what_the_model_reads_counts_as_what_it_says(bundle, tmp_path, path, body):
    with serving(bundle, tmp_path, admin_key=ADMIN) as (address, _):
        admin = {"Authorization": f"Bearer {ADMIN}"}
        asked = {"name": "reader", "role": "researcher", "limits": {"tokens": 4}}
        made = httpx.post(f"{address}/v1/keys", json=asked, headers=admin)
        assert made.is_success, made.text
        mine = {"Authorization": f"Bearer {made.json()['secret']}"}
        first, second = (httpx.post(f"{address}{path}", json=body, headers=mine) for _ in range(2))
    assert first.is_success, first.text
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(second.headers["retry-after"]) >= 1


async def test_wrong_tries_count_for_each_address(counting):
    rates = counting()
    for _ in range(10):
        await rates.count_sign_in("10.0.0.1")
    with pytest.raises(ApiError, match="10 tries a minute"):
        await rates.count_sign_in("10.0.0.1")
    await rates.count_sign_in("10.0.0.2")
