"""Tables: fit the terminal, or are shown as lines."""

import io

from rich.console import Console
from rich.table import Table

from server.cli.tables import fits, print_table


def table():
    found = Table("feature", "label", "score", "fires on", "typical max", "kind")
    found.add_row("harbor/1649", "bridges over water and what they are made of", "0.93", "1.2 %", "31.00", "plain")
    return found


def shown(width):
    out = io.StringIO()
    print_table(Console(file=out, width=width), table())
    return out.getvalue()


def test_a_table_that_fits_is_one():
    assert fits(table(), 120)
    assert "│" in shown(120)
    assert "harbor/1649" in shown(120)


def test_a_table_that_would_be_squeezed_is_shown_as_lines_and_loses_nothing():
    assert not fits(table(), 60)
    text = shown(60)
    assert "│" not in text
    lines = text.split("\n")
    assert lines[0].split() == ["feature", "harbor/1649"]
    assert lines[1].endswith("bridges over water and what they are made of")
    assert lines[5].split() == ["kind", "plain"]


def test_the_widest_column_may_wrap_as_long_as_it_can_be_read():
    assert fits(table(), 90)
    assert "│" in shown(90)
