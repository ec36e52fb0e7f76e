"""CORS middleware: lets pages of configured origins call the API from a browser.

They may read the responses of `/v1`, errors included, and nothing of the page. A cookie never
authenticates them: with keys, they send one as any other client.
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

EXPOSED_HEADERS = (
    "x-request-id",
    "retry-after",
    "x-tiller-steered",
    "x-tiller-steering",
    "x-tiller-revision",
    "x-tiller-preset",
)
"""Response headers that their scripts may read."""


class ApiCorsMiddleware:
    """Sends CORS headers under /v1 for the configured origins."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self.app = app
        self._told = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        theirs = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._told if theirs else self.app)(scope, receive, send)
