"""Code blocks of docs/guides/clients.md run against the default bundle; all but LangChain, which tests do not install."""

import re

import pytest
import torch

from tests.docs.test_readme import BUNDLE, ROOT, run
from tests.support.live_server import serving
from tests.support.real_model import fetched_model

PAGE = (ROOT / "docs/guides/clients.md").read_text()
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server as people start it."""
    fetched_model()
    torch.set_num_threads(1)
    with serving(BUNDLE, tmp_path_factory.mktemp("data")) as (address, _):
        yield address


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_recipe_works(number, address, tmp_path):
    result = run(*BLOCKS[number], address, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert '"error"' not in result.stdout


def test_there_is_a_recipe_for_each_client():
    said = "".join(block for _, block in BLOCKS)
    assert all(
        word in said for word in ("curl", "from openai import", "from tiller import", "extra_body", "model_extra")
    )
