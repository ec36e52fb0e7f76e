"""Fuzzing of all file readers: a file is read or refused by an error class of ours, without other exceptions or
timeouts.
"""

import gzip
import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from server.auth.audit_log import AuditLog, BrokenAuditLog
from server.jobs.queue import JobQueue
from server.sae.corpus import read_texts
from server.safety.policy import BadPolicy, Policy
from server.settings import BadSettings, Settings, _from_file, load_settings
from server.store import backup
from server.store.base import BadStore
from server.store.models import Record
from steering import formats
from steering.catalogue import neuronpedia
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import BadBundle, SteeringError
from steering.safety.probe import Card, Probe
from steering.spec import Preset, SteeringSpec
from tests.fuzz.mutations import as_json, broken, changed, in_time, seeds

D, M = 6, 10
OURS = (SteeringError, ValidationError, BadStore)


def spoilt(content: bytes, draw) -> bytes:
    """A file otherwise: its JSON, where it is some and the whole of it, or its bytes."""
    if draw.random() < 0.6:
        try:
            lines = content.decode().splitlines()
            one = draw.randrange(len(lines))
            whole = json.loads(content) if len(lines) == 1 else None
            if whole is not None:
                return as_json(changed(whole, draw)).encode("utf-8", "surrogatepass")
            lines[one] = as_json(changed(json.loads(lines[one]), draw))
            return "\n".join(lines).encode("utf-8", "surrogatepass")
        except (ValueError, IndexError):
            pass
    return broken(content, draw)


def read_or_refused(what, reader, *errors):
    """Whether it was read."""
    with in_time(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy on what overflows
        try:
            reader()
        except errors as error:
            assert str(error).strip(), what
            return False
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__} is not ours: {str(error)[:500]}") from error
    return True


def parts():
    g = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (D, M), "b_enc": (M,), "W_dec": (M, D), "b_dec": (D,)}
    return {n: torch.randn(*s, generator=g) for n, s in shapes.items()} | {"threshold": torch.full((M,), 0.3)}


