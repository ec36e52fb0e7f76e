"""`tiller sae revisions` and `tiller sae rollback`: list and select revisions; no server is needed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from server.cli.errors import errors_exit
from server.cli.options import settings_from_options
from server.cli.store_access import write_audit
from server.cli.tables import AsJson, print_list
from server.cli.terminal import TerminalConsole
from server.sae.served_revision import open_revisions, revision_setting
from server.store.base import Store
from server.store.factory import open_store
from steering.catalogue.revisions import Revisions
from steering.errors import BadBundle, SteeringError

console = TerminalConsole()
FIELDS = {"bundle", "parent", "created", "model", "hook", "d_in", "d_sae", "figures"}
"""Fields of a manifest that lists show."""
Bundle_ = Annotated[Path | None, typer.Option("--bundle", envvar="TILLER_BUNDLE", help="The bundle's folder.")]
Data = Annotated[Path | None, typer.Option(envvar="TILLER_DATA_DIR", help="The server's data directory.")]


def revisions(bundle: Bundle_ = None, data_dir: Data = None, as_json: AsJson = False) -> None:
    """List the revisions of the SAE: figures, parents, and which one is served.

    Example: tiller sae revisions
    """
    with _revisions(bundle, data_dir) as (found, store, runner):
        served = _wanted_revision(found, store, runner)
        table = Table("revision", "parent", "published", "features", "figures", "")
        rows: list[dict[str, Any]] = []
        for name in found.names():
            try:
                m = found.manifest(name)
            except SteeringError as error:
                table.add_row(name, "", "", "", str(error), "damaged")
                rows.append({"id": name, "object": "sae", "active": False, "error": str(error)})
                continue
            figures = ", ".join(f"{k} {v:.4g}" for k, v in m.figures.items())
            when = datetime.fromtimestamp(m.created, UTC).strftime("%Y-%m-%d %H:%M")
            table.add_row(name, m.parent or "–", when, str(m.d_sae), figures, "served" if name == served else "")
            rows.append({"id": name, "object": "sae", **m.model_dump(include=FIELDS), "active": name == served})
        print_list(console, table, rows, as_json=as_json)


def rollback(
    to: Annotated[
        str | None, typer.Option(help="The revision to serve; the parent of the served one if not given.")
    ] = None,
    bundle: Bundle_ = None,
    data_dir: Data = None,
) -> None:
    """Serve an earlier revision of the SAE; a running server follows within a second.

    Example: tiller sae rollback --to r3
    """
    with _revisions(bundle, data_dir) as (found, store, runner):
        served = _wanted_revision(found, store, runner)
        target = to or found.manifest(served).parent
        if target is None:
            raise BadBundle(f"{served!r} came with the bundle and has no parent; name a revision with --to")
        found.open(target)  # a revision that fails to open is not selected
        runner.run(_activate(store, found.info.name, target, served, data_dir))
    console.print(f"{served} → {target}: new replies use {target}; running replies finish on {served}.")


@contextmanager
def _revisions(bundle: Path | None, data_dir: Path | None) -> Iterator[tuple[Revisions, Store, asyncio.Runner]]:
    """The revisions and the store of a server, running or not; errors that the user can fix end the command."""
    options = {"bundle": bundle, "data_dir": data_dir}
    settings = settings_from_options(**options)
    with errors_exit():
        found, store = open_revisions(settings), open_store(settings)
        with asyncio.Runner() as runner:
            try:
                yield found, store, runner
            finally:
                runner.run(store.close())


def _wanted_revision(found: Revisions, store: Store, runner: asyncio.Runner) -> str:
    return runner.run(store.setting(revision_setting(found.info.name))) or found.info.revision


async def _activate(store: Store, bundle: str, target: str, served: str, data_dir: Path | None) -> None:
    await store.set_setting(revision_setting(bundle), target)
    if await store.keys():  # without keys callers are anonymous, and nothing is written
        await write_audit(store, data_dir, "revision activated", revision=target, previous=served)
