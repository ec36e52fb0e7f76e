"""The HTTP server around an application: ends kindly, and when its engine has. Knows uvicorn, and whether replies still run; no routes.

Told to end, it says so at `/health`, turns new requests away with a time to wait, and lets running replies end, up to
`drain_seconds`; then the engine tells those that are left. Told again, it waits no longer.
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
"""Connections that wait to be taken."""
TWICE = 1.0
"""Seconds after which a second signal is one."""


class HttpServer(uvicorn.Server):
    """Open replies get time to end; then the engine tells them, which is kinder than a cut connection."""

    def __init__(
        self,
        application: FastAPI,
        *,
        drain_seconds: float = 5.0,
        shared: bool = False,
        **config: Any,  # noqa: ANN401 - uvicorn's
    ) -> None:
        """With `shared`, other processes take connections from the same socket."""
        # asyncio takes as many as `backlog` at once, and a process that takes all leaves the others idle.
        backlog = 1 if shared else BACKLOG
        more = {"log_config": None, "log_level": "warning", "timeout_graceful_shutdown": 8, "backlog": backlog}
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
        """Serve until SIGTERM, SIGINT or `should_exit`; `first` is done before any connection is taken.

        `also` are told by a signal at once: what else ends does so at the same time.
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
        """Begin to end; if told again, end now. A terminal tells a whole group, so one told twice at once was told once."""
        if self._told is not None:
            self.should_exit = self.should_exit or time.monotonic() - self._told > TWICE
            return
        self._told = time.monotonic()
        self._application.state.draining = True
        for tell in self._also:
            tell()
        self.should_exit = not self.started

    async def on_tick(self, counter: int) -> bool:
        """Whether it is over; uvicorn asks ten times a second."""
        over = await super().on_tick(counter)
        served = getattr(self._application.state, "served_model", None)
        if served and served.engine.failure and not over:  # who keeps this process begins another
            self._application.state.failure = served.engine.failure
            return True
        if self._told is None:
            return over
        self._idle = 0 if served and any(served.engine.occupancy) else self._idle + 1
        return over or self._idle >= 2 or time.monotonic() - self._told > self._drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        for taken in (sockets or []) if self._shared else []:
            taken.listen(BACKLOG)  # one is taken at a time, but as many as ever may wait

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, let replies end."""
        ending = asyncio.create_task(self._end_replies())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_replies(self) -> None:
        """Wait for running replies, tell those that are not done, then drop what an open page holds on to."""
        end = time.monotonic() + (4.0 if self._told is None else 0.0)
        if served := getattr(self._application.state, "served_model", None):
            while time.monotonic() < end and any(served.engine.occupancy):
                await asyncio.sleep(0.05)
            await served.engine.close()
        await asyncio.sleep(0.5)  # the last words are on their way
        for connection in list(self.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.close()
