"""The application: routes, what every answer carries, and the time before the model is there. Knows no model itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from server.api import openapi
from server.api.dependencies import permitted, refusal
from server.api.errors import install
from server.api.middleware.authentication import Entrance
from server.api.middleware.cors import OtherSites
from server.api.middleware.error_shape import Strays
from server.api.middleware.gateway import Border
from server.api.middleware.request_log import Lines
from server.api.middleware.tracing import Traced
from server.api.routes import OPEN_ROUTERS, ROUTERS
from server.auth.audit_log import Audit
from server.auth.keyring import Keyring
from server.limits.rate_limiter import Rates
from server.serving.revision_switch import Swap, as_called
from server.serving.served_model import Tiller
from server.settings import Settings
from server.store.base import BadStore
from server.version import VERSION
from steering.errors import SteeringError

log = structlog.get_logger(__name__)
Opener = Callable[[], Awaitable[Tiller]]


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
    install(app, told=refusal)
    openapi.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(permitted)])
    for router in OPEN_ROUTERS:
        app.include_router(router)

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
    found = [*app.routes, *(route for router in (*ROUTERS, *OPEN_ROUTERS) for route in router.routes)]
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
