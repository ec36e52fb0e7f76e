"""`tiller sae …` on SAEs that lie here and on a hub that answers on loopback."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from server.cli import app
from steering.catalogue import Bundle
from tests import small


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small.write_bundle(tmp_path_factory.mktemp("bundles") / "small")


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
        ((tmp_path / "none", "--model", opened.model_path), "nothing at"),
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
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

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
