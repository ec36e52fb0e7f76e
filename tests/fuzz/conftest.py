"""Fixtures: the live server of the API tests with all optional features enabled."""

import httpx
import pytest
import torch

from tests.support import small_bundle
from tests.support.live_server import serving

KEY = "a-key-of-the-fuzzing-tests-long-enough"
"""Whoever holds it may do everything, also after keys were made."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    torch.set_num_threads(1)
    return small_bundle.write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def http(bundle, tmp_path_factory):
    with (
        serving(bundle, tmp_path_factory.mktemp("data"), shares=True, admin_key=KEY) as (address, _),
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        yield client
