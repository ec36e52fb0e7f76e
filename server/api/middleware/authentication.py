"""Who may come in: every request but those that tell nothing needs a key, where there are any. Knows the keyring; no routes' insides.

It stands before the whole application, page and all, because what Gradio does reaches the engine, too. A browser keeps
a signed name of its key in a cookie that no script can read and that no other site's page sends along. Where there are
no keys, what changes something comes from the page itself or from no browser at all.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import to_api_error
from server.auth.caller import ANYONE
from server.auth.keyring import COOKIE
from server.errors import ApiError
from server.store.base import Unavailable

PUBLIC = ("/livez", "/health", "/version", "/metrics", "/sign-in", "/sign-out")
"""What tells nothing of anybody, and the way in."""
CODE = "/page/"
"""The page's own code, the same for everybody."""
PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/docs", "/openapi.json")
"""What else there is beside `FOLDERS` and `GRADIO`."""
GRADIO = tuple(f"/gradio_api/{name}" for name in ("queue/join", "queue/data", "cancel", "reset", "app_id"))
"""What the page asks of Gradio, which has much else: it takes files, says what it is made of, fetches from elsewhere."""
FOLDERS = ("/v1/", "/assets/", "/static/", "/docs/", CODE)
SAFE = ("GET", "HEAD", "OPTIONS")
FORM = 4096
"""Bytes of what somebody sends who has no key: one, at most."""
LOADING_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tiller</title>'
    '<link rel="icon" href="data:,"><p>The model is being loaded. This page comes again by itself.</p></html>'
)


class AuthenticationMiddleware:
    """Lets in who has a key, and says who it is in `request.state.caller`."""

    def __init__(self, app: ASGIApp, *, state: Any) -> None:  # noqa: ANN401 - starlette's State
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "websocket":  # nothing here speaks it
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
        if scope["method"] == "OPTIONS":  # Gradio would tell browsers that pages from elsewhere may come
            await Response(status_code=204)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _authorize(self, scope: Scope, receive: Receive) -> Receive:
        """What to read the request's body from. Raises ApiError and Unavailable."""
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
            raise ApiError(404, f"there is no {path} here; /docs lists what there is", code="not_found")
        if path.startswith("/v1/"):
            return receive
        # Gradio would let pages from elsewhere read what it answers; it is not told that there are any.
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
        scope.setdefault("state", {})["caller"] = caller
        if scope["path"].startswith("/v1"):
            await self.state.rate_limiter.count_request(caller, counts=scope["method"] not in SAFE)


def bearer_token(headers: Headers) -> str | None:
    """The secret that a request carries."""
    kind, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() or None if kind.lower() == "bearer" else None


def unauthorized(secret: str | None) -> ApiError:
    """Nobody who is known."""
    said = "this key is not known here, or has expired" if secret else "no key was given"
    return ApiError(
        401,
        f'{said}; send one as "Authorization: Bearer sk-tiller-…": whoever runs this server makes them with `tiller keys new`',
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(CODE)


def _is_plain_path(path: str) -> bool:
    """Whether a path means the same to whoever reads it; it may end with a slash."""
    first, *parts = path.split("/")
    return not first and bool(parts) and "\\" not in path and not {".", ".."} & {*parts} and all(parts[:-1])


def _check_same_origin(scope: Scope, headers: Headers, let_in: Sequence[str] = ()) -> None:
    """Raises ApiError for what changes something and comes from another site's page; browsers say where from.

    `let_in` are origins whose pages may; a cookie never speaks for them.
    """
    origin = headers.get("origin")
    if scope["method"] in SAFE or origin in let_in:
        return
    own = origin is None or _client_address(origin) == headers.get("host", "").lower()
    if not own or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ApiError(
            403,
            "this came from another site's page, and such a page needs an API key to change anything here",
            code="wrong_origin",
            kind="permission_error",
        )


def _client_address(origin: str) -> str | None:
    """Host and port; None of what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _read_body(headers: Headers, receive: Receive, most: int) -> Receive:
    """Read a body before anybody acts on it; gives what reads it once more. Raises ApiError if it is too large."""
    read: list[Message] = []
    said, seen, last = headers.get("content-length", "0"), 0, False
    over = said.isdecimal() and int(said) > most
    while not over and not last:
        read.append(message := await receive())
        seen, last = seen + len(message.get("body", b"")), not message.get("more_body", False)
        over = seen > most
    if over:
        close = {"Connection": "close"}
        raise ApiError(413, f"the body is larger than {most} bytes; send less", code="body_too_large", headers=close)

    async def again() -> Message:
        return read.pop(0) if read else await receive()

    return again


def _refuse(scope: Scope, answer: ApiError) -> Response:
    """In words for a program; a person at a browser is led to where it goes on."""
    person = "text/html" in Headers(scope=scope).get("accept", "") and not scope["path"].startswith("/v1")
    if person and scope["method"] in SAFE:
        if answer.status == 401:
            return RedirectResponse("sign-in" if scope["path"] == "/" else "/sign-in", 303)
        if answer.code == "loading":
            return HTMLResponse(LOADING_PAGE, 503, {**answer.headers, "Refresh": "2"})
    return JSONResponse(answer.body, answer.status, answer.headers)
