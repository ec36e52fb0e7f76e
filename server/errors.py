"""API errors: status code, message, param and code in OpenAI's error format."""

from collections.abc import Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from server import validation

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """Error response; the message names the culprit and the way out."""

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
        """`more` adds fields beside OpenAI's four, which a client needs to offer a fix."""
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind
        self.headers, self.more = headers or {}, more or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's format."""
        return {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code, **self.more}
        }

    def within(self, place: str, *, whose: str = "") -> "ApiError":
        """The same error with `place` before its param and `whose` before its message."""
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


def first_validation_error(error: ValidationError, *, within: str = "") -> ApiError:
    """A 400 for the first error of a model; `within` is the model's location in the body."""
    return from_validation(error.errors(include_url=False), within=within)


def from_validation(found: Sequence[validation.Problem], *, within: str = "") -> ApiError:
    """A 400 for the first of pydantic's errors; `within` is the model's location in the body."""
    problem, message = validation.first_error(found)
    path = ".".join(filter(None, (within, *validation.path(problem))))
    if problem["type"] == "extra_forbidden":
        return bad_request(
            f"unknown key {path!r}; it would have been ignored, so it is refused", param=path, code="unknown_parameter"
        )
    if problem["type"] == "missing":
        return bad_request(f"{path!r} is required", param=path, code="missing_required_parameter")
    return bad_request(f"{path}: {message}" if path else message, param=path or None)
