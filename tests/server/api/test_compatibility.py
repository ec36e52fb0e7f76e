"""API compatibility with commit 22c3374: paths, parameters and status codes are unchanged but for additions."""

import json

import pytest

from server.api.app import create_app
from server.settings import Settings
from tests.support.paths import ROOT

BEFORE = json.loads((ROOT / "tests/server/api/openapi_of_22c3374.json").read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    async def never(): ...

    document = create_app(Settings(data_dir=tmp_path_factory.mktemp("data")), never).openapi()
    return {
        f"{method.upper()} {path}": {
            "operation": about["operationId"],
            "parameters": {
                f"{p['in']}:{p['name']}" + ("!" if p.get("required") else "") for p in about.get("parameters", [])
            },
            "statuses": {*about["responses"]},
            "body": "requestBody" in about,
        }
        for path, item in document["paths"].items()
        for method, about in item.items()
    }


def test_no_route_is_gone(now):
    assert not BEFORE.keys() - now.keys()


@pytest.mark.parametrize("route", BEFORE)
def test_a_route_takes_and_answers_what_it_did(now, route):
    before, after = BEFORE[route], now[route]
    assert after["operation"] == before["operation"]
    assert after["body"] == before["body"]
    assert {*before["parameters"]} <= after["parameters"]
    assert not {p for p in after["parameters"] - {*before["parameters"]} if p.endswith("!")}, "a new one is required"
    assert {*before["statuses"]} <= after["statuses"]
