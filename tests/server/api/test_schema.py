"""The whole API against its OpenAPI document (schemathesis): valid and invalid requests are answered as documented.

Bounded and deterministic. No worker runs, so jobs that are started stay queued.
"""

import json
import zlib

import httpx
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.app import create_app
from server.settings import Settings
from tests.support.live_server import serving
from tests.ui import described

EXAMPLES = 5
"""Of each operation, beside those at the edges of what it takes."""
ONE_IN = 4
"""Of those at the edges of a body, of which there are thousands."""
FAR = 256
"""Items and characters."""
LONGEST = 60_000
"""Of an address: what is longer, the HTTP parser refuses before the application hears of it."""
THERE = {
    "model": "small",
    "preset": "bridge",
    "feature": "small/2",
    "id": "small/1",
    "type": "map",
    "user": "ada",
    "since": "r1",
    "revision": "r1",
    "feature_id": "small/1",
    "preset_id": "mine",
    "model_id": "small@calm",
    "name": "mine",
}
"""What is there, by the names of what asks for it; the fixture adds a job and a share."""
MINE = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.5}]}}
CONFIG = SchemathesisConfig.from_dict(
    {"generation": {"deterministic": True, "no-shrink": True, "max-examples": EXAMPLES, "database": "none"}}
)


def closed():
    """What the server says of itself; and an answer here has nothing that is not described."""
    schema = create_app(Settings(), lambda: None).openapi()
    for name, part in schema["components"]["schemas"].items():
        if "properties" in part and name != "Problem":
            part.setdefault("additionalProperties", False)
    return without_far_ends(schema)


def without_far_ends(value):
    """The same without ends that are so far off that reaching them takes a minute."""
    if isinstance(value, list):
        return [without_far_ends(v) for v in value]
    if not isinstance(value, dict):
        return value
    far = {k for k in ("maxItems", "maxLength") if isinstance(value.get(k), int) and value[k] > FAR}
    return {k: without_far_ends(v) for k, v in value.items() if k not in far}


api = schemathesis.openapi.from_dict(closed(), config=CONFIG)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("schema")
    with serving(described.write_bundle(folder / "bundle"), folder / "data", shares=True) as (address, _):
        with httpx.Client(base_url=f"{address}/v1") as http:
            http.post("/presets", json=MINE).raise_for_status()
            THERE["job_id"] = http.post("/jobs", json={"type": "map"}).json()["id"]
            http.post(f"/jobs/{THERE['job_id']}/cancel").raise_for_status()  # or following it would never end
            THERE["share_id"] = http.post("/shares", json={"model": "small", "seed": 7}).json()["id"]
        yield address


def mark(case):
    """A number by which some are chosen, always the same."""
    return zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode("utf-8", "replace"))


def aimed(value):
    """The same, asking for what is there, and for a short reply."""
    if isinstance(value, list):
        return [aimed(v) for v in value]
    if not isinstance(value, dict):
        return value
    found = {k: THERE[k] if k in THERE and isinstance(v, str) else aimed(v) for k, v in value.items()}
    return found | ({"max_tokens": 4} if "messages" in value or "prompt" in value else {})


def aim(case):
    """Have two in three ask for what is there; the others ask for anything."""
    if mark(case) % 3:
        for given in (case.path_parameters, case.query):
            given.update({k: THERE[k] for k in THERE.keys() & given.keys()})
        case.body = aimed(case.body)
        if case.path.startswith("/v1/presets") and isinstance(case.body, dict):
            case.body |= {"id": "mine"} if "id" in case.body else {}


def left_out(case):
    """Whether a case is one too many, or too long to be sent."""
    edge = case.meta is not None and case.meta.phase.name.value == "coverage"
    many = edge and isinstance(case.body, dict | list) and len(json.dumps(case.body, default=str)) > 80
    return (many and mark(case) % ONE_IN) or len(str(httpx.QueryParams(case.query))) > LONGEST


def has_openais_shape(context, response, case):
    """Every refusal tells message, type, param and code."""
    if response.status_code >= 400:
        error = response.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert error["message"].strip()
        assert error["code"]


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    has_openais_shape,
]


@api.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_route_answers_as_it_says(case, address):
    if not left_out(case):
        aim(case)
        answer = case.call_and_validate(base_url=address, checks=CHECKS, timeout=120)
        assert answer.status_code < 500


def test_the_server_is_still_well(address):
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
