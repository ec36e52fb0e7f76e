"""Fixtures: an empty store of each kind."""

import pytest
from redis import Redis

from server.settings import Settings
from server.store.factory import open_store

KINDS = ("sqlite", "redis")


@pytest.fixture
def empty_redis(redis):
    """The address of an empty database."""
    with Redis.from_url(f"{redis}/9") as client:
        client.flushdb()
    return f"{redis}/9"


@pytest.fixture(params=KINDS)
def settings(request, tmp_path):
    return Settings(
        data_dir=tmp_path, redis_url=request.getfixturevalue("empty_redis") if request.param == "redis" else None
    )


@pytest.fixture
async def store(settings):
    found = open_store(settings)
    yield found
    await found.close()


@pytest.fixture
async def another(settings):
    """The same store, as another process holds it."""
    found = open_store(settings)
    yield found
    await found.close()
