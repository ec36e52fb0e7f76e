"""What goes wrong, on the wire: one table from exceptions to HTTP, in OpenAI's shape. The core knows no status codes."""

from collections.abc import Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from server import validation

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


def first_validation_error(error: ValidationError, *, within: str = "") -> ApiError:
    """A 400 for the first thing that a model refused; `within` is where in the body that model stands."""
    return from_validation(error.errors(include_url=False), within=within)


def from_validation(found: Sequence[validation.Problem], *, within: str = "") -> ApiError:
    """A 400 for the first of pydantic's errors; `within` is where in the body that model stands."""
    problem, said = validation.first_error(found)
    path = ".".join(filter(None, (within, *validation.path(problem))))
    if problem["type"] == "extra_forbidden":
        return bad_request(
            f"unknown key {path!r}; it would have been ignored, so it is refused", param=path, code="unknown_parameter"
        )
    if problem["type"] == "missing":
        return bad_request(f"{path!r} is required", param=path, code="missing_required_parameter")
    return bad_request(f"{path}: {said}" if path else said, param=path or None)
