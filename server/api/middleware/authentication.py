"""Authentication middleware: requires an API key for everything but public paths, if the server has keys.

It wraps the whole application, page included, because Gradio's routes reach the engine too. A
browser holds a signed key id in a cookie that scripts cannot read and that other sites' pages do
not send. Without keys, requests that change something must come from the page itself or from a
client that is not a browser.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import to_api_error
from server.auth.caller import ANYONE
from server.auth.keyring import COOKIE
from server.errors import ApiError
from server.store.base import Unavailable

PUBLIC = ("/livez", "/health", "/version", "/metrics", "/sign-in", "/sign-out")
"""Public paths: probes, and signing in."""
CODE = "/page/"
"""The page's own code, the same for every user."""
PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/docs", "/openapi.json")
"""Paths of the page besides `FOLDERS` and `GRADIO`."""
GRADIO = tuple(f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "cancel", "reset", "app_id"))
"""Gradio routes that the page uses; others accept files, describe the app or fetch URLs."""
FOLDERS = ("/v1/", "/assets/", "/static/", "/docs/", CODE)
SAFE = ("GET", "HEAD", "OPTIONS")
COMPUTING = ("/v1/features", "/v1/saes", "/v1/export", "/v1/presets/export")
"""Paths whose GET requests count like those that change something: they search, compare or collect."""
OTHER_SITES = ("cross-site", "same-site")
"""Values of `Sec-Fetch-Site` for pages that are not this server's own."""
FORM = 4096
"""Maximum body of a request without a key, in bytes: one key."""
LOADING_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tiller</title>'
    '<link rel="icon" href="data:,"><p>The model is loading. This page reloads automatically.</p></html>'
)


class AuthenticationMiddleware:
    """Authenticates requests and sets `request.state.caller`."""

    def __init__(self, app: ASGIApp, *, state: Any) -> None:  # noqa: ANN401 - starlette's State
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":  # nothing here speaks websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            receive = await self._authorize(scope, receive)
        except (ApiError, Unavailable) as error:
            await _refuse(scope, to_api_error(error))(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":  # Gradio would add CORS headers for other origins
            await Response(status_code=204)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _authorize(self, scope: Scope, receive: Receive) -> Receive:
        """The function that receives the request's body. Raises ApiError and Unavailable."""
        path, headers = scope["path"], Headers(scope=scope)
        if not _is_plain_path(path):
            raise ApiError(400, "an address has no empty parts, no dots for parts and no backslashes", code="bad_path")
        if scope["method"] == "OPTIONS":
            return receive
        if _is_public(path):
            _check_same_origin(scope, headers)
            return await _read_body(headers, receive, FORM)
        if self.state.served_model is None:
            wait = {"Retry-After": "2"}
            raise ApiError(503, "Loading model", code="loading", kind="unavailable_error", headers=wait)
        await self._authenticate(scope, headers)
        if path not in PAGE and path not in GRADIO and not path.startswith(FOLDERS):
            raise ApiError(404, f"{path} not found; /docs lists the routes", code="not_found")
        if path.startswith("/v1/"):
            return receive
        # Gradio would let other origins read its responses, so it does not see the Origin header.
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"origin"]
        return await _read_body(headers, receive, self.state.settings.max_body)

    async def _authenticate(self, scope: Scope, headers: Headers) -> None:
        secret = bearer_token(headers)
        session = None if secret else cookie_parser(headers.get("cookie", "")).get(COOKIE)
        caller = await self.state.keyring.authenticate(self.state.served_model.store, secret, session)
        if caller is None:
            raise unauthorized(secret)
        let_in = self.state.settings.origins if caller is ANYONE and scope["path"].startswith("/v1/") else ()
        if caller is ANYONE or not secret:
            _check_same_origin(scope, headers, let_in)
        if caller is ANYONE and scope["path"].startswith("/v1/"):
            _check_not_embedded(headers, let_in)
        scope.setdefault("state", {})["caller"] = caller
        if caller.key and scope["path"].startswith("/v1"):
            counts = scope["method"] not in SAFE or scope["path"].startswith(COMPUTING)
            await self.state.rate_limiter.count_request(caller, counts=counts)


def bearer_token(headers: Headers) -> str | None:
    """The secret in a request's Authorization header."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def unauthorized(secret: str | None) -> ApiError:
    """A 401 for a missing or unknown key."""
    said = "this key is not known here, or has expired" if secret else "no key was given"
    return ApiError(
        401,
        f'{said}; send one as "Authorization: Bearer sk-tiller-…"; the operator of this server creates keys with `tiller keys new`',
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(CODE)


def _is_plain_path(path: str) -> bool:
    """Whether a path is unambiguous for every parser; it may end with a slash."""
    first, *parts = path.split("/")
    return not first and bool(parts) and "\\" not in path and not {".", ".."} & {*parts} and all(parts[:-1])


def _check_same_origin(scope: Scope, headers: Headers, let_in: Sequence[str] = ()) -> None:
    """Raises ApiError for a request that changes something and comes from another site's page, as
    the browser's headers show.

    Pages of the origins in `let_in` are allowed; a cookie never authenticates them.
    """
    origin = headers.get("origin")
    if scope["method"] in SAFE or origin in let_in:
        return
    own = origin is None or _client_address(origin) == headers.get("host", "").lower()
    if not own or headers.get("sec-fetch-site") in OTHER_SITES:
        raise _wrong_origin("to change anything on this server")


def _check_not_embedded(headers: Headers, let_in: Sequence[str]) -> None:
    """Raises ApiError for a request of another site's page to a server without keys: it could not read the answer, but an
    image's address is enough to make the server compute.
    """
    if headers.get("sec-fetch-site") in OTHER_SITES and headers.get("origin") not in let_in:
        raise _wrong_origin("to ask this server anything")


def _wrong_origin(to: str) -> ApiError:
    said = f"this request came from another site's page, which needs an API key {to}"
    return ApiError(403, said, code="wrong_origin", kind="permission_error")


def _client_address(origin: str) -> str | None:
    """Host and port; None for what is not an address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _read_body(headers: Headers, receive: Receive, most: int) -> Receive:
    """Read a body before the request is handled, and return a function that receives it again.
    Raises ApiError if it is too large."""
    read: list[Message] = []
    said, seen, last = headers.get("content-length", "0"), 0, False
    over = said.isdecimal() and int(said) > most
    while not over and not last:
        if (message := await receive())["type"] == "http.disconnect":
            raise to_api_error(ClientDisconnect())
        read.append(message)
        seen, last = seen + len(message.get("body", b"")), not message.get("more_body", False)
        over = seen > most
    if over:
        close = {"Connection": "close"}
        raise ApiError(413, f"the body is larger than {most} bytes; send less", code="body_too_large", headers=close)

    async def again() -> Message:
        return read.pop(0) if read else await receive()

    return again


def _refuse(scope: Scope, answer: ApiError) -> Response:
    """A JSON error for programs; a redirect to the sign-in page for browsers."""
    person = "text/html" in Headers(scope=scope).get("accept", "") and not scope["path"].startswith("/v1")
    if person and scope["method"] in SAFE:
        if answer.status == 401:
            return RedirectResponse("sign-in" if scope["path"] == "/" else "/sign-in", 303)
        if answer.code == "loading":
            return HTMLResponse(LOADING_PAGE, 503, {**answer.headers, "Refresh": "2"})
    return JSONResponse(answer.body, answer.status, answer.headers)
