"""`--json` of the commands that list something: the rows of the HTTP API, as one JSON array."""

import json
import re

import httpx
import pytest
from typer.core import TyperGroup
from typer.testing import CliRunner

from server.cli.main import COMMANDS, app, load_command
from tests.support.live_server import serving

KEY = "an-admin-key-of-the-listing-tests-long-enough"
LISTS = {
    ("keys", "ls"): "/v1/keys",
    ("jobs", "ls"): "/v1/jobs",
    ("sae", "revisions"): "/v1/saes",
    ("presets",): "/v1/presets",
    ("features",): "/v1/features",
}
LOGGED = re.compile(r"\d{4}-\d\d-\d\d ")
"""A line of the server in this process, which logs to the standard output that the command's is caught from."""
MINE = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    """A server's folder and a client of it, with a preset, a queued job and a key."""
    folder = tmp_path_factory.mktemp("data")
    with (
        serving(bundle, folder, admin_key=KEY) as (address, _),
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}) as http,
    ):
        assert http.put("/v1/presets/mine", json=MINE).is_success
        assert http.post("/v1/jobs", json={"type": "describe", "config": {}}).is_success
        assert http.post("/v1/keys", json={"name": "ada", "role": "user"}).is_success
        yield folder, http


def printed(bundle, folder, words, monkeypatch):
    monkeypatch.setenv("TILLER_BUNDLE", str(bundle))
    monkeypatch.setenv("TILLER_DATA_DIR", str(folder))
    found = CliRunner().invoke(app, [*words, "--json"])
    assert found.exit_code == 0, found.output
    return json.loads("".join(line for line in found.stdout.splitlines() if not LOGGED.match(line)))


@pytest.mark.parametrize(
    ("words", "route"), LISTS.items(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_json_has_the_rows_of_the_api(words, route, bundle, server, monkeypatch):
    folder, http = server
    rows = printed(bundle, folder, words, monkeypatch)
    wanted = http.get(route, params={"limit": 20} if route == "/v1/features" else {}).json()["data"]
    assert [r["id"] for r in rows] == [w["id"] for w in wanted]
    assert rows
    for row, want in zip(rows, wanted, strict=True):
        assert row == want


def leaves(name):
    """Yield each command below an entry of the table: its words, its help and its options."""
    command = load_command(name)
    group = command.commands if isinstance(command, TyperGroup) else {None: command}
    for sub, leaf in group.items():
        yield (name, sub) if sub else (name,), leaf.help or "", {o for p in leaf.params for o in p.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_lists_has_json(name):
    for words, text, options in leaves(name):
        if text.startswith(("List", "Search")):
            assert "--json" in options, f"tiller {' '.join(words)} prints a table only"
            assert words in LISTS
