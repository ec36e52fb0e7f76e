"""Pages of other sites that the operator lets call the API from a browser (CORS). Knows origins; neither keys nor routes.

They may read what `/v1` answers, errors included. Nothing of the page is for them, and no cookie ever speaks for them:
where there are keys they bring one, as programs do.
"""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d{1,5})?")
"""As browsers write one: no path, nothing after it."""
TOLD = ("x-request-id", "retry-after", "x-tiller-steered", "x-tiller-steering", "x-tiller-revision", "x-tiller-preset")
"""Headers of an answer that their code may read."""


class OtherSites:
    """Tells browsers which other pages may call; without origins, nothing at all."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        self.app = app
        self._told = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            expose_headers=TOLD,
        )
        self._any = bool(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        theirs = self._any and scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._told if theirs else self.app)(scope, receive, send)


def checked(origins: Sequence[str]) -> None:
    """Raises ValueError for what is no origin; `*` is none: every page that somebody opens could use the server."""
    for origin in origins:
        if re.fullmatch(r"https://.*:443|http://.*:80", origin):
            raise ValueError(f"{origin!r} is no origin: browsers leave out the port where it is the usual one")
        if not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin: scheme, host and port as browsers send them, such as https://app.example"
            )
