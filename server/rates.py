"""How much each key may ask for: requests, tokens, replies at a time, different steerings. Knows `limits`; no routes.

Counted in this process, or in Redis for all replicas at once. While Redis is lost nothing is counted and everybody is
let through, which the log says: a conversation is worth more than a limit. Replies at a time are each replica's own.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from server import metrics
from server.audit import Audit
from server.callers import ANYONE, Caller, caller_of
from server.errors import ApiError
from server.settings import Settings

log = structlog.get_logger(__name__)
T = TypeVar("T")
ONCE = RateLimitItemPerHour(1)
AGAIN = 2.0
"""Seconds for which a Redis that did not answer is not asked again."""
SIGN_INS = RateLimitItemPerMinute(10)


class Rates:
    """The counts of one server."""

    def __init__(self, settings: Settings) -> None:
        self._storage = _storage(settings)
        self._counts = SlidingWindowCounterRateLimiter(self._storage)
        self._replies: Counter[str] = Counter()
        self._lost_until = 0.0

    async def close(self) -> None:
        """Let go of the connections."""
        if isinstance(self._storage, RedisStorage):
            await self._storage.bridge.storage.aclose()  # pyright: ignore[reportAttributeAccessIssue] - the client's own

    async def request(self, caller: Caller, *, counts: bool) -> None:
        """One more request. Raises ApiError where that is too many; looking at something counts for nothing."""
        if counts and caller.key and (most := caller.limits.requests):
            await self._hit(RateLimitItemPerMinute(most), "requests", caller.key, f"{most} requests a minute")

    async def spec(self, caller: Caller, fingerprint: str) -> None:
        """Another steering, if it was not asked for within the hour. Raises ApiError."""
        if not caller.key or not (most := caller.limits.specs):
            return
        item, key = RateLimitItemPerHour(most), caller.key
        if await self._try(ONCE, "spec", key, fingerprint):
            await self._hit(item, "specs", key, f"{most} different steerings an hour; those that you had still work")

    async def tokens(self, caller: Caller, n: int) -> None:
        """So many tokens were read and written. More than were left are all that were left: a hit beyond would count for nothing."""
        if n and caller.key and (most := caller.limits.tokens):
            item = RateLimitItemPerMinute(most)
            if left := await self._left(item, "tokens", caller.key):
                await self._try(item, "tokens", caller.key, cost=min(n, left))

    async def sign_in(self, where: str) -> None:
        """Somebody tries a key. Raises ApiError."""
        await self._hit(SIGN_INS, "sign-ins", where, "10 tries a minute")

    async def room(self, caller: Caller) -> None:
        """Raise ApiError if no token is left in this minute."""
        if caller.key and (most := caller.limits.tokens):
            item = RateLimitItemPerMinute(most)
            if not await self._left(item, "tokens", caller.key):
                raise await self._refusal(item, "tokens", caller.key, f"{most} tokens a minute")

    @asynccontextmanager
    async def replying(self, caller: Caller) -> AsyncGenerator[None, None]:
        """Hold a place among the key's replies. Raises ApiError if all are taken."""
        key, most = caller.key, caller.limits.concurrent
        if key is None or most is None:
            yield
            return
        if self._replies[key] >= most:
            metrics.limited.labels("concurrent").inc()
            raise _refused(f"{most} replies at a time", 1)
        self._replies[key] += 1
        try:
            yield
        finally:
            self._replies[key] -= 1

    async def _hit(self, item: RateLimitItem, what: str, key: str, says: str) -> None:
        if not await self._try(item, what, key):
            raise await self._refusal(item, what, key, says)

    async def _try(self, item: RateLimitItem, *names: str, cost: int = 1) -> bool:
        return await self._asked(self._counts.hit, item, *names, cost=cost, lost=True)

    async def _left(self, item: RateLimitItem, *names: str) -> int:
        stats = await self._asked(self._counts.get_window_stats, item, *names, lost=None)
        return item.amount if stats is None else stats.remaining

    async def _asked(self, ask: Callable[..., Awaitable[T]], *words: Any, lost: T, **more: Any) -> T:  # noqa: ANN401
        """Ask the storage; where it is lost, `lost`, and for a while nobody asks again."""
        if time.monotonic() < self._lost_until:
            return lost
        try:
            return await ask(*words, **more)
        except Exception as error:
            log.warning("nothing is counted", why=str(error)[:200])
            self._lost_until = time.monotonic() + AGAIN
            return lost

    async def _refusal(self, item: RateLimitItem, what: str, key: str, says: str) -> ApiError:
        metrics.limited.labels(what).inc()
        try:
            wait = (await self._counts.get_window_stats(item, what, key)).reset_time - time.time()
        except Exception:
            wait = 1.0
        return _refused(says, wait)


@dataclass(frozen=True, eq=False)
class Account:
    """One caller's counts."""

    caller: Caller = ANYONE
    rates: Rates | None = None
    """None where nothing is counted."""
    audit: Audit | None = None
    """None where nothing is noted."""

    @staticmethod
    def of(request: Request) -> "Account":
        """Of whoever asks."""
        return Account(caller_of(request), request.app.state.rates, request.app.state.audit)

    async def steers(self, fingerprint: str) -> None:
        """Raise ApiError if the caller has no token left, or has tried too many steerings."""
        if self.rates:
            await self.rates.room(self.caller)
            await self.rates.spec(self.caller, fingerprint)

    @asynccontextmanager
    async def replying(self) -> AsyncGenerator[None, None]:
        """Hold one of the caller's places. Raises ApiError."""
        async with self.rates.replying(self.caller) if self.rates else nullcontext():
            yield

    async def spent(self, tokens: int) -> None:
        """So many tokens were read and written."""
        if self.rates:
            await self.rates.tokens(self.caller, tokens)


NOBODYS = Account()


def _refused(says: str, wait: float) -> ApiError:
    seconds = max(1, round(wait))
    return ApiError(
        429,
        f"this key may have {says}; try again in {seconds} s",
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        headers={"Retry-After": str(seconds)},
    )


def _storage(settings: Settings) -> Storage:
    if settings.redis_url is None:
        return MemoryStorage()
    soon: dict[str, Any] = {"socket_timeout": 1, "socket_connect_timeout": 1}
    return RedisStorage(f"async+{settings.redis_url}", implementation="redispy", key_prefix="tiller:limits", **soon)
