"""Counts are shared by all replicas where there is a Redis, and hold nobody up where it is lost."""

import time
from dataclasses import replace

import pytest

from server.callers import Caller
from server.errors import ApiError
from server.keys import Allowance
from server.rates import Rates
from server.settings import Settings
from tests.redis_server import running

ADA = Caller("user", "t", "ada", Allowance(requests=3, tokens=100, specs=2, concurrent=1), key="key_ada")


@pytest.fixture
async def counting():
    made = []

    def make(**about):
        made.append(Rates(Settings(**about)))
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
    await one.request(ADA, counts=True)
    await other.request(ADA, counts=True)
    await one.request(ADA, counts=True)
    with pytest.raises(ApiError, match="3 requests a minute"):
        await other.request(ADA, counts=True)
    await other.request(replace(ADA, key="key_bob"), counts=True)

    for rates, fingerprint in ((one, "s_a"), (other, "s_b"), (one, "s_b"), (other, "s_a")):
        await rates.spec(ADA, fingerprint)
    with pytest.raises(ApiError, match="2 different steerings"):
        await one.spec(ADA, "s_c")

    await one.tokens(ADA, 70)
    await other.room(ADA)
    await other.tokens(ADA, 500)  # more than there is takes all
    with pytest.raises(ApiError, match="100 tokens a minute"):
        await one.room(ADA)


async def test_a_redis_that_is_lost_or_says_nothing_holds_nobody_up_for_long(server, counting):
    rates = counting(redis_url=server.url)
    await rates.request(ADA, counts=True)
    with server.silent():
        began = time.monotonic()
        for _ in range(20):
            await rates.request(ADA, counts=True)
        assert time.monotonic() - began < 8
    server.stop()
    for _ in range(20):
        await rates.spec(ADA, "s_x")


async def test_a_place_is_given_back_also_by_who_breaks_off(counting):
    rates = counting()
    with pytest.raises(RuntimeError):
        async with rates.replying(ADA):
            with pytest.raises(ApiError, match="1 replies at a time"):
                async with rates.replying(ADA):
                    pass
            raise RuntimeError
    async with rates.replying(ADA):
        pass
