"""Account of one request: its caller, and what it counts against the rate limits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from server.auth.audit_log import AuditLog
from server.auth.caller import ANYONE, Caller
from server.limits.rate_limiter import RateLimiter


@dataclass(frozen=True, eq=False)
class Account:
    """One caller's counts."""

    caller: Caller = ANYONE
    rate_limiter: RateLimiter | None = None
    """None where nothing is counted."""
    audit: AuditLog | None = None
    """None where nothing is noted."""

    async def count_spec(self, fingerprint: str) -> None:
        """Raise ApiError if the caller has no token left, or has tried too many steerings."""
        if self.rate_limiter:
            await self.rate_limiter.check_budget(self.caller)
            await self.rate_limiter.count_spec(self.caller, fingerprint)

    @asynccontextmanager
    async def reserve(self, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold some of the caller's places, and the tokens that it may come to. Raises ApiError."""
        async with (
            self.rate_limiter.reserve(self.caller, places=places, expected=expected)
            if self.rate_limiter
            else nullcontext()
        ):
            yield

    @asynccontextmanager
    async def charge_reading(self, tokens: int) -> AsyncGenerator[None, None]:
        """The model reads so many tokens for the caller, which count as if they were a reply's. Raises ApiError."""
        async with self.reserve(expected=tokens):
            try:
                yield
            finally:
                await self.count_tokens(tokens)

    async def count_tokens(self, tokens: int) -> None:
        """So many tokens were read and written."""
        if self.rate_limiter and tokens:
            await self.rate_limiter.count_tokens(self.caller, tokens)


UNCOUNTED = Account()
