"""Pages of other sites that the operator lets call the API from a browser (CORS). Knows origins; neither keys nor routes.

They may read what `/v1` answers, errors included. Nothing of the page is for them, and no cookie ever speaks for them:
where there are keys they bring one, as programs do.
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
"""Headers of an answer that their code may read."""


class ApiCorsMiddleware:
    """Tells browsers which other pages may call; without origins, nothing at all."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self.app = app
        self._told = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )
        self._any = bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        theirs = self._any and scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._told if theirs else self.app)(scope, receive, send)
