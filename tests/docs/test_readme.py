"""Code blocks of the README run against the default bundle, with the real model."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from tests.support.live_server import serving
from tests.support.paths import ROOT
from tests.support.real_model import fetched_model

BUNDLE = ROOT / "sae_weights" / "smollm2"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python|json)\n(.*?)^```", README, flags=re.M | re.S)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    fetched_model()
    torch.set_num_threads(1)
    with serving(BUNDLE, tmp_path_factory.mktemp("data")) as (address, _):
        yield address


def run(kind, block, address, tmp_path):
    command = [sys.executable, "-c", block] if kind == "python" else ["bash", "-c", block]
    env = {**os.environ, "TILLER_BUNDLE": str(BUNDLE), "TILLER_DATA_DIR": str(tmp_path), "COLUMNS": "100"}
    return subprocess.run(
        [
            c.replace("http://127.0.0.1:8000", address).replace(".venv/bin/tiller", f"{sys.executable} -m server")
            for c in command
        ],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("number", [i for i, (kind, _) in enumerate(BLOCKS) if kind != "json"])
def test_code_block_runs(number, address, tmp_path):
    result = run(*BLOCKS[number], address, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert '"error"' not in result.stdout


def test_shown_answer_is_the_real_one(address, tmp_path):
    curl = next(block for kind, block in BLOCKS if kind == "bash" and "curl" in block)
    shown = next(json.loads(block) for kind, block in BLOCKS if kind == "json")
    real = json.loads(run("bash", curl, address, tmp_path).stdout)
    assert shown["choices"][0]["message"]["content"] == real["choices"][0]["message"]["content"]
    assert _differences(shown, real) == []


def _differences(shown, real, place="answer"):
    """Where a shortened answer shows what the real one has not."""
    if isinstance(shown, dict):
        return [d for key in shown for d in _differences(shown[key], real.get(key), f"{place}.{key}")]
    if isinstance(shown, list):
        return [d for i, item in enumerate(shown) for d in _differences(item, real[i], f"{place}.{i}")]
    return [] if shown in ("…", real) else [f"{place}: {shown!r} is shown, {real!r} is the answer"]


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 120, f"README.md has {len(lines)} lines; move something to docs/"
    long = [i for i, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("|")]
    assert not long, f"lines of README.md over 120 characters: {long}"


def test_both_commands_are_shown():
    shown = re.search(r"^```text\n(make serve .*?)^```", README, flags=re.M | re.S)
    assert shown, "README.md shows no block that begins with `make serve`"
    assert "\nmake test " in shown[1], "README.md does not show `make test` below `make serve`"


def test_folders_in_the_table_exist():
    table = re.search(r"^## What is where\n\n(.*?)^## ", README, flags=re.M | re.S)
    assert table, "README.md has no section `What is where`"
    paths = re.findall(r"\]\(([^)]+)\)", table[1])
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert len(paths) > 20, f"the table names only {len(paths)} paths"
    assert not missing, f"the table names what is not there: {', '.join(missing)}"


def test_every_folder_is_in_the_table():
    table = README.partition("## What is where")[2].partition("\n## ")[0]
    folders = [p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()]
    missing = [name for name in folders if f"]({name}" not in table]
    assert folders
    assert not missing, f"the table leaves out: {', '.join(sorted(missing))}"


def test_image_installs_what_the_makefile_installs():
    version = re.search(r"^TORCH := (\S+)", (ROOT / "Makefile").read_text(), flags=re.M)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert version
    assert f"torch=={version[1]}" in dockerfile
    assert "requirements.lock" in dockerfile
    for line in ("USER 1000", "HEALTHCHECK", "STOPSIGNAL SIGTERM", 'CMD ["tiller", "serve"]'):
        assert line in dockerfile
