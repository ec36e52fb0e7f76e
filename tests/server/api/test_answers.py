"""Answers of the API: every field of each answer, which are null and which are left out.

`python -m tests.server.api.test_answers` writes `answers.json` anew; the difference shows what an API client will notice.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from server.sae.drift_log import DriftLog
from steering.catalogue.revisions import Revisions
from tests.server.api.routes.test_sae_changes import publish
from tests.support.live_server import serving
from tests.support.paths import ROOT
from tests.ui import described

FILE = ROOT / "tests/server/api/answers.json"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 4, "seed": 1}
FREE = {"features": [{"id": "small/1", "strength": 0.5}, {"id": "small/2", "strength": 0.1, "mode": "clamp"}]}
FULL = FREE | {"return": ["applied", "coherence"], "guard": True}
MINE = {"id": "mine", "name": "Mine", "steering": FREE, "sampling": {"temperature": 0.5}}
SIDES = {"a": ["the red bridge", "a bridge"], "b": ["a ford", "the long road"]}
REQUESTS: list[tuple[str, str, dict | None]] = [
    ("GET", "/livez", None),
    ("GET", "/version", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/small@bridge", None),
    ("GET", "/v1/limits", None),
    ("GET", "/v1/me", None),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT | {"steering": FULL, "n": 2, "logprobs": True, "top_logprobs": 1}),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True, "steering": FULL, "n": 2, "logprobs": True}),
    ("POST", "/v1/chat/completions", CHAT | {"steering": {"features": [{"id": "small/1", "strength": 9}], "over_budget": "cut"}}),
    ("POST", "/v1/completions", {"model": "small@bridge", "prompt": ["a", "the"], "max_tokens": 3, "logprobs": 1, "seed": 1}),
    ("POST", "/v1/completions", {"model": "small", "prompt": "the", "max_tokens": 3, "logprobs": 1, "seed": 1, "stream": True}),
    ("POST", "/v1/steering/compare", CHAT | {"variants": [{"name": "a"}, {"name": "b", "steering": FULL}]}),
    ("POST", "/v1/steering/compare", CHAT | {"stream": True, "variants": [{"name": "a"}, {"name": "b", "steering": FULL}]}),
    ("POST", "/v1/steering/validate", {"steering": FREE}),
    ("POST", "/v1/steering/validate", {"steering": FREE | {"scale": 20, "over_budget": "cut"}}),
    ("POST", "/v1/steering/suggest", {"wish": "more bridges", "limit": 2}),
    ("POST", "/v1/steering/suggest", {"messages": CHAT["messages"]}),
    ("GET", "/v1/features", None),
    ("GET", "/v1/features?q=bridge&limit=1", None),
    ("POST", "/v1/features/search", {"prompts": ["the red bridge"], "limit": 2}),
    ("GET", "/v1/features/small/1", None),
    ("GET", "/v1/features/small/3", None),
    ("PATCH", "/v1/features/small/3", {"label": "a longer label", "starred": True, "user": "ada"}),
    ("GET", "/v1/features?starred=true", None),
    ("POST", "/v1/features/contrast", SIDES),
    ("GET", "/v1/features-map", None),
    ("GET", "/v1/features-map/meta?limit=3", None),
    ("POST", "/v1/analyze", {"text": "Ada: the red bridge\nBob: a ford", "limit": 3}),
    ("POST", "/v1/analyze", {"text": "the red bridge", "other": {"text": "a ford"}, "limit": 3}),
    ("POST", "/v1/attribute", {"text": "the red", "top_k": 3}),
    ("POST", "/v1/attribute", {"messages": CHAT["messages"], "target": "a", "against": "b"}),
    ("POST", "/v1/vectors", SIDES | {"user": "ada", "name": "built"}),
    ("GET", "/v1/vectors?user=ada", None),
    ("POST", "/v1/chat/completions", CHAT | {"user": "ada", "steering": {"features": [{"id": "vector/built", "strength": 0.2}]}}),
    ("POST", "/v1/feedback", {"user": "ada", "kind": "thumb", "up": True, "steering": {"preset": "bridge"}}),
    ("GET", "/v1/feedback?user=ada", None),
    ("DELETE", "/v1/feedback?user=ada&last=true", None),
    ("GET", "/v1/presets", None),
    ("POST", "/v1/presets", MINE),
    ("PUT", "/v1/presets/mine", MINE | {"system_prompt": "Be brief.", "starter_prompts": ["hello"]}),
    ("GET", "/v1/presets/mine", None),
    ("GET", "/v1/presets/mine?snapshots=true", None),
    ("GET", "/v1/presets?snapshots=true", None),
    ("GET", "/v1/presets/export?ids=mine,bridge", None),
    ("POST", "/v1/presets/import", {"presets": [{"id": "two", "name": "Two", "steering": FREE}]}),
    ("GET", "/v1/export?user=ada", None),
    ("POST", "/v1/import", {"version": 1, "user": "ada", "model": "small", "features": [{"id": "small/4", "label": "x"}]}),
    ("DELETE", "/v1/presets/two", None),
    ("DELETE", "/v1/vectors/built?user=ada", None),
    ("GET", "/v1/saes", None),
    ("GET", "/v1/saes/r1", None),
    ("GET", "/v1/saes/r2", None),
    ("GET", "/v1/saes/r2/changes", None),
    ("GET", "/v1/saes/r2/changes?limit=1", None),
    ("POST", "/v1/saes/r2/activate", None),
    ("POST", "/v1/saes/rollback", None),
    ("GET", "/v1/training/consent?user=ada", None),
    ("PUT", "/v1/training/consent", {"user": "ada", "consent": True}),
    ("DELETE", "/v1/training/texts?user=ada", None),
    ("GET", "/v1/training/drift", None),
    ("POST", "/v1/jobs", {"type": "map"}),
    ("GET", "/v1/jobs", None),
    ("GET", "/v1/jobs?limit=1", None),
    ("GET", "/v1/jobs/{job}", None),
    ("GET", "/v1/jobs/{job}/artifacts", None),
    ("POST", "/v1/jobs/{job}/cancel", None),
    ("DELETE", "/v1/jobs/{job}", None),
    ("POST", "/v1/steering/sweep", {"feature": "small/1", "strengths": [0.5], "prompts": ["hello there"], "max_tokens": 4}),
    ("POST", "/v1/features/small/1/calibrate", None),
    ("POST", "/v1/shares", {"model": "small", "seed": 7, "steering": FREE}),
    ("GET", "/v1/shares/{share}", None),
    ("DELETE", "/v1/shares/{share}?key={key}", None),
    ("DELETE", "/v1/me?user=ada", None),
    ("DELETE", "/v1/sessions", None),
    ("POST", "/v1/keys", {"name": "ada", "role": "admin"}),
    ("GET", "/v1/keys", None),
    ("GET", "/v1/me", None),
    ("DELETE", "/v1/keys/{id}", None),
    ("GET", "/health", None),
]  # fmt: skip
"""Requests to one server, in this order; what is in braces is of an earlier answer."""
Shape = dict | list | str | None


def shape(value: object) -> Shape:
    """The same with types in place of values; null stays null, and of equal items of a list one stays."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        found: list[Shape] = []
        for item in map(shape, value):
            if item not in found:
                found.append(item)
        return sorted(found, key=lambda item: json.dumps(item, sort_keys=True))
    names = {bool: "boolean", int: "number", float: "number", str: "string"}
    return None if value is None else names[type(value)]


