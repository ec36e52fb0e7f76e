"""Steering policy: bounds per role, limits per feature by every route to them, and no way around them."""

import ast
import base64
import random
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch

from server.auth.caller import Caller
from server.engines.base import Sampling
from server.errors import ApiError
from server.safety.policy import (
    Authorization,
    BadPolicy,
    Bounds,
    Limit,
    NotDecided,
    Policy,
    PolicyInput,
    authorize,
    suggested_scale,
)
from server.schemas.steering import SteeringRequest
from server.serving.served_model import ServedModel
from server.settings import Settings
from server.store.models import ROLES
from steering.catalogue.bundle import Bundle
from steering.catalogue.composition import compose
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.resolve import Catalogue
from steering.errors import SteeringError
from steering.sae import SAE
from steering.spec import ASSISTANT, FeatureSnapshot, Intervention, Preset, SteeringSpec
from tests.support.live_server import serving
from tests.support.paths import ROOT

HOOK, WIDTH = "layers.1", 64
ADMIN = "the-first-key-of-this-server-that-nobody-guesses"
HELLO = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """48 directions; 2 is nearly 1, 3 is its opposite, 4 and 5 together make it."""
    g = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(48, WIDTH, generator=g), dim=1)
    one, side = rows[1], torch.nn.functional.normalize(rows[6] - (rows[6] @ rows[1]) * rows[1], dim=0)
    rows[2] = torch.nn.functional.normalize(one + 0.4 * side, dim=0)
    rows[3] = -one
    rows[4], rows[5] = (torch.nn.functional.normalize(one + s * 1.2 * side, dim=0) for s in (1, -1))
    sae = SAE(rows.T.contiguous(), torch.zeros(48), rows, torch.zeros(WIDTH), torch.full((48,), 0.1))
    info = BundleInfo(name="b", model="m", hook=HOOK, revision="r1", typical_norm=10.0)
    features = [Feature(id=f"b/{i}", index=i, label=f"f{i}" if i % 2 else "", dose=4.0 if i < 40 else None, typical_max=2.0) for i in range(48)]  # fmt: skip
    return Bundle(tmp_path_factory.mktemp("b"), info, sae, features)


def steered(bundle, *items, scale=1.0, pins=None, presets=(), unit="dose"):
    features = tuple(Intervention(id=i, strength=s, mode=m) for i, s, m in items)
    spec = SteeringSpec(features=features, scale=scale, unit=unit)
    resolved = Catalogue([bundle]).resolve(spec, pins or {})
    return PolicyInput(resolved, compose(resolved, bundle), bundle, presets)


def rule(policy, role, wanted):
    try:
        authorize(policy, Caller(role, "t", "ada"), wanted)
    except ApiError as error:
        assert (error.status, error.code) == (403, "policy_refused")
        return error.more["rule"]
    return None


def snapshot(name, direction):
    coded = base64.b64encode(np.asarray(direction, dtype="<f4").tobytes()).decode()
    return FeatureSnapshot(id=name, revision="r0", direction=coded, encoder=coded, bias=0.0, threshold=0.1, typical_max=2.0, dose=4.0)  # fmt: skip


UP = Policy(limit=(Limit(feature="b/1", high=0.5, reason="ours"),))
DOWN = Policy(limit=(Limit(feature="b/1", low=-0.2),))


@pytest.mark.parametrize(
    ("policy", "items", "broken"),
    [
        (UP, [("b/1", 0.4, "add")], False),
        (UP, [("b/1", 0.6, "add")], True),
        (UP, [("b/1", -3.0, "add")], False),
        (UP, [("b/2", 0.9, "add")], True),  # a near duplicate
        (UP, [("b/3", -0.6, "add")], True),  # its opposite, turned down
        (UP, [("b/3", 0.6, "add")], False),
        (UP, [("b/4", 0.6, "add"), ("b/5", 0.6, "add")], True),  # two that make it together
        (UP, [("b/4", 0.6, "add"), ("b/5", -0.6, "add")], False),  # two that make something else
        (UP, [("b/1", 3.0, "clamp")], True),
        (UP, [("b/1", 2.0, "scale")], True),
        (UP, [("b/1", 0.5, "scale")], False),
        (UP, [("b/20", 3.0, "add")], False),
        (DOWN, [("b/1", -0.1, "add")], False),
        (DOWN, [("b/1", -0.3, "add")], True),
        (DOWN, [("b/1", 0.0, "clamp")], True),
        (DOWN, [("b/1", 0.0, "ablate")], True),
        (DOWN, [("b/2", 0.0, "ablate")], True),
        (DOWN, [("b/1", 0.1, "scale")], True),
        (DOWN, [("b/1", 1.5, "scale")], False),
        (DOWN, [("b/3", 0.3, "add")], True),
        (DOWN, [("b/20", 0.0, "ablate")], False),
    ],
)
def test_a_limit_holds_whichever_way_its_feature_comes(bundle, policy, items, broken):
    for role in ("viewer", "user", "creator", "researcher"):
        lenient = policy.model_copy(update={"roles": dict.fromkeys(ROLES, Bounds())})
        assert rule(lenient, role, steered(bundle, *items)) == ("limit" if broken else None)
    assert rule(policy, "admin", steered(bundle, *items)) is None


