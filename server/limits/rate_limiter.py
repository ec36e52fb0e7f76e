"""Rate limiter: counts requests, tokens, concurrent replies and distinct steerings per API key.

Counted in this process, or in Redis for all replicas together. While Redis is unavailable each
replica counts alone, from zero, and logs it: availability matters more than an exact limit.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from server.auth.caller import Caller
from server.errors import ApiError
from server.limits.leases import Answer, LeaseStore, LocalLeases, new_lease
from server.settings import Settings
from server.telemetry import metrics

if TYPE_CHECKING:
    from server.limits.redis_leases import RedisLeases

log = structlog.get_logger(__name__)
T = TypeVar("T")
ONCE = RateLimitItemPerHour(1)
AGAIN = 2.0
"""Seconds until a Redis that did not answer is tried again."""
PATIENCE = 1.0
"""Timeout for Redis, in seconds."""
SIGN_INS = RateLimitItemPerMinute(10)


class RateLimiter:
    """The counters of one server."""

    def __init__(self, settings: Settings) -> None:
        self._storage = _storage(settings)
        self._counts = SlidingWindowCounterRateLimiter(self._storage)
        self._alone = SlidingWindowCounterRateLimiter(MemoryStorage()) if settings.redis_url else self._counts
        """Counters while Redis is unavailable."""
        self._here, self._shared = LocalLeases(), _shared(settings)
        """Both windows must allow the request."""
        self._lost_until = 0.0

    async def close(self) -> None:
        """Close the connections."""
        if self._shared:
            await self._shared.close()
        if isinstance(self._storage, RedisStorage):
            await self._storage.bridge.storage.aclose()  # pyright: ignore[reportAttributeAccessIssue] - the client's own

    async def count_request(self, caller: Caller, *, counts: bool) -> None:
        """Count a request. Raises ApiError above the limit; reading the limit does not count."""
        if counts and caller.key and (most := caller.limits.requests):
            await self._hit(RateLimitItemPerMinute(most), "requests", caller.key, f"{most} requests a minute")

    async def count_spec(self, caller: Caller, fingerprint: str) -> None:
        """Count a steering that was not used within the last hour. Raises ApiError."""
        if not caller.key or not (most := caller.limits.specs):
            return
        item, key = RateLimitItemPerHour(most), caller.key
        if await self._counted(lambda counts: counts.test(ONCE, "spec", key, fingerprint)):
            await self._hit(item, "specs", key, f"{most} different steerings an hour; those already used still work")
            await self._try(ONCE, "spec", key, fingerprint)  # concurrent: the other request counted it

    async def count_tokens(self, caller: Caller, n: int) -> None:
        """Count tokens that were read and generated. What exceeds the rest becomes debt, paid
        before the next request."""
        if caller.key and caller.limits.tokens:
            await self._add_debt(caller.key, n)
            await self._left_when_paid(caller.key, RateLimitItemPerMinute(caller.limits.tokens))

    async def count_sign_in(self, where: str) -> None:
        """Count a wrong try to sign in. Raises ApiError."""
        await self._hit(SIGN_INS, "sign-ins", where, "10 tries a minute")

    async def check_budget(self, caller: Caller) -> None:
        """Raise ApiError if no token is left in this minute, beyond the debt and the tokens that
        running replies hold."""
        async with self.reserve(caller, places=0):
            pass

    @asynccontextmanager
    async def reserve(self, caller: Caller, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold concurrency slots of the key, and the maximum tokens of its replies. Raises ApiError
        if there are not enough."""
        key, most, tokens = caller.key, caller.limits.concurrent, caller.limits.tokens
        if not key:
            yield
            return
        hold, shared = new_lease(key, places, expected if tokens else 0), self._shared
        left = await self._left_when_paid(key, RateLimitItemPerMinute(tokens)) if tokens else None
        answer = await self._here.acquire(hold, most=most, left=left if self._is_alone else None)
        if answer.result != "held":
            raise await self._too_much(caller, answer)
        try:
            if shared:
                agreed = answer
                answer = await self._with_fallback(
                    lambda: shared.acquire(hold, most=most, left=left), lambda: _completed(agreed)
                )
                if answer.result != "held":
                    raise await self._too_much(caller, answer)
            yield
        finally:
            await self._here.release(hold)
            if shared:  # a cancellation must not leak the lease, nor one while Redis is unavailable
                shared.release_all(hold)
                await asyncio.shield(self._with_fallback(lambda: shared.release(hold), lambda: _completed(None)))

    async def _too_much(self, caller: Caller, answer: Answer) -> ApiError:
        key, tokens = caller.key or "", caller.limits.tokens
        if answer.result == "places" or not tokens:
            metrics.limited.labels("concurrent").inc()
            return _too_many_requests(f"{caller.limits.concurrent} replies at a time", 1)
        item = RateLimitItemPerMinute(tokens)
        return await self._refusal(item, "tokens", key, f"{tokens} tokens a minute", least=60 * answer.taken / tokens)

    async def _left_when_paid(self, key: str, item: RateLimitItem) -> int:
        """Tokens left in this minute, after paying as much of the debt as possible."""
        if not (left := await self._left(item, "tokens", key)):
            return 0
        if self._shared and not self._is_alone and (owed := await self._here.pay_debt(key, sys.maxsize)):
            await self._add_debt(key, owed)  # debts from while Redis was unavailable; all replicas share them now
        paid = await self._with_fallback(
            lambda: self._debts.pay_debt(key, left), lambda: self._here.pay_debt(key, left)
        )
        if paid and not await self._try(item, "tokens", key, cost=paid):  # a concurrent request paid with them
            await self._add_debt(key, paid)
            return 0
        return left - paid

    async def _add_debt(self, key: str, tokens: int) -> None:
        await self._with_fallback(lambda: self._debts.add_debt(key, tokens), lambda: self._here.add_debt(key, tokens))

    async def _hit(self, item: RateLimitItem, what: str, key: str, says: str) -> None:
        if not await self._try(item, what, key):
            raise await self._refusal(item, what, key, says)

    async def _try(self, item: RateLimitItem, *names: str, cost: int = 1) -> bool:
        return await self._counted(lambda counts: counts.hit(item, *names, cost=cost))

    async def _left(self, item: RateLimitItem, *names: str) -> int:
        return (await self._counted(lambda counts: counts.get_window_stats(item, *names))).remaining

    async def _refusal(self, item: RateLimitItem, what: str, key: str, says: str, *, least: float = 0.0) -> ApiError:
        metrics.limited.labels(what).inc()
        stats = await self._counted(lambda counts: counts.get_window_stats(item, what, key))
        return _too_many_requests(says, max(stats.reset_time - time.time(), least))

    async def _counted(self, ask: Callable[[SlidingWindowCounterRateLimiter], Awaitable[T]]) -> T:
        return await self._with_fallback(lambda: ask(self._counts), lambda: ask(self._alone))

    @property
    def _debts(self) -> LeaseStore:
        return self._shared or self._here

    @property
    def _is_alone(self) -> bool:
        """Whether this process counts alone: without Redis, or while it is unavailable."""
        return not self._shared or time.monotonic() < self._lost_until

    async def _with_fallback(self, shared: Callable[[], Awaitable[T]], alone: Callable[[], Awaitable[T]]) -> T:
        """Count in Redis, or locally while that fails; then Redis is not tried again for a while."""
        if time.monotonic() < self._lost_until:
            return await alone()
        try:
            return await shared()
        except Exception as error:
            if not self._shared:
                raise
            log.warning("rate limits are counted by this process alone", why=str(error)[:200])
            self._lost_until = time.monotonic() + AGAIN
            return await alone()


async def _completed(value: T) -> T:
    return value


def _too_many_requests(says: str, wait: float) -> ApiError:
    seconds = max(1, round(wait))
    return ApiError(
        429,
        f"this key may have {says}; try again in {seconds} s",
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        headers={"Retry-After": str(seconds)},
    )


def _shared(settings: Settings) -> "RedisLeases | None":
    if settings.redis_url is None:
        return None
    from server.limits.redis_leases import RedisLeases  # the Redis client is an extra

    return RedisLeases(settings.redis_url, patience=PATIENCE)


def _storage(settings: Settings) -> Storage:
    if settings.redis_url is None:
        return MemoryStorage()
    soon: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    return RedisStorage(f"async+{settings.redis_url}", implementation="redispy", key_prefix="tiller:limits", **soon)
