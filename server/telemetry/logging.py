"""Logging: one format for our, uvicorn's and vLLM's log lines, and one line per request with its id.

Lines contain no user text, reply or secret: a request is identified by its route and not by its
path, an exception by its type and frames and not by its message, except for exceptions that are
only about this machine.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

log = structlog.get_logger(__name__)
How = Literal["auto", "json", "pretty"]
Level = Literal["debug", "info", "warning", "error"]
OURS = ("server", "steering", "ui")
OF_THE_MACHINE = (OSError, MemoryError, ImportError)
SO_NAMED = {"OutOfMemoryError", "AcceleratorError", "ConnectionError", "TimeoutError"}
"""The same for libraries that are not imported here."""
BEFORE_ANY_REQUEST = {"WorkerProc failed to start.", "EngineCore failed to start."}
"""Messages of vLLM's processes that end before they served anything: what they say is for the operator."""

request_fields: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)


def configure_logging(how: How = "auto", level: Level = "info", stream: TextIO | None = None) -> None:
    """Log to stderr from now on: JSON unless it is a terminal, or as `how` says."""
    out = stream or sys.stderr
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter(resolve_format(how, out)))
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


def configure_command_logging(how: How = "auto", level: Level = "warning") -> None:
    """The same for a command: no progress bars of libraries, and for a background command only errors."""

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    configure_logging(how, level)
    from transformers.utils import logging as transformers_logging  # reads the variables when it is imported

    transformers_logging.disable_progress_bar()


def resolve_format(how: How, stream: TextIO | None = None) -> Literal["json", "pretty"]:
    """Format on a terminal or not."""
    return how if how != "auto" else "pretty" if (stream or sys.stderr).isatty() else "json"


def formatter(how: Literal["json", "pretty"] = "json") -> logging.Formatter:
    """Formatter for records of any library."""
    renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    if how == "pretty":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_keep_first_line_of_asyncio, *_shared()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )


def vllm_logging_config(how: Literal["json", "pretty"]) -> dict[str, Any]:
    """The same for vLLM's processes, as `logging.config` reads it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"tiller": {"()": "server.telemetry.logging.formatter", "how": how}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "tiller", "stream": "ext://sys.stderr"}},
        "loggers": {"vllm": {"handlers": ["stderr"], "level": "INFO", "propagate": False}},
    }


def bind_request_fields(**facts: object) -> None:
    """Add fields to the request's log line; no-op outside a request."""
    if (held := request_fields.get()) is not None:
        held.update(facts)


def count(**counts: int) -> None:
    """Add to counts in the request's log line."""
    if (held := request_fields.get()) is not None:
        held.update({name: held.get(name, 0) + n for name, n in counts.items()})


def route_of(scope: Mapping[str, Any]) -> str:
    """Name of a request in logs and metrics: its route's pattern; "" without a route, and `page` for the page's own."""
    return getattr(scope.get("route"), "path", "" if scope["path"].startswith("/v1") else "page")


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
        redact_exception,
    ]


def _keep_first_line_of_asyncio(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """The further lines show an exception with its message."""
    if event["_record"].name == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def redact_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    """Replace an exception by its frames and types: its message may contain user text, unless nothing was served yet."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_frames_and_type(error, with_text=event.get("event") in BEFORE_ANY_REQUEST))
    return event


def _frames_and_type(error: BaseException, *, with_text: bool = False) -> list[str]:
    """An exception and its causes, each as frames and type."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [*_frames_and_type(before, with_text=with_text), "", "and then:", ""] if before else []
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    lines += ["Traceback (most recent call last):", frames] if frames else []
    kind = type(error)
    shown = with_text or isinstance(error, OF_THE_MACHINE) or kind.__name__ in SO_NAMED
    lines.append(f"{kind.__module__}.{kind.__qualname__}" + (f": {error}" if shown else ""))
    for inner in getattr(error, "exceptions", ()):
        lines += ["", "in it:", *_frames_and_type(inner, with_text=with_text)]
    return lines
