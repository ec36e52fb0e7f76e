"""Redis store: Redis is down, silent, of a newer schema version, or another service."""

import asyncio
import time

import pytest
from redis import Redis

from server.store.base import BadStore, Unavailable
from server.store.redis.store import RedisStore
from steering.spec import Preset
from tests.server.store.test_contract import fill
from tests.support.redis_server import running
from tests.support.waiting import eventually

ASKED = (
    lambda s: s.check(),
    lambda s: s.presets(),
    lambda s: s.save_preset(Preset(id="a", name="A")),
    lambda s: s.user_data("ada", "m"),
    lambda s: s.set_consent("ada", False),
    lambda s: s.records(),
)


@pytest.fixture
def server(tmp_path):
    with running(tmp_path, sync=True) as found:
        yield found


async def test_a_lost_redis_is_named_at_once_and_is_used_again_when_it_is_back(server):
    store = RedisStore(server.url)
    saved = await store.save_preset(Preset(id="a", name="A"))
    server.stop()
    for ask in ASKED:
        with pytest.raises(Unavailable, match=f"Redis at 127.0.0.1:{server.port} cannot be used"):
            await asyncio.wait_for(ask(store), 120)  # a patient one would wait until there is one
    server.start()
    assert await store.preset("a") == saved
    for ask in ASKED:
        await ask(store)
    await store.close()


async def test_a_redis_that_says_nothing_is_given_up_after_a_while(server):
    store = RedisStore(server.url)
    await store.check()
    with server.silent(), pytest.raises(Unavailable):
        await asyncio.wait_for(store.presets(), 120)
    await store.check()
    await store.close()


async def test_who_is_patient_waits_until_it_is_there(server):
    store = RedisStore(server.url, patient=True)
    await store.check()
    server.stop()
    asked = [asyncio.create_task(ask(store)) for ask in ASKED]
    await asyncio.sleep(1)
    assert not any(task.done() for task in asked)
    server.start()
    await asyncio.wait_for(asyncio.gather(*asked), 120)
    await store.close()


async def test_a_write_is_whole_or_not_there_when_redis_dies_in_the_middle(server):
    """Presets that were confirmed are there; of the others, none is half."""
    store, confirmed = RedisStore(server.url), []

    async def write(n):
        for i in range(1000):
            try:
                confirmed.append(await store.save_preset(Preset(id=f"p{n}-{i}", name="x" * 80, description="y" * 400)))
            except Unavailable:
                return

    writing = [asyncio.create_task(write(n)) for n in range(4)]
    await eventually(lambda: len(confirmed) >= 20)
    await asyncio.to_thread(server.stop)
    await asyncio.wait_for(asyncio.gather(*writing), 120)
    await asyncio.to_thread(server.start)
    there = {p.id: p for p in await store.presets()}
    assert all(there[p.id] == p for p in confirmed)
    await store.close()


async def test_many_at_once_share_few_connections(server):
    store = RedisStore(server.url)
    await asyncio.gather(*(store.set_setting(f"k{i}", "v") for i in range(300)))
    with Redis.from_url(server.url) as client:
        assert client.info("clients")["connected_clients"] <= 66
    await store.close()


async def test_every_key_has_the_prefix(empty_redis):
    store = RedisStore(empty_redis)
    await fill(store)
    await store.check()
    await store.close()
    with Redis.from_url(empty_redis) as client:
        assert all(key.startswith(b"tiller:") for key in client.scan_iter())


async def test_what_a_newer_version_wrote_is_refused(empty_redis):
    with Redis.from_url(empty_redis) as client:
        client.set("tiller:version", 99)
    store = RedisStore(empty_redis)
    with pytest.raises(BadStore, match="newer version"):
        await store.check()
    await store.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://127.0.0.1:many", "somewhere"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(BadStore, match="redis_url"):
        RedisStore(url)


async def test_what_is_set_is_heard_of_again_after_redis_was_lost(server):
    store, other = RedisStore(server.url), RedisStore(server.url)
    await store.changed(0.01)
    server.stop()
    for _ in range(3):  # a lost connection may be noticed at once; then it waits
        begun = time.monotonic()
        await store.changed(0.4)
    assert time.monotonic() - begun > 0.3
    server.start()
    await store.changed(0.4)
    waiting = asyncio.create_task(store.changed(600))
    await asyncio.sleep(0.2)
    await other.set_setting("revision:m", "r2")
    await asyncio.wait_for(waiting, 120)
    for each in (store, other):
        await each.close()
