"""Files: names that others give stay below their folder."""

import pytest

from steering.errors import SteeringError
from steering.files import path_below


def test_a_name_is_below_its_folder(tmp_path):
    assert path_below(tmp_path, "revisions/r1/sae.safetensors") == tmp_path / "revisions" / "r1" / "sae.safetensors"
    assert path_below(tmp_path, "..x") == tmp_path / "..x"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/x", "//x", "a\\x", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(SteeringError, match="no name below"):
        path_below(tmp_path, name)