def test_a_limit_holds_against_many_that_each_hardly_point_its_way(bundle):
    cosines = (bundle.sae.W_dec @ bundle.sae.W_dec[1]).tolist()
    weak = [i for i in range(7, 40) if 0.02 < abs(cosines[i]) < 0.3]
    items = [(f"b/{i}", 0.5 if cosines[i] > 0 else -0.5, "add") for i in weak]
    lenient = UP.model_copy(update={"roles": {"researcher": Bounds()}})
    assert len(items) > 12
    assert rule(lenient, "researcher", steered(bundle, *items)) == "limit"
    assert rule(lenient, "researcher", steered(bundle, *((i, -s, m) for i, s, m in items))) is None
    assert rule(lenient, "researcher", steered(bundle, *((i, 0.5, m) for i, _, m in items[:6]))) is None


@pytest.mark.parametrize(
    ("strength", "mode", "refused"),
    [
        (100.0, "scale", "load"),
        (-20.0, "scale", "load"),
        (1.3, "scale", None),
        (0.0, "scale", None),
        (0.0, "ablate", None),
    ],
)
def test_what_multiplies_counts_towards_load_and_push(bundle, strength, mode, refused):
    items = [(f"b/{i}", strength, mode) for i in (11, 13)]
    assert rule(Policy(), "user", steered(bundle, *items)) == refused


def test_presets_as_they_are_is_what_it_says(bundle):
    preset = Preset(id="p", name="p", steering=SteeringSpec(features=(Intervention(id="b/11", strength=0.4), Intervention(id="b/13", strength=0.3))))  # fmt: skip
    mine = lambda *items, **more: rule(Policy(), "viewer", steered(bundle, *items, presets=(preset,), **more))  # noqa: E731
    whole = (("b/11", 0.4, "add"), ("b/13", 0.3, "add"))
    assert mine(*whole) is None
    assert mine(*whole, scale=0.5) is None
    assert mine(("b/11", 0.2, "add"), ("b/13", 0.15, "add")) is None
    assert mine(*whole, scale=-1.0) == "kind"
    assert mine(("b/11", 0.4, "add"), ("b/13", 0.0, "add")) == "kind"
    assert mine(("b/11", -0.4, "add"), ("b/13", -0.3, "add")) == "kind"
    assert mine(("b/11", 0.4, "ablate"), ("b/13", 0.3, "ablate")) == "kind"
    assert mine(("b/11", 0.4, "add")) == "kind"


def test_a_limit_holds_through_the_master_scale_a_vector_and_a_retired_number(bundle):
    lenient = UP.model_copy(update={"roles": {"researcher": Bounds()}})
    assert rule(lenient, "researcher", steered(bundle, ("b/1", 0.3, "add"), scale=2.0)) == "limit"
    row = bundle.sae.W_dec[1].numpy()
    for name in ("vector/mine", "b/99"):
        wanted = steered(bundle, (name, 0.6, "add"), pins={name: snapshot(name, row)})
        assert rule(lenient, "researcher", wanted) == "limit"
        weak = steered(bundle, (name, 0.4, "add"), pins={name: snapshot(name, row)})
        assert rule(lenient, "researcher", weak) is None


def test_a_limit_names_its_feature_its_reason_and_what_is_allowed(bundle):
    with pytest.raises(ApiError, match=r"'b/1' is limited here \(ours\): .* dose of \+0\.60; -inf to 0\.5 is allowed"):
        authorize(UP.model_copy(update={"roles": {"user": Bounds()}}), Caller("user"), steered(bundle, ("b/1", 0.6, "add")))  # fmt: skip


