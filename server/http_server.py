"""The HTTP server around an application: ends kindly. Knows uvicorn, and whether replies still run; no routes."""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

BACKLOG = 2048
"""Connections that wait to be taken."""


class HttpServer(uvicorn.Server):
    """Open replies get time to end; then the engine tells them, which is kinder than a cut connection."""

    def __init__(self, application: FastAPI, *, shared: bool = False, **config: Any) -> None:  # noqa: ANN401 - uvicorn's
        """With `shared`, other processes take connections from the same socket."""
        # asyncio takes as many as `backlog` at once, and a process that takes all leaves the others idle.
        backlog = 1 if shared else BACKLOG
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                log_level="warning",
                timeout_graceful_shutdown=8,
                backlog=backlog,
                **config,
            )
        )
        self._application, self._shared = application, shared

    def run_until_signal(
        self, sockets: list[socket.socket] | None = None, *, first: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Serve until SIGTERM, SIGINT or `should_exit`; `first` is done before any connection is taken."""

        async def run() -> None:
            if first:
                await first()
            await self.serve(sockets)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "should_exit", True))
        try:
            asyncio.run(run())
        except KeyboardInterrupt:
            pass

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

    async def _end_replies(self, *, after: float = 4.0) -> None:
        """Wait for running replies, tell those that are not done, then drop what an open page holds on to."""
        end = time.monotonic() + after
        if tiller := getattr(self._application.state, "tiller", None):
            while time.monotonic() < end and any(tiller.engine.load_now):
                await asyncio.sleep(0.05)
            await tiller.engine.close()
        await asyncio.sleep(0.5)  # the last words are on their way
        for connection in list(self.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.close()
