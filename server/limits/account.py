"""Account of one request: its caller, and what it counts against the rate limits."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from server.auth.audit_log import Audit
from server.auth.caller import ANYONE, Caller
from server.limits.rate_limiter import Rates


@dataclass(frozen=True, eq=False)
class Account:
    """One caller's counts."""

    caller: Caller = ANYONE
    rates: Rates | None = None
    """None where nothing is counted."""
    audit: Audit | None = None
    """None where nothing is noted."""

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
