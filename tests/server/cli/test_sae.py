"""`tiller sae …` on local SAEs and on a fake hub on loopback."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import openai
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from server.cli.main import app
from server.jobs.tasks.sae_update import run
from server.sae.drift_watch import DriftWatch
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.errors import SteeringError
from tests.support import small_bundle
from tests.support.live_server import serving


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write_bundle(tmp_path_factory.mktemp("bundles") / "small")


def tiller(*words):
    return CliRunner().invoke(app, ["sae", *map(str, words)])


def sparsify(folder, sae, k=6):
    folder.mkdir(parents=True)
    tensors = {"encoder.weight": sae.W_enc.T, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    tensors["encoder.bias"] = sae.b_enc + sae.b_dec @ sae.W_enc
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": k, "d_in": sae.d_in}))
    return folder


def test_an_export_comes_back_as_it_was(bundle, tmp_path):
    opened = Bundle.open(bundle)
    assert tiller("export", tmp_path / "lens", "--bundle", bundle).exit_code == 0
    done = tiller("import", tmp_path / "lens", "--model", opened.model_path, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    again = Bundle.open(tmp_path / "again")
    assert again.info.hook == opened.info.hook
    torch.testing.assert_close(again.sae.W_enc, opened.sae.W_enc)
    assert "explained variance" in done.output


def test_a_topk_comes_in_with_a_threshold_that_keeps_k(bundle, tmp_path):
    opened = Bundle.open(bundle)
    place = sparsify(tmp_path / "layers.1", opened.sae)
    done = tiller("import", place, "--model", opened.model_path, "--out", tmp_path / "new")
    assert done.exit_code == 0, done.output
    made = Bundle.open(tmp_path / "new")
    assert made.info.metrics["l0"] == pytest.approx(6, abs=0.01)
    assert made.info.typical_norm > 0
    assert float(made.sae.threshold.min()) > 0


def test_what_is_missing_is_asked_for_and_nothing_is_left_behind(bundle, tmp_path):
    opened = Bundle.open(bundle)
    nameless = sparsify(tmp_path / "somewhere", opened.sae)
    for words, said in (
        ((nameless, "--model", opened.model_path), "add --hook layers."),
        ((nameless, "--model", tmp_path, "--hook", "layers.1"), "cannot be loaded"),
        ((tmp_path / "none", "--model", opened.model_path), "there is no file or folder"),
        ((nameless, "--model", opened.model_path, "--hook", "layers.77"), "layers.77"),
    ):
        done = tiller("import", *words, "--out", tmp_path / "new")
        assert done.exit_code == 1
        assert said in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    done = tiller("import", nameless, "--model", opened.model_path, "--out", tmp_path / "new")
    assert "give --out a new folder" in done.output


def test_an_sae_of_another_width_is_refused(bundle, tmp_path):
    narrow = {"W_E": torch.randn(8, 20), "b_E": torch.zeros(20), "W_D": torch.randn(20, 8), "b_D": torch.zeros(8)}
    save_file(narrow, tmp_path / "sae_weights.safetensors")
    model = Bundle.open(bundle).model_path
    done = tiller("import", tmp_path, "--model", model, "--hook", "layers.1", "--out", tmp_path / "new")
    assert f"reads a stream of width 8; that of '{model}' is 64" in done.output


def test_a_model_that_could_not_be_served_is_refused_at_import(bundle, tmp_path):
    opened = Bundle.open(bundle)
    tokenizer = AutoTokenizer.from_pretrained(opened.model_path)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=opened.sae.d_in, n_layer=2, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    place = sparsify(tmp_path / "layers.1", opened.sae)
    done = tiller("import", place, "--model", tmp_path / "bloom", "--out", tmp_path / "new")
    assert done.exit_code == 1
    assert "(BloomForCausalLM) cannot be served: it states no maximum length (max_position_embeddings)" in done.output
    assert not (tmp_path / "new").exists()


def test_eval_prints_measures_on_the_text_that_is_given(bundle, tmp_path):
    text = tmp_path / "chats.jsonl"
    rows = [{"text": "the bridge is red"}, {"messages": [{"role": "user", "content": "hello there"}]}]
    text.write_text("\n".join(map(json.dumps, rows)))
    done = tiller("eval", "--bundle", bundle, "--text", text)
    assert done.exit_code == 0, done.output
    assert "L0" in done.output
    text.write_text('{"words": 1}')
    assert "line 1 of chats.jsonl must be" in tiller("eval", "--bundle", bundle, "--text", text).output
    text.write_text("\n")
    assert "holds no text" in tiller("eval", "--bundle", bundle, "--text", text).output


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as its client asks for."""

    def __init__(self, root, *rest):
        self.root = root
        super().__init__(*rest)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path, files = self.path.split("?")[0], [p for p in self.root.rglob("*") if p.is_file()]
        names = [p.relative_to(self.root).as_posix() for p in files]
        commit, headers, status, content = "c" * 40, {}, 404, b"{}"
        if path.startswith("/api/models/lab/saes"):
            tree = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in names]
            about = {"id": "lab/saes", "sha": commit, "siblings": [{"rfilename": n} for n in names]}
            status, content = 200, json.dumps(tree if "/tree/" in path else about).encode()
            headers = {"Content-Type": "application/json"}
        elif path.startswith("/lab/saes/resolve/") and (name := path.split("/", 5)[5]) in names:
            status, content = 200, (self.root / name).read_bytes()
            headers = {"ETag": f'"{abs(hash(name)):x}"', "X-Repo-Commit": commit}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *rest):
        pass


