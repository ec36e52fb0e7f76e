"""Isolation of requests: ten thousand random specs beside an unsteered request, and caches that are never shared."""

import random
import re

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from server.auth.caller import Caller
from server.errors import ApiError
from server.runtime.startup import load_served_model
from server.schemas.steering import SteeringRequest
from server.serving.served_model import ServedModel
from server.settings import Settings
from server.store.models import ROLES
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.edits import SteeringTable
from steering.errors import SteeringError
from steering.model.hooks import tap
from steering.spec import ASSISTANT
from tests.server.safety.test_policy import fuzzed
from tests.support.live_server import serving
from tests.support.paths import HARBOR

ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
ROWS = 32
FUZZED = 48
"""So many features are named by the odd specs."""
LONG = " ".join(["the bridge is red and long"] * 12)
HELLO = {"model": "small", "messages": [{"role": "user", "content": LONG}], "max_tokens": 2, "temperature": 0}


@pytest.mark.parametrize("served", ["small", "harbor"])
def test_of_ten_thousand_specs_none_breaks_the_numbers_and_none_moves_its_neighbour(served, bundle, tmp_path):
    """Those that are let through run 31 at a time beside one that nobody steers, which stays bit-equal."""
    opened, draw = Bundle.open(bundle if served == "small" else HARBOR), random.Random(11)
    tiller = ServedModel(None, Catalogue([opened]), None, Settings(data_dir=tmp_path), None)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(opened.model_path, dtype=torch.float32).eval()
    hook, step, edits = opened.info.hook, len(opened.features) // FUZZED, []
    for _ in range(10_000):
        asked = fuzzed(draw)
        for feature in asked["features"]:
            feature["id"] = re.sub(r"^b/(\d{1,2})$", lambda m: f"{served}/{int(m[1]) * step}", feature["id"])
        try:
            resolved = tiller.resolve(SteeringRequest.model_validate(asked).spec(ASSISTANT), {})
            tiller.check_allowed(resolved, Caller(draw.choice(ROLES), "t", "ada"))
        except (ApiError, SteeringError, ValueError):
            continue
        assert max(resolved.push_norm.values(), default=0) <= tiller.settings.max_push
        edits += resolved.edits.values()
    assert len(edits) > 500
    ids = torch.randint(5, 300, (ROWS, 6), generator=torch.Generator().manual_seed(2))
    rows = torch.arange(ROWS)[:, None].expand(ROWS, 6)
    table = SteeringTable(ROWS, model.config.hidden_size)
    with torch.no_grad(), tap(model, {hook: lambda x: table.apply(x, rows)}):
        alone = model(input_ids=ids).logits[0]
        for start in range(0, len(edits), ROWS - 1):
            for row, edit in enumerate(edits[start : start + ROWS - 1], 1):
                table.set(row, edit)
            logits = model(input_ids=ids).logits
            assert torch.isfinite(logits).all()
            assert logits[0].equal(alone)
            for row in range(1, ROWS):
                table.clear(row)
        assert model(input_ids=ids).logits[0].equal(alone)


