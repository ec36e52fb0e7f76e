"""`/sign-in` and `/sign-out`: exchange an API key for a session cookie, for browsers."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from server.api.dependencies import current_model
from server.auth.keyring import COOKIE, SESSION_DAYS
from server.errors import ApiError

router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
async def show_sign_in(request: Request) -> Response:
    """Sign-in form; redirects to the page if no key is needed."""
    served = current_model(request)
    if served and not await request.app.state.keyring.requires_key(served.store):
        return RedirectResponse("./", 303)
    return _page("")


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Check a key and set the session cookie."""
    state, form = request.app.state, await request.body()
    if state.served_model is None:
        return _page("The model is loading; try again in a moment.", 503)
    where = request.client.host if request.client else ""
    secret = parse_qs(form.decode("utf-8", "replace")).get("key", [""])[0].strip()
    session = await state.keyring.create_session(state.served_model.store, secret) if secret else None
    if session is None:  # only wrong tries are limited: many people may come from one address, such as a proxy's
        try:
            await state.rate_limiter.count_sign_in(where)
        except ApiError as error:
            return _page(f"Too many tries. {error.message.partition('; ')[2].capitalize()}.", 429, error.headers)
        return _page("This key is not known here, or has expired.", 401)
    answer = RedirectResponse("./", 303)
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    answer.set_cookie(COOKIE, session, max_age=86_400 * SESSION_DAYS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/sign-out")
async def sign_out() -> Response:
    """Delete the session cookie."""
    answer = RedirectResponse("./sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _page(problem: str, status: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    shown = f'<p role="alert" class="problem">{escape(problem)}</p>' if problem else ""
    text = (files("server.api.routes") / "sign_in.html").read_text(encoding="utf-8")
    return HTMLResponse(
        text.replace("<!-- problem -->", shown), status, {"Cache-Control": "no-store", **(headers or {})}
    )
