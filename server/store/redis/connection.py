"""Redis connection: state shared by several servers, each write in one transaction.

A write reads its inputs under WATCH and writes in MULTI; if another client changed them in between,
it is retried. Whether a confirmed write survives a crash of Redis depends on Redis' settings
(`appendonly`, `appendfsync`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError, WatchError

from server.store.base import BadStore, Unavailable
from server.store.redis.schema import EVERYBODYS, LISTED, PREFIX, VERSION

T = TypeVar("T")
Change = Callable[[Pipeline], Awaitable[T]]


def place_of(url: str) -> str:
    """Address of a Redis for messages, without its password. Raises BadStore."""
    try:
        place = parse_url(url)
    except ValueError as error:
        raise BadStore(f"redis_url is not a Redis URL: {error}") from error
    return place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"


@contextmanager
def reached(where: str) -> Iterator[None]:
    """Raises Unavailable for any error of the connection to Redis."""
    try:
        yield
    except RedisError as error:
        raise Unavailable(f"Redis at {where} cannot be used: {error}") from error


class Connection:
    """A pool of connections, and transactions that are retried."""

    def __init__(self, url: str, *, patient: bool = False) -> None:
        """With `patient`, calls wait for Redis, instead of raising Unavailable. Raises BadStore."""
        self._patient, self._in_turn = patient, asyncio.Lock()
        retry = Retry(ConstantBackoff(0.5), -1) if patient else Retry(NoBackoff(), 1)
        self._where = place_of(url)
        self._ear: PubSub | None = None
        limits = {"max_connections": 64, "timeout": 5, "socket_timeout": 5, "socket_connect_timeout": 2}
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(url, retry=retry, decode_responses=True, **limits)
        )

    async def check(self) -> None:
        """Ping Redis; the first call sets or checks the version of the key layout."""
        await self._ask(self._redis.set(f"{PREFIX}version", VERSION, nx=True))
        found = int(await self._ask(self._redis.get(f"{PREFIX}version")) or VERSION)
        if found > VERSION:
            raise BadStore(f"what is in Redis at {self._where} was written by a newer version of Tiller; update")

    async def close(self) -> None:
        """Close the connections."""
        if self._ear is not None:
            await self._ear.aclose()
        await self._redis.aclose()

    async def _ask(self, asked: Any) -> Any:  # noqa: ANN401 - redis types what a command gives as awaitable or not
        with reached(self._where):
            return await asked

    async def _change(self, work: Change[T], *watched: str) -> T:
        """Run `work`, which reads, then calls `multi` and writes; retry if one of `watched` changes in between."""
        tried = await self._try(work, watched)
        if not tried:
            async with self._in_turn:  # random delay: concurrent writers of one key would collide again and again
                while not (tried := await self._try(work, watched)):
                    pass
        return tried[0]

    async def _try(self, work: Change[T], watched: Sequence[str]) -> tuple[T] | None:
        with reached(self._where):
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(*watched)
                    result = await work(pipe)
                    await pipe.execute()
                except WatchError as error:
                    if "occurred while watching" not in str(error) or self._patient:
                        return None
                    raise
                return (result,)


async def answer(asked: Any) -> Any:  # noqa: ANN401 - redis types what a command gives as awaitable or not
    """What a command in a transaction reads: until `multi`, a pipeline answers at once, which its types do not say."""
    return await asked


def put_field(pipe: Pipeline, key: str, name: str, body: str) -> None:
    """Write to a hash of one user."""
    pipe.hset(key, name, body)
    if key not in EVERYBODYS:
        pipe.sadd(LISTED, key)


def drop_key(pipe: Pipeline, key: str) -> None:
    """Delete what one user has under a key."""
    pipe.delete(key)
    pipe.srem(LISTED, key)
