"""Programs that others wrote, in environments of their own, against a real server of the small bundle."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support import small_bundle
from tests.support.live_server import serving
from tests.support.paths import ROOT

HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-interop/bin/python"
NODE_MODULES = HERE / "javascript/node_modules"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return small_bundle.write_bundle(tmp_path_factory.mktemp("interop") / "bundle")


@pytest.fixture(scope="session")
def address(bundle, tmp_path_factory):
    torch.set_num_threads(1)
    with serving(bundle, tmp_path_factory.mktemp("data")) as (address, _):
        yield address


@pytest.fixture(scope="session")
def run_program():
    """Run a script of `clients/` or `javascript/` in its own environment; returns the JSON that it prints."""

    def run(script, *arguments):
        needed, command = (NODE_MODULES, "node") if script.endswith(".mjs") else (PYTHON, str(PYTHON))
        folder = HERE / ("javascript" if script.endswith(".mjs") else "clients")
        if not (needed.exists() or os.environ.get("CI")):
            pytest.skip("the programs of others are not installed here; install them: make .venv-interop/.installed")
        done = subprocess.run(
            [command, str(folder / script), *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
