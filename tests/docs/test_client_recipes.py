"""Code blocks of docs/guides/clients.md in bash and Python run against the default bundle."""

import re

import pytest

from tests.docs.test_readme import ROOT, address, run

PAGE = (ROOT / "docs/guides/clients.md").read_text()
__all__ = ["address"]  # the fixture
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, flags=re.M | re.S)


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
