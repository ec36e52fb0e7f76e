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
        self._expected: Counter[str] = Counter()
        """Tokens that running replies of a key may come to."""
        self._owed: Counter[str] = Counter()
        """Tokens that were spent beyond what was left."""
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
        if await self._asked(self._counts.test, ONCE, "spec", key, fingerprint, lost=False):
            await self._hit(item, "specs", key, f"{most} different steerings an hour; those that you had still work")
            await self._try(ONCE, "spec", key, fingerprint)  # it was let through, and is not new any more

    async def tokens(self, caller: Caller, n: int) -> None:
        """So many tokens were read and written. What is more than was left is owed, and paid before the next request."""
        if not caller.key or not (most := caller.limits.tokens):
            return
        item, key = RateLimitItemPerMinute(most), caller.key
        self._owed[key] += n
        if self._owed[key] and (paid := min(self._owed[key], await self._left(item, "tokens", key))):
            self._owed[key] -= paid
            await self._try(item, "tokens", key, cost=paid)

    async def sign_in(self, where: str) -> None:
        """Somebody tries a key. Raises ApiError."""
        await self._hit(SIGN_INS, "sign-ins", where, "10 tries a minute")

    async def signed_in(self, where: str) -> None:
        """The key was right: tries before it count no more, since a whole office may come from one address."""
        await self._asked(self._counts.clear, SIGN_INS, "sign-ins", where, lost=None)

    async def room(self, caller: Caller, expected: int = 0) -> None:
        """Raise ApiError if no token is left in this minute, beside what is owed and what running replies may come to.

        Where there is room, `expected` tokens are held; give them back to `_expected`.
        """
        if not caller.key or not (most := caller.limits.tokens):
            return
        item, key = RateLimitItemPerMinute(most), caller.key
        await self.tokens(caller, 0)
        left = await self._left(item, "tokens", key)
        taken = self._owed[key] + self._expected[key]
        if left - taken <= 0:
            raise await self._refusal(item, "tokens", key, f"{most} tokens a minute", least=60 * taken / most)
        self._expected[key] += expected

    @asynccontextmanager
    async def replying(self, caller: Caller, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold places among the key's replies, and the tokens that they may come to. Raises ApiError if there are not as many."""
        key, most = caller.key or "", caller.limits.concurrent
        if key and most is not None and self._replies[key] + places > most:
            metrics.limited.labels("concurrent").inc()
            raise _refused(f"{most} replies at a time", 1)
        self._replies[key] += places
        held = 0
        try:
            await self.room(caller, expected)
            held = expected if key and caller.limits.tokens else 0
            yield
        finally:
            self._replies[key] -= places
            self._expected[key] -= held

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

    async def _refusal(self, item: RateLimitItem, what: str, key: str, says: str, *, least: float = 0.0) -> ApiError:
        metrics.limited.labels(what).inc()
        try:
            wait = (await self._counts.get_window_stats(item, what, key)).reset_time - time.time()
        except Exception:
            wait = 1.0
        return _refused(says, max(wait, least))


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
    async def replying(self, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold some of the caller's places, and the tokens that it may come to. Raises ApiError."""
        async with self.rates.replying(self.caller, places=places, expected=expected) if self.rates else nullcontext():
            yield

    @asynccontextmanager
    async def reading(self, tokens: int) -> AsyncGenerator[None, None]:
        """The model reads so many tokens for the caller, which count as if they were a reply's. Raises ApiError."""
        async with self.replying(expected=tokens):
            try:
                yield
            finally:
                await self.spent(tokens)

    async def spent(self, tokens: int) -> None:
        """So many tokens were read and written."""
        if self.rates and tokens:
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
