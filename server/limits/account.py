"""Account of one request: its caller, and what it counts against the rate limits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from server.auth.audit_log import AuditLog
from server.auth.caller import ANYONE, Caller
from server.limits.rate_limiter import RateLimiter


@dataclass(frozen=True, eq=False)
class Account:
    """One caller's counters."""

    caller: Caller = ANYONE
    rate_limiter: RateLimiter | None = None
    """None if nothing is counted: the caller has no key."""
    audit: AuditLog | None = None
    """None if nothing is logged: the caller is anonymous."""

    async def count_spec(self, fingerprint: str) -> None:
        """Raise ApiError if the caller has no tokens left, or has used too many distinct steerings."""
        if self.rate_limiter:
            await self.rate_limiter.check_budget(self.caller)
            await self.rate_limiter.count_spec(self.caller, fingerprint)

    @asynccontextmanager
    async def reserve(self, *, places: int = 1, expected: int = 0) -> AsyncGenerator[None, None]:
        """Hold concurrency slots of the caller, and the reply's maximum tokens. Raises ApiError."""
        async with (
            self.rate_limiter.reserve(self.caller, places=places, expected=expected)
            if self.rate_limiter
            else nullcontext()
        ):
            yield

    @asynccontextmanager
    async def charge_reading(self, tokens: int) -> AsyncGenerator[None, None]:
        """Count tokens that the model reads for the caller, as if they were a reply's. Raises ApiError."""
        async with self.reserve(expected=tokens):
            try:
                yield
            finally:
                await self.count_tokens(tokens)

    async def count_tokens(self, tokens: int) -> None:
        """Count tokens that were read and generated."""
        if self.rate_limiter and tokens:
            await self.rate_limiter.count_tokens(self.caller, tokens)


UNCOUNTED = Account()