P = parts()
FOUR = {n: P[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
LINEAR = {"encoder.weight": P["W_enc"].T.contiguous(), "encoder.bias": P["b_enc"]}
LENS = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post"}
HYPER = {"jump_relu_threshold": 0.7, "dataset_average_activation_norm": {"in": 3.0, "out": 3.0}}
SCOPE = {"W_E": P["W_enc"], "b_E": P["b_enc"], "W_D": P["W_dec"], "b_D": P["b_dec"]}
SCOPE |= {"activation_function.log_jumprelu_threshold": P["threshold"].log()}
SCOPE |= {"dataset_average_activation_norm.blocks.9.hook_resid_post": torch.tensor(3.0)}
GATED = {n: P[n] for n in ("W_enc", "W_dec", "b_dec")} | dict.fromkeys(("b_gate", "b_mag", "r_mag"), P["b_enc"])


def lens(kind, tensors, **config):
    config = {"architecture": kind, "normalize_activations": "none", "metadata": LENS, **config}
    return {"sae_weights.safetensors": tensors, "cfg.json": config}


FORMATS = {
    "saelens-jumprelu": lens("jumprelu", FOUR | {"threshold": P["threshold"]}),
    "saelens-topk": lens("topk", FOUR, k=3),
    "saelens-batchtopk": lens("batchtopk", FOUR | {"topk_threshold": torch.tensor(0.6)})
    | {"activation_scaler.json": {"scaling_factor": 1.7}},
    "saelens-gated": lens("gated", GATED),
    "layer_20/gemma-scope-1": {"params.npz": FOUR | {"threshold": P["threshold"]}},
    "layer_12_width_16k/gemma-scope-2": {
        "params.safetensors": {n.lower(): t for n, t in FOUR.items()} | {"threshold": P["threshold"]}
    },
    "dictionary-learning": {
        "ae.pt": FOUR | {"threshold": P["threshold"]},
        "config.json": {"trainer": {"dict_class": "JumpReluAutoEncoder", "layer": 8}},
    },
    "dictionary-learning-batchtopk": {
        "ae.pt": LINEAR
        | {"decoder.weight": P["W_dec"].T.contiguous(), "b_dec": P["b_dec"]}
        | {"k": torch.tensor(3), "threshold": torch.tensor(0.5)},
        "config.json": {"trainer": {"dict_class": "BatchTopKSAE", "layer": 8}},
    },
    "layers.10": {
        "sae.safetensors": LINEAR | {"W_dec": P["W_dec"], "b_dec": P["b_dec"]},
        "cfg.json": {"activation": "topk", "k": 4, "d_in": D, "num_latents": M},
    },
    "openai/6.pt": {
        "6.pt": {"encoder.weight": LINEAR["encoder.weight"], "decoder.weight": P["W_dec"].T.contiguous()}
        | {"pre_bias": P["b_dec"], "latent_bias": P["b_enc"], "activation": "ReLU"},
    },
    "goodfire/x-l19.pth": {
        "x-l19.pth": {"encoder_linear.weight": P["W_enc"].T.contiguous(), "encoder_linear.bias": P["b_enc"]}
        | {"decoder_linear.weight": P["W_dec"].T.contiguous(), "decoder_linear.bias": P["b_dec"]},
    },
    "Llama3_1-8B-Base-L15R-8x": {
        "checkpoints/final.safetensors": LINEAR
        | {"decoder.weight": P["W_dec"].T.contiguous(), "decoder.bias": P["b_dec"]},
        "hyperparams.json": HYPER | {"hook_point_in": "blocks.15.hook_resid_post"},
    },
    "llamascopium": {
        "sae_weights.safetensors": SCOPE,
        "config.json": {
            "act_fn": "jumprelu",
            "norm_activation": "dataset-wise",
            "hook_point_in": "blocks.9.hook_resid_post",
        },
    },
}


def written(folder: Path, files) -> Path:
    """Write a layout; the place to read it from."""
    for name, held in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            path.write_text(as_json(held), encoding="utf-8", errors="surrogatepass")
        elif name.endswith(".npz"):
            np.savez(path, **{n: t.numpy() for n, t in held.items()})
        elif name.endswith(".safetensors"):
            save_file({n: t.clone().contiguous() for n, t in held.items() if isinstance(t, torch.Tensor)}, path)
        else:
            torch.save(held, path)
    (only,) = [folder / n for n in files] if len(files) == 1 else [folder]
    return only if only.suffix in (".pt", ".pth") else folder


def reshaped(tensors, draw):
    """Other shapes, kinds and values of one tensor, one more, or one less."""
    found = {n: t.clone() if isinstance(t, torch.Tensor) else t for n, t in tensors.items()}
    name = draw.choice([*found])
    old = found[name] if isinstance(found[name], torch.Tensor) else torch.zeros(1)
    other = [
        old.T if old.ndim == 2 else old[None],
        old.flatten(),
        old[..., :-1] if old.ndim else old,
        old.double() * math.nan,
    ]
    other += [
        old.bool(),
        old.to(torch.int64),
        torch.zeros(0),
        torch.zeros(0, 0),
        old * 1e38 * 1e10,
        old.half(),
        torch.tensor(1.0),
    ]
    other += [torch.zeros(M, D, 2), old * 0]
    match draw.randrange(4):
        case 0:
            del found[name]
        case 1:
            found[f"{name}.extra"] = old.clone()
        case _:
            found[name] = draw.choice(other).clone()
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_an_sae_of_any_layout_is_read_or_refused(tmp_path, name):
    kept = 0
    for n, draw in seeds(name):
        files, place = dict(FORMATS[name]), tmp_path / str(n) / name.partition(".p")[0]
        victim = draw.choice([*files])
        how = draw.randrange(3) if n else 3
        if how == 0 and victim.endswith(".json"):
            files[victim] = changed(files[victim], draw)
        elif how == 1 and not victim.endswith(".json"):
            files[victim] = reshaped(files[victim], draw)
        found = written(place, files)
        if how == 2:
            (place / victim).write_bytes(broken((place / victim).read_bytes(), draw))
        kept += read_or_refused((name, n, victim), lambda found=found: formats.read_sae(found, k=3).sae, SteeringError)
        shutil.rmtree(tmp_path / str(n))
    assert kept > 0  # the valid one


@pytest.mark.parametrize("name", ["bundle.json", "presets.json", "revisions/r1/features.jsonl", "revisions/r1/cfg.json",
                                  "revisions/r1/sae_weights.safetensors"])  # fmt: skip
def test_a_bundle_is_read_or_refused(bundle, tmp_path, name):
    mine = tmp_path / "small"
    shutil.copytree(bundle, mine, ignore=shutil.ignore_patterns("model"))
    (mine / "model").mkdir()
    whole = (mine / name).read_bytes()
    assert read_or_refused(name, lambda: Bundle.open(mine), BadBundle)
    for n, draw in seeds(name):
        (mine / name).write_bytes(spoilt(whole, draw))
        read_or_refused((name, n, (mine / name).read_bytes()[:1500]), lambda: Bundle.open(mine), SteeringError)


NEURONPEDIA = {
    "features": {"index": "1", "maxActApprox": 3.5, "frac_nonzero": 0.1, "pos_str": ["a"], "pos_values": [1.0]},
    "explanations": {"index": "1", "description": "bridges", "explanationModelName": "m", "typeName": "t"},
    "activations": {"index": "1", "tokens": ["a", "Ġb"], "values": [0.0, 2.0], "maxValue": 2.0},
}


@pytest.mark.parametrize("kind", NEURONPEDIA)
def test_an_export_of_neuronpedia_is_read_or_refused(tmp_path, kind):
    features = [Feature(id=f"b/{i}", index=i, row=i) for i in range(4)]
    folder = tmp_path / kind
    folder.mkdir()
    for n, draw in seeds(kind):
        rows = "\n".join(
            [as_json(NEURONPEDIA[kind]), as_json(changed(NEURONPEDIA[kind], draw) if n else NEURONPEDIA[kind])]
        )
        data = gzip.compress(rows.encode("utf-8", "surrogatepass"))
        (folder / "batch-0.jsonl.gz").write_bytes(broken(data, draw) if n % 4 == 3 else data)
        done = read_or_refused((n, rows), lambda: neuronpedia.read_export(tmp_path, features, [1.0] * 4), SteeringError)
        assert done or n


TEXTS = {
    "a.txt": b"one\ntwo \xc3\xbc\n",
    "a.jsonl": b'{"text": "one"}\n{"messages": [{"role": "user", "content": "two"}]}\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_of_text_is_read_or_refused(tmp_path, name):
    for n, draw in seeds(name):
        (tmp_path / name).write_bytes(spoilt(TEXTS[name], draw) if n else TEXTS[name])
        content = (tmp_path / name).read_bytes()
        assert read_or_refused((n, content), lambda: list(read_texts(tmp_path / name)), SteeringError) or n


@pytest.mark.parametrize("depth", [200_000])
def test_what_is_nested_too_deep_is_refused(bundle, tmp_path, depth):
    deep = "[" * depth
    (tmp_path / "a.jsonl").write_text(f'{{"text": {deep}\n')
    assert not read_or_refused("text", lambda: list(read_texts(tmp_path / "a.jsonl")), SteeringError)
    assert not read_or_refused("backup", lambda: backup.read(deep), *OURS)
    (tmp_path / "explanations").mkdir()
    (tmp_path / "explanations/batch-0.jsonl").write_text(f'{{"index": {deep}')
    assert not read_or_refused("labels", lambda: neuronpedia.read_export(tmp_path, [], []), SteeringError)
    mine = tmp_path / "small"
    shutil.copytree(bundle, mine, ignore=shutil.ignore_patterns("model"))
    for name in ("presets.json", "revisions/r1/cfg.json", "bundle.json"):
        whole = (mine / name).read_bytes()
        (mine / name).write_text(deep)
        assert not read_or_refused(name, lambda: Bundle.open(mine), SteeringError)
        (mine / name).write_bytes(whole)
    place = written(tmp_path / "lens", FORMATS["saelens-topk"])
    (place / "cfg.json").write_text(deep)
    assert not read_or_refused("cfg", lambda: formats.read_sae(place), SteeringError)
    (tmp_path / "t.toml").write_text(f"port = {deep}")
    assert not read_or_refused("toml", lambda: load_settings(config=tmp_path / "t.toml"), BadSettings)
    assert not read_or_refused("policy", lambda: Policy.load(tmp_path / "t.toml"), BadPolicy)
    (tmp_path / "audit.jsonl").write_text(f'{{"n": {deep}\n')
    assert not read_or_refused("audit", lambda: AuditLog(tmp_path).verify(), BrokenAuditLog)
    (tmp_path / "probe.json").write_text(deep)
    (tmp_path / "probe.safetensors").write_bytes(b"")
    assert not read_or_refused("probe", lambda: Probe.load(tmp_path), BadBundle)


TOML = b"""host = "0.0.0.0"
port = 8000
max_push = 2.5
browser = false
corpus = ["a.jsonl", "b.txt"]
engine = "transformers"
label_key = "k"
"""


def test_a_toml_file_is_read_or_refused(tmp_path):
    file = tmp_path / "tiller.toml"
    for n, draw in seeds("toml"):
        file.write_bytes(broken(TOML, draw) if n else TOML)
        assert read_or_refused((n, file.read_bytes()), lambda: load_settings(config=file), BadSettings) or n
        read_or_refused((n, file.read_bytes()), lambda: _from_file(file), BadSettings)


POLICY = b"""[roles.user]
steers = "any"
features = 4
push = 1.5

[[limit]]
feature = "small/1"
low = -0.5
high = 0.8
"""


def test_a_policy_is_read_or_refused(tmp_path):
    file = tmp_path / "policy.toml"
    for n, draw in seeds("policy"):
        file.write_bytes(broken(POLICY, draw) if n else POLICY)
        assert read_or_refused((n, file.read_bytes()), lambda: Policy.load(file), BadPolicy) or n


CARD = {"hook": "layers.0", "model": "small", "threshold": 0.5, "pace": 0.2, "allowed": 0.01, "false_positives": 0.0}
CARD |= {"found": 1.0, "auroc": {"value": 0.9, "low": 0.8, "high": 1.0}}
CARD |= dict.fromkeys(("forbidden", "benign", "held_out_forbidden", "held_out_benign"), 9)


def test_a_probe_is_read_or_refused(tmp_path):
    row = torch.linspace(-1, 1, D)
    Probe(Card.model_validate(CARD), row, torch.tensor(0.1), 2 * row, row.abs() + 1, 3 * row).save(tmp_path / "valid")
    names = [p.name for p in (tmp_path / "valid").iterdir()]
    for name in names:
        for n, draw in seeds(f"probe {name}"):
            shutil.rmtree(tmp_path / "probe", ignore_errors=True)
            shutil.copytree(tmp_path / "valid", tmp_path / "probe")
            file = tmp_path / "probe" / name
            file.write_bytes(spoilt(file.read_bytes(), draw) if n else file.read_bytes())
            assert read_or_refused((n, name, file.read_bytes()), lambda: Probe.load(tmp_path / "probe"), BadBundle) or n


def test_an_audit_log_holds_or_is_said_to_be_broken(tmp_path):
    log = AuditLog(tmp_path)
    head = [log.append({"at": n, "act": "steered"}) for n in range(5)][-1]
    whole = log.file.read_bytes()
    for n, draw in seeds("audit"):
        log.file.write_bytes(spoilt(whole, draw) if n else whole)
        holds = read_or_refused((n, log.file.read_bytes()), lambda: log.verify(head), BrokenAuditLog)
        kept = log.file.read_bytes().rpartition(b"\n")[0]  # what comes after it, a writer who was killed has left
        assert holds == (kept == whole.rstrip())
        read_or_refused((n, log.file.read_bytes()), lambda: list(log.lines()), BrokenAuditLog)


def test_a_settings_value_of_any_kind_is_taken_or_refused():
    valid = {"port": 8000, "max_push": 2.5, "browser": False, "corpus": ["a"], "engine": "vllm", "data_dir": "/tmp/x"}
    assert read_or_refused("valid", lambda: load_settings(**valid), BadSettings)
    for n, draw in seeds("settings"):
        given = changed(valid, draw)
        if isinstance(given, dict):
            known = {k: v for k, v in given.items() if k in Settings.model_fields}
            read_or_refused((n, known), lambda known=known: load_settings(**known), BadSettings)


ORDERS = {
    "sae_update": {
        "text": ["a.jsonl"],
        "live": True,
        "steps": 100,
        "append": 8,
        "users": 20,
        "seed": 0,
        "publish": True,
    },
    "sweep": {"feature": "small/1", "strengths": [0, 0.5], "prompts": ["hello"]},
    "calibrate": {"features": ["small/1"], "presets": True, "all": False, "prompts": 8},
    "describe": {},
    "label": {},
    "map": {},
    "sae_train": {"steps": 100},
}


@pytest.mark.parametrize("kind", ORDERS)
def test_a_job_of_any_kind_is_queued_or_refused(tmp_path, kind):
    jobs = JobQueue(Settings(data_dir=tmp_path))
    valid = ORDERS[kind] | ({"out": "out", "model": "m", "hook": "layers.1"} if kind == "sae_train" else {})
    assert read_or_refused("valid", lambda: jobs.submit(kind, valid), SteeringError)
    for n, draw in seeds(kind):
        config = changed(ORDERS[kind] or {"seed": 1}, draw)
        if isinstance(config, dict):
            read_or_refused((n, config), lambda config=config: jobs.submit(kind, config), SteeringError)


SPEC = {"features": [{"id": "small/1", "strength": 0.5, "mode": "clamp"}, {"id": "small/2", "strength": 1}]}
SPEC |= {"unit": "dose", "scope": "assistant"}
PRESET = {"id": "mine", "name": "Mine", "steering": SPEC, "system_prompt": "Be calm.", "sampling": {"temperature": 0.5}}


@pytest.mark.parametrize(("kind", "valid"), [(SteeringSpec, SPEC), (Preset, PRESET)])
def test_a_value_is_made_or_refused_and_its_canonical_form_is_its_own(kind, valid):
    kind.model_validate(valid)
    for n, draw in seeds(kind.__name__):
        for text in (False, True):
            given = changed(valid, draw)

            def make(given=given, text=text):
                found = kind.model_validate_json(as_json(given)) if text else kind.model_validate(given)
                spec = found if isinstance(found, SteeringSpec) else found.steering
                assert spec.canonical().canonical() == spec.canonical()
                assert spec.canonical().fingerprint == spec.fingerprint
                assert kind.model_validate_json(found.model_dump_json()) == found

            read_or_refused((n, given), make, ValidationError, SteeringError)


def test_a_backup_is_read_or_refused():
    whole = "\n".join(backup.lines([Record("setting", {"name": "x", "value": "y"})])).encode()
    assert read_or_refused("valid", lambda: backup.read(whole.decode()), BadStore)
    for n, draw in seeds("backup"):
        content = spoilt(whole, draw).decode("utf-8", "replace")
        read_or_refused((n, content), lambda content=content: backup.read(content), BadStore)
