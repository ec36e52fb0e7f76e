"""FastAPI application: routes, middleware, response headers, and the 503 responses while the model is loading."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from server.api import openapi
from server.api.dependencies import audit_refusal, check_permission
from server.api.errors import add_exception_handlers
from server.api.middleware.authentication import AuthenticationMiddleware
from server.api.middleware.cors import ApiCorsMiddleware
from server.api.middleware.error_shape import ErrorShapeMiddleware
from server.api.middleware.gateway import GatewayMiddleware
from server.api.middleware.request_log import RequestLogMiddleware
from server.api.middleware.tracing import TracingMiddleware
from server.api.routes import OPEN_ROUTERS, ROUTERS
from server.auth.audit_log import AuditLog
from server.auth.keyring import Keyring
from server.limits.rate_limiter import RateLimiter
from server.serving.revision_switch import RevisionSwitch, with_user_labels
from server.serving.served_model import ServedModel
from server.settings import Settings
from server.store.base import BadStore
from server.telemetry import tracing
from server.version import VERSION
from steering.errors import SteeringError

log = structlog.get_logger(__name__)
LoadModel = Callable[[], Awaitable[ServedModel]]


def create_app(settings: Settings, opener: LoadModel) -> FastAPI:
    """Build the application. `opener` opens engine, catalogue and store; until it returns, requests get a 503."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(app, opener))
        yield
        loading.cancel()
        await asyncio.wait({loading})
        if served := app.state.served_model:
            await served.engine.close()
            await served.store.close()
        await app.state.rate_limiter.close()

    app = FastAPI(
        title="Tiller",
        version=VERSION,
        lifespan=lifespan,
        description="OpenAI's chat API, with steering.",
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.draining = settings, False
    app.state.served_model, app.state.failure, app.state.revision_switch = None, None, RevisionSwitch(app.state)
    app.state.keyring, app.state.rate_limiter, app.state.audit_log = (
        Keyring(settings),
        RateLimiter(settings),
        AuditLog(settings.data_dir),
    )
    add_exception_handlers(app, told=audit_refusal)
    openapi.install(app, _api_routes())
    for router in ROUTERS:
        errors = openapi.errors(*openapi.ALWAYS)
        app.include_router(router, dependencies=[Depends(check_permission)], responses=errors)
    for router in OPEN_ROUTERS:
        app.include_router(router, responses=openapi.errors(421))

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def unknown() -> None:
        raise HTTPException(404)

    app.add_middleware(ErrorShapeMiddleware, routes=_api_routes())
    app.add_middleware(AuthenticationMiddleware, state=app.state)
    app.add_middleware(GatewayMiddleware, state=app.state, settings=settings)
    if settings.origins:
        app.add_middleware(ApiCorsMiddleware, origins=settings.origins)  # outside the others: pages read their errors
    if tracing.tracer():
        app.add_middleware(TracingMiddleware)
    app.add_middleware(RequestLogMiddleware)
    return app


def _api_routes() -> list[APIRoute]:
    """Routes of all routers, without the catch-all one and the docs page."""
    found = (route for router in (*ROUTERS, *OPEN_ROUTERS) for route in router.routes)
    return [route for route in found if isinstance(route, APIRoute)]


async def _load(app: FastAPI, opener: LoadModel) -> None:
    try:
        served = await opener()
        await app.state.keyring.requires_key(served.store)  # cached data stays valid while the store is unavailable
        app.state.served_model = await with_user_labels(served, served.bundle)
    except (SteeringError, BadStore, OSError) as error:  # errors that the operator can fix
        app.state.failure = str(error)
    except Exception as error:
        log.exception("could not start")
        app.state.failure = str(error)
    else:
        await app.state.revision_switch.watch()
