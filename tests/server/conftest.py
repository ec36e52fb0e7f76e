"""Fixtures: one live server with the small bundle for all API tests, and the official OpenAI client."""

import httpx
import openai
import pytest

from tests.support.live_server import serving


@pytest.fixture(scope="session")
def live(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("data"), live=4, queue=64) as (address, app):
        yield address, app


@pytest.fixture
def http(live):
    with httpx.Client(base_url=live[0]) as client:
        yield client


@pytest.fixture
def client(live):
    with openai.OpenAI(base_url=f"{live[0]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def tiller(live):
    return live[1].state.served_model
