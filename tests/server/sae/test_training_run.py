"""`tiller sae train`: from text to a bundle that can be served, also after `kill -9` and on several processes."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from server.cli.main import app
from steering.catalogue.bundle import Bundle
from steering.sae import SAE
from tests.support import small_bundle
from tests.support.paths import ROOT
from tests.support.waiting import LIMIT, until

# As `--standalone`, but never by this machine's own name, which need not resolve.
ALONE_HERE = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
SAID = "the bridge is red and long what should I do this weekend hello there how are you today sea stars coffee"
WORDS = SAID.split()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Chats and prose that nobody wrote."""
    draw, folder = random.Random(3), tmp_path_factory.mktemp("text")
    say = lambda n: " ".join(draw.choices(WORDS, k=n))  # noqa: E731
    prose = folder / "prose.txt"
    prose.write_text("\n".join(say(30) for _ in range(500)) + "\n")
    chats = folder / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": say(9)}, {"role": "assistant", "content": say(15)}]}
        for _ in range(600)
    ]
    chats.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return prose, chats


def words(bundle, text, out, *more):
    given = [
        "sae",
        "train",
        "--bundle",
        bundle,
        "--out",
        out,
        "--features",
        128,
        "--k",
        8,
        "--rows",
        256,
        "--buffer",
        2000,
    ]
    for file in text:
        given += ["--text", file]
    return [str(w) for w in (*given, "--checkpoint", 50, "--passes", 2, *more)]


@pytest.fixture(scope="module")
def trained(bundle, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "mine"
    done = CliRunner().invoke(app, words(bundle, text, out))
    assert done.exit_code == 0, done.output
    return out, done.output


def test_what_was_trained_is_a_bundle_that_explains_the_stream(trained):
    made = Bundle.open(trained[0])
    assert made.info.metrics["explained_variance"] > 0.5
    assert made.info.metrics["l0"] == pytest.approx(8, rel=0.1)
    assert made.info.hook == "layers.1"
    assert sum(f.density > 0 for f in made.features) > 100
    assert "never fired" in trained[1]


def test_metrics_and_a_plot_lie_beside_it(trained):
    run = trained[0].with_name("mine.run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(50, 50 * len(rows) + 1, 50))
    assert rows[-1]["explained_variance"] > rows[0]["explained_variance"]
    assert {"loss", "l0", "dead", "tokens", "tokens_per_s"} <= rows[0].keys()
    with Image.open(run / "plot.png") as plot:
        assert plot.size[0] > 500


def test_killed_and_begun_again_it_makes_the_very_same_sae(bundle, text, trained, tmp_path):
    out = tmp_path / "mine"
    process = subprocess.Popen([sys.executable, "-m", "server", *words(bundle, text, out)], stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "mine.run" / "checkpoint.pt"
    try:
        until(lambda: checkpoint.exists() or process.poll() is not None)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(LIMIT)
    assert not out.exists()
    done = CliRunner().invoke(app, words(bundle, text, out))
    assert done.exit_code == 0, done.output
    assert "resuming from step" in done.output
    whole, resumed = (SAE.load(folder / "revisions" / "r1") for folder in (trained[0], out))
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        assert getattr(whole, name).equal(getattr(resumed, name)), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "mine.run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_run_that_was_begun_otherwise_is_not_gone_on_with(bundle, text, trained, tmp_path):
    (tmp_path / "mine.run").mkdir()
    (tmp_path / "mine.run" / "order.json").write_text((trained[0].with_name("mine.run") / "order.json").read_text())
    done = CliRunner().invoke(app, words(bundle, text, tmp_path / "mine", "--seed", 3))
    assert done.exit_code == 1
    assert "seed was 0 and is 3" in done.output


def test_an_sae_can_be_trained_on(bundle, text, trained, tmp_path):
    done = CliRunner().invoke(
        app, words(bundle, text, tmp_path / "more", "--start", trained[0] / "revisions" / "r1", "--lr", 1e-4)
    )
    assert done.exit_code == 0, done.output
    before, after = (Bundle.open(folder) for folder in (trained[0], tmp_path / "more"))
    cosine = (before.sae.W_dec * after.sae.W_dec).sum(1)
    assert cosine.median() > 0.95
    assert after.info.metrics["explained_variance"] >= before.info.metrics["explained_variance"] - 0.01


def test_a_dataset_is_read_as_it_streams(bundle, text, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [json.loads(line) for line in text[1].read_text().splitlines()]
    (tmp_path / "data" / "train.jsonl").write_text(
        "".join(json.dumps({"messages": r["messages"]}) + "\n" for r in rows)
    )
    given = words(bundle, [], tmp_path / "mine", "--dataset", tmp_path / "data", "--tokens", 12_000)
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    other = CliRunner().invoke(
        app, words(bundle, [], tmp_path / "no", "--dataset", tmp_path / "data", "--column", "body")
    )
    assert other.exit_code == 1
    assert "no column body" in other.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--objective", "magic"], "unknown objective 'magic'; choose one of batchtopk"),
        (["--checkpoint", 70], "must be a multiple of 50"),
        (["--rows", 10_000_000], "too few for a batch"),
        (["--text", "/nowhere.txt"], "nowhere.txt"),
        (["--device", "cuda:7"], "no device 'cuda:7'"),
        (["--hook", "layers.99"], "no hook point 'layers.99'"),
        (["--model", "/nowhere", "--hook", "layers.1"], "cannot be loaded"),
    ],
)
def test_what_cannot_be_is_said(bundle, text, tmp_path, more, said):
    done = CliRunner().invoke(app, words(bundle, text, tmp_path / "mine", *more))
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.output.split())


def test_bytes_that_are_no_text_are_named(bundle, tmp_path):
    (tmp_path / "noise.txt").write_bytes(b"fine line here\n\xff\xfe\x00 not\n")
    done = CliRunner().invoke(app, words(bundle, [tmp_path / "noise.txt"], tmp_path / "mine"))
    assert done.exit_code == 1
    assert "line 2 of noise.txt" in " ".join(done.output.split())


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    """The same loss curve, step for step, and the same SAE."""
    script = ROOT / "tests/support/two_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", *ALONE_HERE, "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["GLOO_SOCKET_IFNAME"] = "lo"  # a machine's own name need not resolve
    done = subprocess.run(
        [*command, str(tmp_path / "two.pt")], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, str(script), str(tmp_path / "one.pt")], check=True, timeout=600, env=environment)
    two, one = (torch.load(tmp_path / name, weights_only=True) for name in ("two.pt", "one.pt"))
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0] / 2
    cosine = (two["W_dec"] * one["W_dec"]).sum(1)
    assert cosine.min() > 0.999
