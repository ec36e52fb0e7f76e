"""TillerError, and its construction from error responses in OpenAI's shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


class TillerError(Exception):
    """The server refused, broke or is not there. The message is a sentence for a person."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, param: str | None = None
    ) -> None:
        """`status` is None where there was no answer, or where a reply broke off that had begun."""
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


@contextmanager
def translate_errors() -> Iterator[None]:
    """Tell what happens on the way to the server and back as a TillerError."""
    try:
        yield
    except httpx.HTTPError as error:
        raise TillerError(f"the server cannot be reached ({type(error).__name__}); is it still running?") from error


@contextmanager
def translate_network_settings() -> Iterator[None]:
    """Raise TillerError where httpx cannot use an option, or a proxy or certificate file that the environment names."""
    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise TillerError(
            f"the HTTP client cannot be made: {error}; look at the address, at the options, and at the environment's "
            "ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from error


def from_response(answer: httpx.Response) -> TillerError:
    """What an answer other than 2xx says; its body has to be read."""
    try:
        return broken(answer.json(), status=answer.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        return TillerError(f"the server answered {answer.status_code} and gave no reason", status=answer.status_code)


def broken(body: Any, *, status: int | None = None) -> TillerError:  # noqa: ANN401 - JSON
    """The error that a body tells."""
    error = body["error"]
    code = error.get("code")
    return TillerError(
        str(error["message"]), status=status, code=None if code is None else str(code), param=error.get("param")
    )
