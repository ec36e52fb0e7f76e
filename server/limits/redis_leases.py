"""Redis leases: concurrency slots and token debts of all replicas.

A replica renews its leases; those of a killed replica expire within `LEASE`. Redis' clock is used,
because machines' clocks differ. Scripts check and acquire atomically.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.limits.leases import Answer, Lease

LEASE = 30.0
"""Lease time in seconds."""
OWED_FOR = 3600
"""Seconds for which Redis keeps the debt of an inactive key."""
PREFIX = "tiller:limits"
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local name, places, tokens, most, left, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held, taken = 0, tonumber(redis.call('GET', KEYS[2]) or '0')
for _, one in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local p, t = string.match(one, '^[^:]*:(%d+):(%d+)$')
  held, taken = held + tonumber(p), taken + tonumber(t)
end
if most >= 0 and held + places > most then return {'places', held} end
if left >= 0 and left - taken <= 0 then return {'tokens', taken} end
if places + tokens == 0 then return {'held', taken} end
redis.call('ZADD', KEYS[1], now + lease, name .. ':' .. places .. ':' .. tokens)
redis.call('EXPIRE', KEYS[1], lease)
return {'held', taken}
"""
RENEW = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[2])
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
"""
PAY = """
local paid = math.min(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
if paid > 0 then redis.call('DECRBY', KEYS[1], paid) end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[2]))
return paid
"""


class RedisLeases:
    """Leases of all replicas of one Redis. Every method raises RedisError while it is unavailable."""

    def __init__(self, url: str, *, lease: float = LEASE, patience: float = 1.0) -> None:
        """`patience` is the timeout in seconds."""
        soon: dict[str, Any] = {"socket_timeout": patience, "socket_connect_timeout": patience}
        self._redis: Redis = Redis.from_url(url, decode_responses=True, **soon)
        self._lease = lease
        self._running: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self, hold: Lease, *, most: int | None, left: int | None) -> Answer:
        """See `LeaseStore`."""
        about = [hold.name, hold.places, hold.tokens, -1 if most is None else most, -1 if left is None else left]
        result, taken = await self._do(TAKE, [_held(hold.key), _owed(hold.key)], [*about, round(self._lease)])
        if result == "held" and hold.places + hold.tokens:
            self._running[hold.name] = hold
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew())
        return Answer(result, int(taken))

    def release_all(self, hold: Lease) -> None:
        """Stop renewing, so that the lease expires even if Redis misses the release."""
        self._running.pop(hold.name, None)

    async def release(self, hold: Lease) -> None:
        """See `LeaseStore`; if Redis misses the release, the lease expires."""
        if hold.places + hold.tokens == 0:
            return
        self.release_all(hold)
        await self._ask(self._redis.zrem(_held(hold.key), hold.member))

    async def add_debt(self, key: str, tokens: int) -> None:
        """See `LeaseStore`."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.incrby(_owed(key), tokens)
            pipe.expire(_owed(key), OWED_FOR)
            await pipe.execute()

    async def pay_debt(self, key: str, most: int) -> int:
        """See `LeaseStore`."""
        return int(await self._do(PAY, [_owed(key)], [most, OWED_FOR]))

    async def close(self) -> None:
        """Stop renewing."""
        if self._renewing:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await self._redis.aclose()

    async def _renew(self) -> None:
        while self._running:
            await asyncio.sleep(self._lease / 3)
            for hold in [*self._running.values()]:
                try:
                    if hold.name in self._running:
                        await self._do(RENEW, [_held(hold.key)], [round(self._lease), hold.member])
                    if hold.name not in self._running:  # it was released in the meantime
                        await self._ask(self._redis.zrem(_held(hold.key), hold.member))
                except RedisError:
                    break  # it is retried; requests in the meantime report the failure

    async def _do(self, script: str, keys: list[str], words: list[Any]) -> Any:  # noqa: ANN401 - Redis' own
        return await self._ask(self._redis.eval(script, len(keys), *keys, *words))

    async def _ask(self, asked: Awaitable[Any] | Any) -> Any:  # noqa: ANN401 - the client types sync and async as one
        return await asked


def _held(key: str) -> str:
    return f"{PREFIX}:held:{key}"


def _owed(key: str) -> str:
    return f"{PREFIX}:owed:{key}"