def contents(text: str) -> Any:
    """The JSON of an answer, or of all its events."""
    if not text.startswith("data: "):
        return json.loads(text)
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n") if e not in ("", "data: [DONE]")]
    return sorted(events, key=lambda e: e.get("index", 0))  # variants answer in any order


def prepare(folder: Path) -> None:
    """Write a bundle with a second revision, a damaged third one, and a drift check."""
    described.write_bundle(folder / "bundle")
    publish(Revisions(folder / "bundle", folder / "data/revisions/small"))
    damaged = folder / "data/revisions/small/r3"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    log = DriftLog(folder / "data", "small")
    log.append({"at": 1.5, "revision": "r1", "alarms": ["r2"], "corpus": {"r2": 0.5, "tokens": 8}})
    log.keep_first("r1", "corpus", {"r2": 0.5, "firing": [1, 2]})


def answers(folder: Path) -> list[tuple[str, int, Any]]:
    """Request, status and contents of all answers."""
    prepare(folder)
    found, known = [], {}
    with serving(folder / "bundle", folder / "data", shares=True) as (address, _), httpx.Client() as http:
        for method, path, body in REQUESTS:
            answer = http.request(method, address + path.format(**known), json=body)
            told = contents(answer.text)
            found.append((f"{method} {path}", answer.status_code, told))
            if (method, path) == ("POST", "/v1/keys"):
                http.headers["Authorization"] = f"Bearer {told['secret']}"
            if method == "POST" and answer.status_code in (201, 202):
                known |= dict.fromkeys(("job", "share", "id"), told["id"]) | {"key": told.get("key")}
    return found


def recorded(folder: Path) -> list[dict[str, object]]:
    """The answers' shapes, as they are recorded."""
    return [{"request": request, "status": status, "answer": shape(told)} for request, status, told in answers(folder)]


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    torch.set_num_threads(1)
    return recorded(tmp_path_factory.mktemp("answers"))


@pytest.mark.parametrize("i", range(len(REQUESTS)))
def test_an_answer_has_the_fields_that_it_had(now, i):
    before = json.loads(FILE.read_text())
    assert len(before) == len(REQUESTS)
    assert now[i]["status"] == before[i]["status"]
    assert now[i]["answer"] == before[i]["answer"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        torch.set_num_threads(1)
        rows = recorded(Path(temporary))
    FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    sys.stdout.write(f"{len(rows)} answers\n")
