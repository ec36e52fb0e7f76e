"""Exception handlers: one table from exceptions to HTTP status codes, in OpenAI's error shape."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from server.engines.base import EngineFailed, Overloaded
from server.errors import ApiError, bad_request, first_validation_error, from_validation
from server.store.base import Unavailable
from server.telemetry import metrics
from steering.errors import SteeringError

DRAINING = {"error": {"code": 503, "message": "Shutting down", "type": "unavailable_error", "param": None}}
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error", "param": None}}


def to_api_error(error: BaseException) -> ApiError:
    """Translate an exception to an ApiError; one without a row in the table is a bug, and a 500."""
    match error:
        case ApiError():
            return error
        case SteeringError():
            return bad_request(str(error), param=error.param)
        case ValidationError():
            return first_validation_error(error)
        case RequestValidationError():
            return from_validation(
                [{**p, "loc": p["loc"][1:]} for p in error.errors()]
            )  # locations that begin with `query` or `header`
        case ClientDisconnect():
            return bad_request("the client closed the connection", param=None, code="client_closed_request")
        case Overloaded():
            wait = {"Retry-After": f"{error.retry_after:.0f}"}
            return ApiError(429, str(error), code="rate_limit_exceeded", kind="rate_limit_error", headers=wait)
        case EngineFailed():
            return ApiError(
                500, str(error), code="engine_failed", kind="server_error", headers={"x-should-retry": "false"}
            )
        case Unavailable():
            said = f"{error}; requests that do not need it still work, try this one again in a moment"
            wait = {"Retry-After": "2"}
            return ApiError(503, said, code="store_unavailable", kind="unavailable_error", headers=wait)
        case _:
            return ApiError(
                500,
                "something broke in the server; the log has the traceback",
                code="internal_error",
                kind="server_error",
            )


def add_exception_handlers(app: FastAPI, *, told: Callable[[Request, ApiError], Awaitable[None]]) -> None:
    """Register handlers that answer each exception of the table in one shape; `told` is called with
    each. A bug propagates to the middleware, which logs it."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        answer = to_api_error(error)
        metrics.failed.labels(answer.code).inc()
        await told(request, answer)
        headers = {"x-request-id": getattr(request.state, "request_id", ""), **answer.headers}
        return JSONResponse(answer.body, answer.status, headers)

    for kind in (
        ApiError,
        SteeringError,
        ValidationError,
        RequestValidationError,
        Overloaded,
        EngineFailed,
        Unavailable,
        ClientDisconnect,
    ):
        app.add_exception_handler(kind, answer)
