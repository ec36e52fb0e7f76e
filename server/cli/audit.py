"""`tiller audit …`: show and verify the audit log; no server is needed."""

from collections import deque
from typing import Annotated, Any

import typer

from server.auth.audit_log import AuditLog, BrokenAuditLog, Head
from server.cli.errors import exit_with_error
from server.cli.options import settings_from_options
from server.cli.store_access import Data, Redis, with_store
from server.cli.terminal import TerminalConsole

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The audit log: show it, and verify that it is complete."
)
console, problems = TerminalConsole(), TerminalConsole(stderr=True)


@app.command()
def verify(data_dir: Data = None, redis_url: Redis = None) -> None:
    """Check that each line follows from the one before, and that none is missing at the end. Exit code 1 if not, or if it cannot be verified.

    Example: tiller audit verify
    """
    place = settings_from_options(data_dir=data_dir).data_dir
    if not place.is_dir():
        exit_with_error(f"there is no data directory {str(place)!r}; name yours with --data-dir")
    log = AuditLog(place)
    kept = Head.read(with_store(data_dir, redis_url, lambda store: store.setting(log.head_setting)))
    try:
        head = log.verify(kept)
    except BrokenAuditLog as error:
        exit_with_error(f"{log.file}: {error}")
    if kept is None and head.n:
        exit_with_error(
            f"{log.file}: {head.n} lines, each follows from the one before; but the store has no head of a log at this place "
            "(was the folder moved?), so missing lines at the end cannot be detected"
        )
    if head.n == 0:
        exit_with_error(f"{log.file}: there is no log; it is written once there are keys")
    console.print(
        f"{log.file}: {head.n} lines, each follows from the one before; the last is {head.hash[:16]}…", soft_wrap=True
    )


@app.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="Number of lines from the end.")] = 20, data_dir: Data = None
) -> None:
    """Print the last lines.

    Example: tiller audit show --last 50
    """
    log = AuditLog(settings_from_options(data_dir=data_dir).data_dir)
    kept: deque[dict[str, Any]] = deque(maxlen=last)
    try:
        kept.extend(log.lines())
    except BrokenAuditLog as error:
        problems.print(f"{log.file}: {error}; these are before it", highlight=False, soft_wrap=True)
    for line in kept:
        console.print_json(data=line, indent=None)
