"""What goes wrong, on the wire: one table from exceptions to HTTP, in OpenAI's shape. The core knows no status codes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from server import validation
from server.engines.base import EngineFailed, Overloaded
from server.store.base import Unavailable
from server.telemetry import metrics
from steering.errors import SteeringError

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """An answer other than 2xx; the message names the culprit and the way out."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """`more` stands beside OpenAI's four keys: what a program needs to offer the way out."""
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers, self.more = headers or {}, more or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        return {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code, **self.more}
        }

    def within(self, place: str, *, whose: str = "") -> "ApiError":
        """The same error, `place` before its param and `whose` before its message."""
        return ApiError(
            self.status,
            f"{whose}: {self.message}" if whose else self.message,
            code=self.code,
            param=".".join(filter(None, (place, self.param))),
            kind=self.kind,
            headers=self.headers,
            more=self.more,
        )


def bad_request(
    message: str, *, param: str | None, code: str = "invalid_value", more: dict[str, Any] | None = None
) -> ApiError:
    """A 400 that names its parameter."""
    return ApiError(400, message, code=code, param=param, more=more)


def as_api_error(error: BaseException) -> ApiError:
    """Translate whatever was raised; what is in no row of the table is a bug, and a 500."""
    match error:
        case ApiError():
            return error
        case SteeringError():
            return bad_request(str(error), param=error.param)
        case ValidationError():
            return first_problem(error)
        case RequestValidationError():
            return _named([{**p, "loc": p["loc"][1:]} for p in error.errors()])  # which begin with `query` or `header`
        case Overloaded():
            wait = {"Retry-After": f"{error.retry_after:.0f}"}
            return ApiError(429, str(error), code="rate_limit_exceeded", kind="rate_limit_error", headers=wait)
        case EngineFailed():
            return ApiError(
                500, str(error), code="engine_failed", kind="server_error", headers={"x-should-retry": "false"}
            )
        case Unavailable():
            said = f"{error}; what does not need it goes on, try this again in a moment"
            wait = {"Retry-After": "2"}
            return ApiError(503, said, code="store_unavailable", kind="unavailable_error", headers=wait)
        case _:
            return ApiError(
                500,
                "something broke in the server; the log has the traceback",
                code="internal_error",
                kind="server_error",
            )


def install(app: FastAPI, *, told: Callable[[Request, ApiError], Awaitable[None]]) -> None:
    """Answer every exception of the table in one shape; `told` hears of each. A bug passes on to the border, which logs it."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        answer = as_api_error(error)
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
    ):
        app.add_exception_handler(kind, answer)


def first_problem(error: ValidationError, *, within: str = "") -> ApiError:
    """A 400 for the first thing that a model refused; `within` is where in the body that model stands."""
    return _named(error.errors(include_url=False), within=within)


def _named(found: Sequence[validation.Problem], *, within: str = "") -> ApiError:
    problem, said = validation.first(found)
    path = ".".join(filter(None, (within, *validation.place(problem))))
    if problem["type"] == "extra_forbidden":
        return bad_request(
            f"unknown key {path!r}; it would have been ignored, so it is refused", param=path, code="unknown_parameter"
        )
    if problem["type"] == "missing":
        return bad_request(f"{path!r} is required", param=path, code="missing_required_parameter")
    return bad_request(f"{path}: {said}" if path else said, param=path or None)
