"""Fixtures: the live server of the API tests with all optional features enabled."""

import httpx
import pytest

from tests.support.live_server import serving

KEY = "a-key-of-the-fuzzing-tests-long-enough"
"""Whoever holds it may do everything, also after keys were made."""


@pytest.fixture(scope="module")
def http(bundle, tmp_path_factory):
    with (
        serving(bundle, tmp_path_factory.mktemp("data"), shares=True, admin_key=KEY) as (address, _),
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        yield client