def test_roles_steer_what_their_bounds_let_them(bundle):
    persona = Preset(id="p", name="P", steering=SteeringSpec(features=(Intervention(id="b/40", strength=0.5),)))
    of_preset = lambda *more: steered(bundle, ("b/40", 0.5, "add"), *more, presets=(persona,))  # noqa: E731
    usual = Policy()
    assert [rule(usual, r, of_preset()) for r in ROLES] == [None] * 5
    assert [rule(usual, r, of_preset(("b/1", 0.3, "add"))) for r in ROLES] == ["features", None, None, None, None]
    assert [rule(usual, r, steered(bundle, ("b/41", 0.3, "add"))) for r in ROLES[1:]] == ["kind", None, None, None]
    assert [rule(usual, r, steered(bundle, ("b/42", 0.3, "add"))) for r in ROLES[1:]] == ["kind", "kind", None, None]
    far = steered(bundle, ("b/1", 2.2, "add"))
    assert [rule(usual, r, far) for r in ROLES[1:]] == ["load", None, None, None]
    many = [(f"b/{i}", 0.1, "add") for i in range(1, 39, 2)]
    assert [rule(usual, r, steered(bundle, *many)) for r in ROLES[1:]] == ["features", "features", None, None]
    vector = steered(bundle, ("vector/v", 0.3, "add"), pins={"vector/v": snapshot("vector/v", bundle.sae.W_dec[9])})
    assert rule(usual, "creator", vector) == "vectors"
    assert rule(usual, "researcher", vector) is None


def test_a_policy_that_cannot_be_says_where(tmp_path):
    file = tmp_path / "policy.toml"
    for text, says in (
        ("[[limit]]\nhigh = 1", "limit.0.feature"),
        ("[[limit]]\nfeature='b/1'\nlow = 1", "limit.0.low"),
        ("[roles.king]\nfeatures=1", "roles.king"),
        ("[roles.user]\nfetures=1", "roles.user.fetures"),
        ("[[limit", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(BadPolicy, match=says):
            Policy.load(file)
    file.write_text("[roles.user]\nfeatures = 3\n[[limit]]\nfeature = 'b/1'\nhigh = 0\nroles = ['user']\n")
    assert Policy.load(file).bounds("user").features == 3
    with pytest.raises(BadPolicy, match="cannot be read"):
        Policy.load(tmp_path / "none.toml")


def test_ten_thousand_specs_none_over_budget_and_none_without_a_number(bundle, tmp_path):
    """Fuzzed: odd strengths, modes, units, scales, repeated and unknown names; refused, or within what the role may do."""
    draw, refused, done = random.Random(7), 0, 0
    tiller = ServedModel(None, Catalogue([bundle]), None, Settings(data_dir=tmp_path, max_push=1.5), None)  # type: ignore[arg-type]
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1)) * 10
    for _ in range(10_000):
        role = draw.choice(ROLES)
        try:
            asked = SteeringRequest.model_validate(fuzzed(draw))
            resolved = tiller.resolve(asked.spec(ASSISTANT), {})
            tiller.check_allowed(resolved, Caller(role, "t", "ada"))
        except (ApiError, SteeringError, ValueError):
            refused += 1
            continue
        done += 1
        bounds = Policy().bounds(role)
        for edit in resolved.edits.values():
            assert float(edit.push.norm()) <= min(1.5, bounds.push or 1.5) * 10.0 * (1 + 1e-3)
            assert torch.isfinite(x + edit.delta(x)).all()
        assert compose(resolved, bundle).load <= (bounds.load or float("inf")) + 1e-2
        assert len(resolved.applied) <= (32 if bounds.features is None else bounds.features)
    assert done > 500
    assert refused > 500


def fuzzed(draw):
    number = lambda: draw.choice([draw.gauss(0, 1), draw.gauss(0, 0.2), 0, -0.0, 1e30, -1e30, 1e-30, float("inf"), float("nan"), 5, 1e308])  # noqa: E731  # fmt: skip
    one = lambda: draw.gauss(0, 0.6) if draw.random() < 0.9 else number()  # noqa: E731
    name = lambda: draw.choice([f"b/{draw.randrange(48)}"] * 12 + ["b/-1", "b/48", "b/1e3", "c/1", "vector/x", "b/" + "9" * 40, "", "b/１"])  # noqa: E731  # fmt: skip
    mode = lambda: draw.choice(["add"] * 6 + ["clamp", "scale", "ablate", "push"])  # noqa: E731
    n = draw.choice([0, 1, 1, 2, 3, 5, 8, 33])
    return {
        "features": [{"id": name(), "strength": one(), "mode": mode()} for _ in range(n)],
        "unit": draw.choice(["dose", "dose", "dose", "max", "raw"]),
        "scale": draw.choice([1.0, 1.0, 1.0, 0.5, number()]),
        "scope": draw.choice(["assistant", "all", "generated"]),
    }


