"""HTTP server: uvicorn with graceful shutdown, also when the engine has failed.

On a signal, `/health` reports draining, new requests get a 503 with Retry-After, and running
replies have up to `drain_seconds`; then the engine ends the rest. A second signal ends at once.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

BACKLOG = 2048
"""Maximum number of pending connections."""
TWICE = 1.0
"""Seconds after which another signal counts as the second."""


class HttpServer(uvicorn.Server):
    """Running replies get time to finish; then the engine ends them with an error, which clients
    handle better than a closed connection."""

    def __init__(
        self,
        application: FastAPI,
        *,
        drain_seconds: float = 5.0,
        shared: bool = False,
        **config: Any,  # noqa: ANN401 - uvicorn's
    ) -> None:
        """With `shared`, other processes accept connections on the same socket."""
        # asyncio accepts up to `backlog` connections at once, and a process that accepts all leaves
        # the others idle.
        backlog = 1 if shared else BACKLOG
        more: dict[str, Any] = {
            "log_config": None,
            "log_level": "warning",
            "timeout_graceful_shutdown": 8,
            "backlog": backlog,
        }
        if settings := getattr(application.state, "settings", None):  # anybody can send the proxies' headers
            more["proxy_headers"] = bool(settings.trusted_proxies)
            more["forwarded_allow_ips"] = list(settings.trusted_proxies)
        super().__init__(uvicorn.Config(application, **more, **config))
        self._application, self._shared, self._drain_seconds = application, shared, drain_seconds
        self._told: float | None = None
        self._also: Sequence[Callable[[], None]] = ()
        self._idle = 0

    def run_until_signal(
        self,
        sockets: list[socket.socket] | None = None,
        *,
        first: Callable[[], Awaitable[None]] | None = None,
        also: Sequence[Callable[[], None]] = (),
    ) -> None:
        """Serve until SIGTERM, SIGINT or `should_exit`; `first` runs before the first connection is accepted.

        `also` are called on a signal, so that other services end at the same time.
        """

        async def run() -> None:
            if first:
                await first()
            await self.serve(sockets)

        self._also = also
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            pass

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Start the shutdown; at a second signal, exit now. A terminal signals the whole process
        group, so two signals at once count as one."""
        if self._told is not None:
            self.should_exit = self.should_exit or time.monotonic() - self._told > TWICE
            return
        self._told = time.monotonic()
        self._application.state.draining = True
        for tell in self._also:
            tell()
        self.should_exit = not self.started

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; uvicorn calls this ten times a second."""
        over = await super().on_tick(counter)
        served = getattr(self._application.state, "served_model", None)
        if served and served.engine.failure and not over:  # the parent process starts another
            self._application.state.failure = served.engine.failure
            return True
        if self._told is None:
            return over
        self._idle = 0 if served and any(served.engine.occupancy) else self._idle + 1
        return over or self._idle >= 2 or time.monotonic() - self._told > self._drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        for taken in (sockets or []) if self._shared else []:
            taken.listen(BACKLOG)  # accepts one at a time, with the full backlog

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and let replies finish."""
        ending = asyncio.create_task(self._end_replies())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_replies(self) -> None:
        """Wait for running replies, end the rest with an error, then close the connections that an open page holds."""
        end = time.monotonic() + (4.0 if self._told is None else 0.0)
        if served := getattr(self._application.state, "served_model", None):
            while time.monotonic() < end and any(served.engine.occupancy):
                await asyncio.sleep(0.05)
            await served.engine.close()
        await asyncio.sleep(0.5)  # time to send the last events
        for connection in list(self.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.close()
