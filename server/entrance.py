"""Who may come in: every request but those that tell nothing needs a key, where there are any. Knows the keyring; no routes' insides.

It stands before the whole application, page and all, because what Gradio does reaches the engine, too. A browser keeps
a signed name of its key in a cookie that no script can read and that no other site's page sends along.
"""

from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ApiError, as_api_error
from server.store.store import Unavailable

COOKIE = "tiller_session"
PUBLIC = ("/livez", "/health", "/version", "/metrics", "/sign-in", "/sign-out")
"""What tells nothing of anybody, and the way in."""
CODE = "/page/"
"""The page's own code, the same for everybody."""
SAFE = ("GET", "HEAD", "OPTIONS")


class Entrance:
    """Lets in who has a key, and says who it is in `request.state.caller`."""

    def __init__(self, app: ASGIApp, *, state: Any) -> None:  # noqa: ANN401 - starlette's State
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or _public(scope["path"]) or self.state.tiller is None:
            await self.app(scope, receive, send)
            return
        try:
            await self._admit(scope)
        except (ApiError, Unavailable) as error:
            answer = as_api_error(error)
            headers = Headers(scope=scope)
            person = "text/html" in headers.get("accept", "") and not scope["path"].startswith("/v1")
            if answer.status == 401 and scope["method"] in SAFE and person:
                await RedirectResponse("sign-in" if scope["path"] == "/" else "/sign-in", 303)(scope, receive, send)
            else:
                await JSONResponse(answer.body, answer.status, answer.headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        headers, store = Headers(scope=scope), self.state.tiller.store
        secret = bearer(headers)
        session = None if secret else cookie_parser(headers.get("cookie", "")).get(COOKIE)
        if session and not _own(scope, headers):
            raise ApiError(403, "this came from another site's page", code="wrong_origin", kind="permission_error")
        caller = await self.state.keyring.caller(store, secret, session)
        if caller is None:
            raise stranger(secret)
        scope.setdefault("state", {})["caller"] = caller
        if scope["path"].startswith("/v1"):
            await self.state.rates.request(caller, counts=scope["method"] not in SAFE)


def _public(path: str) -> bool:
    return path in PUBLIC or path.startswith(CODE)


def bearer(headers: Headers) -> str | None:
    """The secret that a request carries."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def stranger(secret: str | None) -> ApiError:
    """Nobody who is known."""
    said = "this key is not known here, or has expired" if secret else "no key was given"
    return ApiError(
        401,
        f'{said}; send one as "Authorization: Bearer sk-tiller-…": whoever runs this server makes them with `tiller keys new`',
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _own(scope: Scope, headers: Headers) -> bool:
    """Whether what changes something comes from our own page; browsers say where from."""
    origin = headers.get("origin")
    if scope["method"] in SAFE or origin is None:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