@contextmanager
def hub(root):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_sae_is_fetched_from_a_hub_by_its_folder(bundle, tmp_path):
    opened = Bundle.open(bundle)
    root = tmp_path / "repository"
    sparsify(root / "layers.1", opened.sae)
    sparsify(root / "layers.2", opened.sae)
    with hub(root) as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        environment.pop("HF_HUB_OFFLINE", None)

        def fetch(name):
            words = ["sae", "import", name, "--model", opened.model_path, "--out", str(tmp_path / "made")]
            command = [sys.executable, "-m", "server", *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

        both = fetch("lab/saes")
        assert "holds 2 SAEs" in both.stderr, both.stderr
        assert "no weights at 'layers.9'" in fetch("lab/saes/layers.9").stderr
        assert "cannot fetch 'lab/none'" in fetch("lab/none").stderr
        done = fetch("lab/saes/layers.1")
    assert done.returncode == 0, done.stderr
    assert Bundle.open(tmp_path / "made").info.hook == "layers.1"
    assert not list((tmp_path / "cache").rglob("layers.2/*"))


def test_labels_go_out_and_come_in_with_the_sae(bundle, tmp_path):
    opened = Bundle.open(bundle)
    assert tiller("export", tmp_path / "lens", "--bundle", bundle, "--labels").exit_code == 0
    place = tmp_path / "lens"
    done = tiller("import", place, "--model", opened.model_path, "--out", tmp_path / "in", "--labels", place)
    assert done.exit_code == 0, done.output
    assert "3 features have a label" in done.output
    assert Bundle.open(tmp_path / "in").features[1].label == "bridges"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A small GPT-2 with a chat template, and an SAE in the layout of OpenAI's v5 under the publisher's path."""
    folder, tok = tmp_path_factory.mktemp("gpt2"), small_bundle.tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 4, "pad_token_id": 0}
    sizes = {"n_embd": small_bundle.WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tok), **sizes, **ends)).save_pretrained(folder / "model")
    tok.save_pretrained(folder / "model")
    sae, place = small_bundle.sae(), folder / "resid_post_mlp_v5_32k" / "autoencoders"
    weights = {"pre_bias": torch.randn(small_bundle.WIDTH) * 0.1, "latent_bias": torch.zeros(small_bundle.FEATURES)}
    weights |= {"encoder.weight": sae.W_enc.T.contiguous(), "decoder.weight": sae.W_dec.T * 0.8}
    weights |= {"activation": "TopK", "activation_state_dict": {"k": 6, "postact_fn": "ReLU"}}
    place.mkdir(parents=True)
    torch.save(weights, place / "1.pt")
    return folder / "model", place / "1.pt"


@pytest.fixture(scope="module")
def v5(gpt2, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "v5"
    done = tiller("import", gpt2[1], "--model", gpt2[0], "--out", out)
    assert done.exit_code == 0, done.output
    return out, done.output


def test_openais_v5_comes_in_and_steers_a_gpt2_that_is_served(v5, tmp_path):
    out, said = v5
    made = Bundle.open(out)
    assert (made.info.hook, made.sae.scaling) == ("layers.1", "spread")
    assert made.info.metrics["l0"] == pytest.approx(6, abs=0.01)
    assert "its spread" in said
    ask = {"model": "v5", "messages": [{"role": "user", "content": "hello there"}], "temperature": 0, "max_tokens": 12}
    with (
        serving(out, tmp_path / "data") as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client,
    ):

        def reply(mode=None, strength=0.0):
            features = [{"id": f"v5/{i}", "mode": mode, "strength": strength} for i in range(16)]
            steering = {"steering": {"features": features, "unit": "raw"}} if mode else {}
            return client.chat.completions.create(**ask, extra_body={"ignore_eos": True, **steering})

        texts = {}
        for mode, strength in ((None, 0), ("ablate", 0), ("add", 2), ("clamp", 2)):
            found = reply(mode, strength)
            texts[mode, strength] = found.choices[0].message.content
        applied = found.model_extra["steering"]["applied"][0]
        assert reply().choices[0].message.content == texts[None, 0]
    assert len(set(texts.values())) == 4
    assert (applied["mode"], applied["raw"]) == ("clamp", 2)


def test_a_scaled_sae_goes_out_and_comes_back_as_it_was(v5, gpt2, tmp_path):
    assert tiller("export", tmp_path / "lens", "--bundle", v5[0]).exit_code == 0
    assert json.loads((tmp_path / "lens" / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    done = tiller("import", tmp_path / "lens", "--model", gpt2[0], "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    before, after = Bundle.open(v5[0]), Bundle.open(tmp_path / "again")
    torch.testing.assert_close(after.sae.W_enc, before.sae.W_enc)
    torch.testing.assert_close(after.sae.threshold, before.sae.threshold)
    assert after.info.metrics["explained_variance"] == pytest.approx(
        before.info.metrics["explained_variance"], abs=1e-4
    )
    assert tiller("eval", "--bundle", v5[0]).exit_code == 0


def test_labels_of_a_scaled_sae_are_lengths_here_and_published_activations_there(v5, gpt2, tmp_path):
    folder = tmp_path / "labels"
    (folder / "features").mkdir(parents=True)
    (folder / "features" / "batch-0.jsonl").write_text('{"index": "3", "maxActApprox": 2.0, "frac_nonzero": 0.1}')
    done = tiller("import", gpt2[1], "--model", gpt2[0], "--out", tmp_path / "in", "--labels", folder)
    assert done.exit_code == 0, done.output
    made = Bundle.open(tmp_path / "in")
    scale = made.info.typical_norm / small_bundle.WIDTH**0.5
    assert made.features[3].typical_max == pytest.approx(2.0 * 0.8 * scale, rel=1e-4)
    assert tiller("export", tmp_path / "out", "--bundle", tmp_path / "in", "--labels").exit_code == 0
    words = ("--model", gpt2[0], "--out", tmp_path / "again", "--labels", tmp_path / "out")
    assert tiller("import", tmp_path / "out", *words).exit_code == 0
    assert Bundle.open(tmp_path / "again").features[3].typical_max == pytest.approx(2.0 * 0.8 * scale, rel=1e-4)


@pytest.fixture(scope="module")
def transcoder(bundle, tmp_path_factory):
    """A bundle of a transcoder, made by `import`, and what that printed."""
    place, out = tmp_path_factory.mktemp("lens"), tmp_path_factory.mktemp("bundles") / "trans"
    sae = small_bundle.sae()
    tensors = {"W_enc": sae.W_enc.contiguous(), "b_enc": sae.b_enc, "W_dec": 2 * sae.W_dec, "b_dec": sae.b_dec}
    save_file(tensors, place / "sae_weights.safetensors")
    about = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    (place / "cfg.json").write_text(json.dumps({"architecture": "transcoder", "metadata": about}))
    done = tiller("import", place, "--model", Bundle.open(bundle).model_path, "--out", out)
    assert done.exit_code == 0, done.output
    return out, done.output, place


def test_a_transcoder_comes_in_as_directions_and_no_figure_is_made_up(transcoder):
    out, said, _ = transcoder
    made = Bundle.open(out)
    assert (made.info.hook, made.info.metrics, made.sae.reads) == ("layers.1", {}, False)
    assert made.info.typical_norm > 0
    torch.testing.assert_close(made.sae.W_dec, small_bundle.sae().W_dec)
    assert "Directions only: features can be pushed along (mode 'add')" in said
    assert "explained variance 0" not in said
    assert "reads" not in said


def test_what_would_have_to_read_directions_says_that_it_cannot(transcoder, bundle, tmp_path):
    out, _, place = transcoder
    for words, said in (
        (("eval", "--bundle", out), "directions only"),
        (("eval", place, "--model", Bundle.open(bundle).model_path), "directions only"),
        (("export", tmp_path / "lens", "--bundle", out), "SAELens has no format"),
    ):
        done = tiller(*words)
        assert done.exit_code == 1
        assert said in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "lens").exists()


def test_directions_are_served_for_adding_and_refuse_the_rest_with_the_way_out(transcoder, tmp_path):
    ask = {
        "model": "trans",
        "messages": [{"role": "user", "content": "hello there"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    with (
        serving(transcoder[0], tmp_path / "data") as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
    ):

        def reply(mode, strength):
            steering = {"features": [{"id": "trans/3", "mode": mode, "strength": strength}]}
            return client.chat.completions.create(**ask, extra_body={"ignore_eos": True, "steering": steering})

        assert client.models.retrieve("trans").model_extra["steering"]["modes"] == ["add"]
        assert reply("add", 1.5).choices[0].message.content != reply("add", 0).choices[0].message.content
        for mode in ("clamp", "ablate", "scale"):
            with pytest.raises(openai.BadRequestError, match=r"directions only.*use the mode 'add'"):
                reply(mode, 2.0)


def test_neither_is_trained_on(v5, transcoder, gpt2, bundle, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the bridge is red and long, hello there\n" * 200)
    for place, model, said in (
        (gpt2[1], gpt2[0], "divides each token by its own spread"),
        (transcoder[2], Bundle.open(bundle).model_path, "directions only"),
    ):
        words = (
            "--model",
            model,
            "--hook",
            "layers.1",
            "--text",
            text,
            "--rows",
            64,
            "--features",
            small_bundle.FEATURES,
        )
        done = tiller("train", "--out", tmp_path / f"on-{place.stem}", "--start", place, *words)
        assert done.exit_code == 1
        assert said in done.output, done.output
    for out, said in ((v5[0], "divides each token"), (transcoder[0], "directions only")):
        settings = Settings(bundle=out, data_dir=tmp_path / out.name)
        work = SimpleNamespace(
            id="1", config={"text": [str(text)]}, settings=settings, folder=tmp_path / out.name / "job"
        )
        work.folder.mkdir(parents=True)
        with pytest.raises(SteeringError, match=said):
            run(work)
        assert DriftWatch(settings, lambda *_: pytest.fail("no update may be asked for")).check() == []


def test_the_embedded_bundle_is_found_from_wherever_a_command_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiller("export", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "sae_weights.safetensors").exists()
