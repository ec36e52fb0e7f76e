"""Terminal console: what people write reaches a terminal as text, never as markup or a control sequence."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.table import Table

import server.cli
from server.cli.tables import print_list
from server.cli.terminal import TerminalConsole, escape_controls

EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m[bold red]name[/] :smile: \u202eback\u2028"


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    console = TerminalConsole()
    console.file = io.StringIO()
    return console


def printed(console):
    return console.file.getvalue()


@pytest.mark.parametrize("how", ["as a line", "in a table", "in a narrow table", "as a title"])
def test_words_of_others_are_neither_markup_nor_control_sequences(console, how):
    table = Table("name", "other", title=EVIL if how == "as a title" else None)
    table.add_row(EVIL, "x" * (400 if how == "in a narrow table" else 1))
    if how == "as a line":
        console.print(EVIL)
    else:
        print_list(console, table, [], as_json=False)
    for control in "\x1b\x07\x9b\u202e\u2028":
        assert control not in printed(console)
    assert "[bold red]name[/] :smile:" in re.sub(r"\s+", " ", printed(console))
    assert "\\u001b]52;c;" in printed(console)


def test_a_list_as_json_is_json_with_the_same_words(console, capsys):
    print_list(console, Table(), [{"name": EVIL}], as_json=True)
    told = capsys.readouterr().out
    assert json.loads(told) == [{"name": EVIL}]
    assert "\x9b" not in told


def test_lines_and_tabulators_stay():
    assert escape_controls("a\n\tb é 日本 🙂") == "a\n\tb é 日本 🙂"


def test_no_command_prints_past_the_console():
    sources = [p for p in Path(server.cli.__file__).parent.glob("*.py") if p.name not in ("terminal.py", "tables.py")]
    for source in sources:
        text = source.read_text()
        assert not re.search(r"\bConsole\(|rich.markup|from_markup", text), source.name
        assert not re.search(r"(?<!escape_controls\()json\.dumps\([^)]*\)\)$", text) or "echo" not in text, source.name
