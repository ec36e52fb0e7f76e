"""How much each key may ask for: requests, tokens, replies at a time, different steerings. Knows `limits`; no routes.

Counted in this process, or in Redis for all replicas at once. While Redis is lost nothing is counted and everybody is
let through, which the log says: a conversation is worth more than a limit. Replies at a time are then each replica's own.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from server import metrics
from server.audit import Audit
from server.callers import ANYONE, Caller, caller_of
from server.errors import ApiError
from server.holding import Answer, Here, Holds, new_hold
from server.settings import Settings

if TYPE_CHECKING:
    from server.redis_holds import RedisHolds

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
        self._here, self._shared = Here(), _shared(settings)
        """Both have to agree."""
        self._debts: Holds = self._shared or self._here
        self._lost_until = 0.0

    async def close(self) -> None:
        """Let go of the connections."""
        if self._shared:
            await self._shared.close()
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
        if caller.key and caller.limits.tokens:
            await self._asked(self._debts.owe, caller.key, n, lost=None)
            await self._left_when_paid(caller.key, RateLimitItemPerMinute(caller.limits.tokens))

    async def sign_in(self, where: str) -> None:
        """Somebody tries a key. Raises ApiError."""
        await self._hit(SIGN_INS, "sign-ins", where, "10 tries a minute")

    async def signed_in(self, where: str) -> None:
        """The key was right: tries before it count no more, since a whole office may come from one address."""
        await self._asked(self._counts.clear, SIGN_INS, "sign-ins", where, lost=None)

    async def room(self, caller: Caller) -> None:
        """Raise ApiError if no token is left in this minute, beside what is owed and what running replies may come to."""
        async with self.replying(caller, places=0):
            pass

    @asynccontextmanager
    async def replying(self, caller: Caller, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold places among the key's replies, and the tokens that they may come to. Raises ApiError if there are not as many."""
        key, most, tokens = caller.key, caller.limits.concurrent, caller.limits.tokens
        if not key:
            yield
            return
        hold = new_hold(key, places, expected if tokens else 0)
        left = await self._left_when_paid(key, RateLimitItemPerMinute(tokens)) if tokens else None
        answer = await self._here.take(hold, most=most, left=None if self._shared else left)
        if answer.said != "held":
            raise await self._too_much(caller, answer)
        try:
            if self._shared:
                answer = await self._asked(self._shared.take, hold, most=most, left=left, lost=answer)
                if answer.said != "held":
                    raise await self._too_much(caller, answer)
            yield
        finally:
            await self._here.give_back(hold)
            if self._shared:  # who leaves now must not leave it held, and no more who leaves while Redis is not asked
                self._shared.let_go(hold)
                await asyncio.shield(self._asked(self._shared.give_back, hold, lost=None))

    async def _too_much(self, caller: Caller, answer: Answer) -> ApiError:
        key, tokens = caller.key or "", caller.limits.tokens
        if answer.said == "places" or not tokens:
            metrics.limited.labels("concurrent").inc()
            return _refused(f"{caller.limits.concurrent} replies at a time", 1)
        item = RateLimitItemPerMinute(tokens)
        return await self._refusal(item, "tokens", key, f"{tokens} tokens a minute", least=60 * answer.taken / tokens)

    async def _left_when_paid(self, key: str, item: RateLimitItem) -> int:
        """How many tokens are left in this minute after as much as can be of what is owed is paid."""
        if not (left := await self._left(item, "tokens", key)):
            return 0
        paid = await self._asked(self._debts.pay, key, left, lost=0)
        if paid and not await self._try(item, "tokens", key, cost=paid):  # another has paid with the same
            await self._asked(self._debts.owe, key, paid, lost=None)
            return 0
        return left - paid

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


def _shared(settings: Settings) -> "RedisHolds | None":
    if settings.redis_url is None:
        return None
    from server.redis_holds import RedisHolds  # Redis' client is an extra

    return RedisHolds(settings.redis_url)


def _storage(settings: Settings) -> Storage:
    if settings.redis_url is None:
        return MemoryStorage()
    soon: dict[str, Any] = {"socket_timeout": 1, "socket_connect_timeout": 1}
    return RedisStorage(f"async+{settings.redis_url}", implementation="redispy", key_prefix="tiller:limits", **soon)
