"""Terminal tables: columns if they fit, otherwise a block of lines per row; lists also as JSON."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.cli.terminal import escape_controls

READABLE = 24
"""Minimum width of the widest column; below it a table is printed as lines."""


AsJson = Annotated[
    bool, typer.Option("--json", help="Print a JSON array, with the field names of the HTTP API, instead of a table.")
]


def print_list(console: Console, table: Table, rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print a table, or the `rows` that it shows as a JSON array."""
    if as_json:
        typer.echo(escape_controls(json.dumps(rows, ensure_ascii=False)))
    else:
        print_table(console, table)


def print_table(console: Console, table: Table) -> None:
    """Print a table; one whose columns would be squeezed is printed as `header: value` lines."""
    if fits(table, console.width):
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    headers = [str(column.header) for column in table.columns]
    wide = max(cell_len(header) for header in headers)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for header, cell in zip(headers, row, strict=True):
            if _plain(cell):
                console.print(Text(f"{header:<{wide}}  ", style="bold") + _text(cell), soft_wrap=True)
        console.print()


def fits(table: Table, width: int) -> bool:
    """Whether every column but the widest has its natural width, and the widest at least `READABLE` characters."""
    widths = sorted(
        max([cell_len(str(column.header)), *(cell_len(_plain(cell)) for cell in column.cells)])
        for column in table.columns
    )
    left = width - 3 * len(widths) - 1 - sum(widths[:-1])
    return left >= min(widths[-1], READABLE)


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _plain(cell: object) -> str:
    return _text(cell).plain