@pytest.fixture(scope="module")
def limited(bundle_of_small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited")
    (folder / "policy.toml").write_text("[[limit]]\nfeature = 'small/1'\nhigh = 0.3\nroles = ['researcher']\n")
    settings = {"admin_key": ADMIN, "policy": folder / "policy.toml", "shares": True}
    with serving(bundle_of_small, folder / "data", **settings) as (address, app):
        about = {"headers": {"Authorization": f"Bearer {ADMIN}"}, "timeout": 30}
        secret = httpx.post(f"{address}/v1/keys", json={"name": "ada", "role": "researcher"}, **about).json()["secret"]
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"}) as http:
            yield http, app


@pytest.fixture(scope="module")
def bundle_of_small(tmp_path_factory):
    from tests.support import small_bundle

    return small_bundle.write_bundle(tmp_path_factory.mktemp("small"))


OVER = {"features": [{"id": "small/1", "strength": 0.5}]}
PRESET = {"id": "mine", "name": "Mine", "steering": OVER}
WAYS = {
    ("POST", "/v1/chat/completions"): HELLO | {"steering": OVER},
    ("POST", "/v1/completions"): {"model": "small", "prompt": "hello", "max_tokens": 2, "steering": OVER},
    ("POST", "/v1/steering/compare"): HELLO | {"variants": [{"name": "a", "steering": OVER}]},
    ("POST", "/v1/steering/validate"): {"model": "small", "steering": OVER},
    ("POST", "/v1/steering/sweep"): {"feature": "small/1", "strengths": [0.5], "prompts": ["hello"]},
    ("POST", "/v1/presets"): PRESET,
    ("PUT", "/v1/presets/{preset_id}"): PRESET,
    ("POST", "/v1/presets/import"): {"object": "preset.bundle", "version": 1, "model": "small", "presets": [PRESET]},
    ("POST", "/v1/import"): {"object": "export", "version": 1, "model": "small", "presets": [PRESET | {"model": "small"}]},
    ("POST", "/v1/shares"): {"model": "small", "steering": OVER},
}  # fmt: skip
HARMLESS = {"/v1/feedback"}
"""What takes a steering only to speak about it."""


def test_every_route_that_takes_a_steering_asks_the_policy(limited):
    http, app = limited
    takes = set()
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if reaches(app.openapi(), body, {"Intervention", "SteeringSpec", "SteeringRequest", "SweepConfig"}):
                takes.add((method.upper(), path))
    assert {(m, p) for m, p in takes if p not in HARMLESS} == {*WAYS}
    for (method, path), body in WAYS.items():
        answer = http.request(method, path.replace("{preset_id}", "mine"), json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "policy_refused"), (path, answer.text)
        assert answer.json()["error"]["rule"] == "limit"
    within = HELLO | {"steering": {"features": [{"id": "small/1", "strength": 0.2}]}}
    assert http.post("/v1/chat/completions", json=within).status_code == 200


def reaches(schema, part, names):
    seen, left = set(), [part]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            ref = item.get("$ref", "").rpartition("/")[2]
            if ref in names:
                return True
            if ref and ref not in seen:
                seen.add(ref)
                left.append(schema["components"]["schemas"][ref])
            left += item.values()
        elif isinstance(item, list):
            left += item
    return False


async def test_nothing_is_generated_that_was_not_decided_on(limited):
    tiller = limited[1].state.served_model
    choice = await tiller.choose(None, SteeringRequest.model_validate({"features": [{"id": "small/1", "strength": 0.2}]}))  # fmt: skip
    good = choice.generation_request(tiller.engine.encode_chat([{"role": "user", "content": "hello"}]), Sampling())
    stronger = await tiller.choose(None, SteeringRequest.model_validate({"features": [{"id": "small/1", "strength": 0.25}]}))  # fmt: skip
    alike = SimpleNamespace(**vars(good.authorization), covers=lambda _: True)
    for forged in (
        replace(good, authorization=None),
        replace(good, authorization=alike),
        replace(good, authorization=stronger.authorization),
        replace(good, fingerprint=stronger.resolved.fingerprint, edits=stronger.resolved.edits),
        replace(good, tenant="t/eve"),
        replace(good, revision="r2"),
    ):
        with pytest.raises(NotDecided):
            async for _ in tiller.admission.generate(forged):
                pass


async def test_only_the_policy_makes_an_authorization(limited):
    granted = (await limited[1].state.served_model.choose(None, None)).authorization
    with pytest.raises(TypeError, match="only authorize"):
        Authorization(granted.fingerprint, granted.revision, granted.tenant)
    with pytest.raises(TypeError, match="only authorize"):
        replace(granted, tenant="t/eve")
    with pytest.raises(AttributeError):
        granted.tenant = "t/eve"


def test_the_engine_is_reached_through_the_admission_only():
    found = []
    for path in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "generate" and "engines" not in path.parts:
                found.append((path.name, ast.unparse(node)))
    engines = {(n, c) for n, c in found if c.endswith("engine.generate")}
    assert engines == {("policy.py", "self.engine.generate")}


@pytest.mark.parametrize("scale", [8.299, 0.00641, 123.4, 8.0, 0.999, 1e-7])
def test_advice_is_never_above_what_is_allowed(scale):
    assert 0.9 * scale <= float(suggested_scale(scale)) <= scale
    assert suggested_scale(float("nan")) == "0"