@pytest.fixture(scope="module")
def tenants(bundle, tmp_path_factory):
    with serving(bundle, tmp_path_factory.mktemp("tenants"), admin_key=ADMIN) as (address, _):
        admin, people = {"Authorization": f"Bearer {ADMIN}"}, []
        for name, tenant in (("ada", "red"), ("bob", "red"), ("ada", "blue")):
            about = {"name": name, "tenant": tenant, "role": "researcher"}
            secret = httpx.post(f"{address}/v1/keys", json=about, headers=admin).json()["secret"]
            people.append(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"}))
        yield people
        for http in people:
            http.close()


def cached(http, steering=None, **more):
    answer = http.post("/v1/chat/completions", json=HELLO | {"steering": steering} | more).json()
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["choices"][0]["message"]["content"]


STEERING = {"features": [{"id": "small/1", "strength": 0.4}], "scope": "all"}


def test_what_one_has_computed_is_used_again_for_them_and_for_nobody_else(tenants):
    ada, bob, other = tenants
    assert cached(ada)[0] == 0
    warm, said = cached(ada)
    assert warm > 0
    for http in (bob, other):
        cold, theirs = cached(http)
        assert cold == 0
        assert theirs == said


def test_no_part_of_a_steering_shares_what_another_has_computed(tenants):
    ada = tenants[0]
    _, cold = cached(ada, STEERING)
    warm, again = cached(ada, STEERING)
    assert warm > 0
    assert again == cold
    one = STEERING["features"][0]
    for change in (
        {"features": [{**one, "strength": 0.41}]},
        {"features": [{**one, "strength": -0.4}]},
        {"features": [{**one, "mode": "clamp"}]},
        {"features": [{**one, "id": "small/2"}]},
        {"features": [one, {"id": "small/2", "strength": 0.1}]},
        {"scope": "assistant"},
        {"scale": 0.5},
        {"unit": "raw"},
    ):
        assert cached(ada, STEERING | change)[0] == 0, change
    assert cached(ada, STEERING | {"features": [one], "scale": 1.0})[0] > 0  # the same, said otherwise


def test_a_default_preset_is_told_and_can_be_left_out_and_is_each_keys_own(bundle, tmp_path):
    with serving(bundle, tmp_path, admin_key=ADMIN, default_preset="bridge") as (address, _):
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {ADMIN}"}) as admin:
            plain = admin.post("/v1/chat/completions", json=HELLO)
            told = plain.json()["steering"]
            assert (told["default"], told["preset"], len(told["applied"])) == ("bridge", None, 1)
            assert plain.headers["x-tiller-steered"] == "true"
            assert admin.get("/v1/me").json()["default_preset"] == "bridge"
            without = admin.post("/v1/chat/completions", json=HELLO | {"steering": {"default": False}})
            assert without.json()["steering"]["applied"] == []
            assert without.headers["x-tiller-steered"] == "false"
            named = admin.post("/v1/chat/completions", json=HELLO | {"steering": {"preset": "calm"}}).json()["steering"]
            assert (named["default"], named["preset"]) == (None, "calm")
            own = {"features": [{"id": "small/1", "strength": 0.1}, {"id": "small/2", "strength": 0.2}]}
            both = admin.post("/v1/chat/completions", json=HELLO | {"steering": own}).json()["steering"]
            assert {a["id"]: a["strength"] for a in both["applied"]} == {"small/1": 0.1, "small/2": 0.2}
            other = {"name": "calm-one", "role": "viewer", "default_preset": "calm"}
            secret = admin.post("/v1/keys", json=other).json()["secret"]
        theirs = httpx.post(
            f"{address}/v1/chat/completions", json=HELLO, headers={"Authorization": f"Bearer {secret}"}
        ).json()["steering"]
        assert theirs["default"] == "calm"


def test_headers_tell_of_a_steered_reply_what_the_body_tells(http):
    for steering, stream in ((STEERING, False), (STEERING, True), ({"preset": "bridge"}, False), (None, False)):
        answer = http.post("/v1/chat/completions", json=HELLO | {"steering": steering, "stream": stream})
        assert answer.headers["x-tiller-steered"] == str(steering is not None).lower()
        if not stream:
            told = answer.json()["steering"]
            assert answer.headers["x-tiller-steering"] == told["hash"]
            assert answer.headers["x-tiller-revision"] == told["revision"]
            assert answer.headers.get("x-tiller-preset") == told["preset"]


def test_what_is_steered_by_default_is_the_admins_to_change_and_not_deleted_while_it_is(bundle, tmp_path):
    saved = {"id": "house", "name": "House", "steering": STEERING, "visibility": "shared"}
    with serving(bundle, tmp_path, admin_key=ADMIN) as (address, _):
        admin = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {ADMIN}"})
        asked = {"name": "one", "role": "creator"}
        with admin, httpx.Client(base_url=address, headers=key_of(admin, asked)) as creator:
            assert creator.post("/v1/presets", json=saved).status_code == 201
            assert admin.post("/v1/keys", json={"name": "two", "role": "user", "default_preset": "house"}).is_success
            for answer in (creator.put("/v1/presets/house", json=saved), creator.delete("/v1/presets/house")):
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "preset_in_use")
            assert admin.put("/v1/presets/house", json=saved | {"name": "Home"}).status_code == 200
            assert admin.delete("/v1/presets/house").status_code == 409


def key_of(admin, asked):
    return {"Authorization": f"Bearer {admin.post('/v1/keys', json=asked).json()['secret']}"}


@pytest.mark.parametrize(
    ("given", "words"),
    [({"default_preset": "nowhere"}, "nowhere"), ({"policy": "harbour/16"}, "harbour/16")],
)
async def test_a_server_that_names_what_is_not_there_does_not_begin(bundle, tmp_path, given, words):
    if "policy" in given:
        given = {"policy": tmp_path / "policy.toml"}
        given["policy"].write_text('[[limit]]\nfeature = "harbour/16"\nhigh = 0.5\n')
    with pytest.raises(SteeringError, match=words):
        await load_served_model(Settings(bundle=bundle, data_dir=tmp_path / "data", **given))
