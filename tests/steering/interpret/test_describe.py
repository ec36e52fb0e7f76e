"""Feature descriptions: the one-pass results equal those of a slow reference with all activations in memory."""

import copy
import math
import resource
import time
from dataclasses import replace

import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.errors import SteeringError
from steering.interpret import top_activations as seeing
from steering.interpret.describe import describe, kinds, with_measurements
from steering.interpret.logit_lens import FACTOR, NEUTRAL, logit_lens, output_scores
from steering.interpret.top_activations import AFTER, BEFORE, BINS, LEVELS, LeftOut, collect_top_activations
from steering.model.activations import padded_batches
from steering.model.hooks import read_stream
from steering.sae import SAE
from tests.steering.conftest import random_sae
from tests.support import small_bundle

HOOK = "layers.1"
LINES = ["the bridge is red and long", "what should I do this weekend", "hello there, how are you"]


@pytest.fixture(scope="module")
def model():
    return small_bundle.model(len(small_bundle.tokenizer()))


@pytest.fixture(scope="module")
def sae():
    found = small_bundle.sae()
    return replace(found, threshold=torch.linspace(0.1, 3.0, small_bundle.FEATURES))


def texts(n: int, seed: int = 0) -> list[list[int]]:
    """Texts of few beginnings, so that many places are the same."""
    g, tok = torch.Generator().manual_seed(seed), small_bundle.tokenizer()
    pick = lambda most: int(torch.randint(0, most, (1,), generator=g))  # noqa: E731
    words = " ".join(LINES).split()
    found = []
    for _ in range(n):
        tail = " ".join(words[pick(len(words))] for _ in range(pick(8)))
        found.append([0, *tok(f"{LINES[pick(3)]} {tail}", add_special_tokens=False)["input_ids"]])
    return found


def batches(n: int = 90, batch: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(padded_batches(texts(n), batch=batch, longest=40, pad=0))


class Slow:
    """All activations of all texts, kept, and looked at afterwards."""

    def __init__(self, model, sae, some):
        self.places, self.tokens = [[] for _ in range(sae.d_sae)], 0
        self.fired = torch.zeros(sae.d_sae, dtype=torch.long)
        text = 0
        for ids, real in some:
            a = sae.encode(read_stream(model, ids, HOOK, attention_mask=real.long()))
            marks = seeing._marks(ids)
            for row in range(len(ids)):
                length = int(real[row].sum())
                self.tokens += length - 1
                for t in range(1, length):
                    self.fired += a[row, t] > 0
                    for f in (a[row, t] > 0).nonzero()[:, 0].tolist():
                        window = [int(ids[row, i]) if 0 <= i < length else -1 for i in range(t - BEFORE, t + AFTER)]
                        place = (float(a[row, t, f]), text, t, int(marks[row, t]), tuple(ids[row, : t + 1].tolist()))
                        self.places[f].append((*place, window))
                text += 1

    def top(self, f, most):
        peaks = {}
        for place in self.places[f]:
            if place[1] not in peaks or place[0] > peaks[place[1]][0]:
                peaks[place[1]] = place
        found, begun = [], set()
        for place in sorted(peaks.values(), key=lambda p: (-p[0], p[1])):
            if place[4] not in begun:
                begun.add(place[4])
                found.append(place)
        return found[:most]

    def limit(self, f):
        return 2.0 ** math.frexp(max(p[0] for p in self.places[f]))[1]

    def counts(self, f):
        bins = [0] * BINS
        for place in self.places[f]:
            bins[int(place[0] / self.limit(f) * BINS)] += 1
        return bins

    def sampled(self, f, level, most):
        held = {}
        for place in self.places[f]:
            if int(place[0] / self.limit(f) * LEVELS) == level:
                key = int(seeing._mixed(torch.tensor(place[3]), torch.tensor(f + 1)))
                held.setdefault(key, place)
        return [held[k] for k in sorted(held)[:most]]


@pytest.mark.parametrize("cells", [1 << 24, 1])
def test_one_pass_sees_what_a_slow_look_at_everything_sees(model, sae, cells, monkeypatch):
    monkeypatch.setattr(seeing, "CELLS", cells)  # all features at a time, or 64
    wide = SAE(*(torch.cat([getattr(sae, k)] * 2, 1 if k == "W_enc" else 0) if k != "b_dec" else sae.b_dec
                 for k in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")))  # fmt: skip
    some = batches()
    seen, slow = collect_top_activations(model, wide, HOOK, some, top=4, samples=3), Slow(model, wide, some)
    assert seen.tokens == slow.tokens
    assert seen.fired.equal(slow.fired)
    assert int((seen.fired > 0).sum()) > 60
    for f in range(wide.d_sae):
        if not slow.places[f]:
            assert not seen.levels.counts[f].any()
            continue
        best = slow.top(f, 4)
        assert float(seen.maximum[f]) == best[0][0]
        assert [v for v in seen.top.values[f].tolist() if v] == [p[0] for p in best]
        assert seen.top.windows.ids[f, : len(best)].tolist() == [p[5] for p in best]
        assert seen.levels.counts[f].tolist() == slow.counts(f)
        assert float(seen.levels.range[f]) == slow.limit(f)
        for level in range(LEVELS):
            chosen = slow.sampled(f, level, 3)
            there = seen.levels.keys[f, level * 3 : level * 3 + 3] < seeing.LAST
            windows = seen.levels.windows.ids[f, level * 3 : level * 3 + 3][there]
            assert windows.tolist() == [p[5] for p in chosen]
            at = seen.levels.windows.activations[f, level * 3 : level * 3 + 3, BEFORE][there]
            assert at.tolist() == [p[0] for p in chosen]


def test_what_is_sampled_depends_on_no_batch_and_no_order(model, sae):
    one = collect_top_activations(model, sae, HOOK, batches(batch=8))
    other = collect_top_activations(model, sae, HOOK, [(i, r) for i, r in reversed(batches(batch=8))])
    assert one.levels.keys.equal(other.levels.keys)
    assert one.levels.windows.marks.equal(other.levels.windows.marks)
    assert one.levels.counts.equal(other.levels.counts)
    assert one.anywhere.keys.sort().values.equal(other.anywhere.keys.sort().values)
    assert not collect_top_activations(model, sae, HOOK, batches(), seed=1).levels.keys.equal(one.levels.keys)


def test_windows_from_anywhere_know_what_fires_in_them(model, sae):
    some = batches()
    seen = collect_top_activations(model, sae, HOOK, some, anywhere=16)
    assert seen.anywhere.filled.all()
    all_of = {tuple(p[5]): 0.0 for f in Slow(model, sae, some).places for p in f}
    held = [tuple(w) for w in seen.anywhere.ids.tolist()]
    assert len(set(held)) > 8
    assert len(all_of.keys() & set(held)) > 8
    for ids, peaks in zip(seen.anywhere.ids, seen.anywhere.peaks, strict=True):
        real = ids[ids >= 0].long()
        if real[0] == 0:  # a window that begins with its text can be read by itself
            a = sae.encode(read_stream(model, real[None], HOOK))[0, 1:].amax(0)
            torch.testing.assert_close(peaks, a, atol=1e-4, rtol=1e-4)


def test_memory_is_bounded_by_the_features_and_not_by_the_text(model, sae):
    def size(n):
        seen = collect_top_activations(model, sae, HOOK, batches(n), top=4)
        held = [seen.top.values, seen.top.windows.ids, seen.top.windows.activations, seen.levels.counts]
        held += [seen.levels.windows.ids, seen.anywhere.peaks, seen.anywhere.ids, seen.levels.keys]
        return sum(t.numel() for t in held)

    assert size(20) == size(200)


def test_four_thousand_features_take_little_time_and_memory(model):
    big = random_sae(small_bundle.WIDTH, 4096)
    begun, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = collect_top_activations(model, replace(big, threshold=torch.full((4096,), 1.5)), HOOK, batches(400, 16))
    assert int((seen.fired > 0).sum()) > 1000
    assert time.process_time() - begun < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 600_000  # KiB


def test_special_tokens_and_sinks_are_nobodys_maximum_or_example(model, sae):
    """A sink is many times as long as other tokens, so it is the strongest example of many features."""
    ids, real = batches()[0]
    sink = int(ids[0, 3])
    special = next(int(i) for i in ids[real].tolist() if i != sink)
    long = copy.deepcopy(model)
    with torch.no_grad():
        long.get_input_embeddings().weight[sink] *= 400
    x = read_stream(long, ids, HOOK, attention_mask=real.long())
    typical = float(x[real].norm(dim=-1).median())
    plain = collect_top_activations(long, sae, HOOK, [(ids, real)], top=3)
    left_out = LeftOut(frozenset([special]), 10 * typical)
    seen = collect_top_activations(long, sae, HOOK, [(ids, real)], top=3, left_out=left_out)
    at_place = lambda t: t.top.windows.ids[..., BEFORE][t.top.values > 0]  # noqa: E731
    assert (at_place(plain) == sink).sum() >= 5
    assert not torch.isin(at_place(seen), torch.tensor([sink, special])).any()
    assert seen.tokens < plain.tokens
    assert (seen.maximum <= plain.maximum).all()
    assert (seen.maximum < plain.maximum).any()


@pytest.fixture(scope="module")
def described(model, sae):
    return describe(model, small_bundle.tokenizer(), sae, HOOK, batches(), bundle="small")


def test_a_feature_carries_examples_of_its_best_and_samples_from_below(described):
    feature = next(f for f in described if len(f.samples) >= 3)
    for example in [*feature.examples, *feature.samples]:
        assert len(example["tokens"]) == len(example["activations"])
        assert "".join(example["tokens"]) == example["text"]
        assert example["tokens"][example["at"]] == example["token"]
        assert example["activations"][example["at"]] == pytest.approx(example["activation"], rel=0.01)
    levels = [e["activation"] for e in feature.samples]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] < feature.examples[0]["activation"]
    assert feature.examples[0]["activation"] == pytest.approx(feature.max_activation, abs=1e-3)


def test_the_histogram_counts_every_time_it_fired(described, model, sae):
    slow = Slow(model, sae, batches())
    for f in described:
        assert round(f.density * slow.tokens) == slow.fired[f.index]
        if f.histogram:
            assert sum(f.histogram.counts) == slow.fired[f.index]
            assert len(f.histogram.counts) <= 16
            assert f.histogram.width * (len(f.histogram.counts) - 1) <= f.max_activation + 1e-3
            assert f.typical_max <= f.max_activation


def test_the_output_score_is_what_a_forward_pass_by_hand_gives(model, sae):
    tok = small_bundle.tokenizer()
    typical = torch.full((sae.d_sae,), 2.0)
    typical[5] = 0
    up, down = logit_lens(model, sae)
    scores = output_scores(model, tok, sae, HOOK, typical, up)
    ids = torch.tensor([[0, *tok(NEUTRAL, add_special_tokens=False)["input_ids"]]])

    def placed(p, tokens):
        best = max(tokens, key=lambda t: p[t])
        return (1 - int((p > p[best]).sum()) / len(p)) * float(p[best])

    with torch.no_grad():
        plain = model(ids).logits[0, -1].softmax(-1)
        for f in (0, 7, 31):
            push = torch.zeros(ids.shape[1], small_bundle.WIDTH)
            push[1:] = FACTOR * 2.0 * sae.W_dec[f]

            def moved(_m, _i, x, push=push):
                return (x[0] + push, *x[1:]) if isinstance(x, tuple) else x + push

            handle = model.model.layers[1].register_forward_hook(moved)
            steered = model(ids).logits[0, -1].softmax(-1)
            handle.remove()
            expected = placed(steered, up[f].tolist()) - placed(plain, up[f].tolist())
            assert float(scores[f]) == pytest.approx(expected, abs=1e-5)
            gain = model.model.norm.weight
            by_hand = (sae.W_dec * gain) @ model.lm_head.weight.T
            assert up[f].tolist() == (by_hand - by_hand.mean(0))[f].topk(20).indices.tolist()
    assert scores[5] == 0
    assert up.shape == down.shape == (sae.d_sae, 20)


def test_the_final_norm_is_read_whatever_its_formula(any_model):
    with torch.no_grad():
        for name, p in any_model.named_parameters():
            if name.endswith(("model.norm.weight", "ln_f.weight", "ln_f.bias")):
                p.copy_(torch.rand_like(p) + 0.5)
    up, _ = logit_lens(any_model, random_sae(), top=5)
    norm = next(m for n, m in any_model.named_modules() if n in ("model.norm", "transformer.ln_f"))
    gain = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    scores = (random_sae().W_dec * gain) @ any_model.get_output_embeddings().weight.T
    assert up.tolist() == (scores - scores.mean(0)).topk(5).indices.tolist()


def test_kinds_say_what_to_know_before_a_feature_is_used():
    assert kinds(0.0) == ("dead",)
    assert kinds(0.3) == ("dense",)
    assert kinds(0.1) == ()


def test_describing_anew_keeps_labels_and_doses_of_people(model, sae, described):
    info = BundleInfo(name="small", model="m", hook=HOOK, revision="r1", typical_norm=8.0)
    old = [Feature(id=f"small/{i}", index=i) for i in range(sae.d_sae)]
    old[1] = old[1].model_copy(update={"label": "bridges", "label_source": "hand", "dose": 4.0, "note": "n"})
    old[2] = old[2].model_copy(update={"label": "old", "label_source": "auto", "stale": True})
    bundle = Bundle(None, info, sae, old)
    found = with_measurements(bundle, described)
    from steering.catalogue.revisions import carry_features

    after = carry_features(bundle, sae, range(sae.d_sae), found)
    assert (after[1].label, after[1].label_source, after[1].dose, after[1].note) == ("bridges", "hand", 4.0, "n")
    assert after[1].examples == described[1].examples
    assert (after[2].label, after[2].stale) == (described[2].label, False)
    assert after[3].histogram == described[3].histogram


def test_a_line_of_the_catalogue_is_short_and_says_it_all(described):
    for feature in described:
        again = Feature.model_validate_json(feature.line()[:-1].replace("{", f'{{"id":"{feature.id}",', 1))
        assert again == feature
        assert len(feature.line()) < 6000


def test_lines_from_before_there_was_all_this_still_open():
    line = {"index": 3, "label": "x", "label_source": "auto", "density": 0.1,
            "examples": [{"text": "a b", "token": " b", "at": 1, "activation": 2.0}]}  # fmt: skip
    feature = Feature.model_validate({"id": "b/3", **line})
    assert (feature.kind, feature.output_score, feature.samples) == ((), None, [])
    assert feature.examples[0]["text"] == "a b"


def test_an_sae_of_directions_alone_cannot_be_described(model, sae):
    with pytest.raises(SteeringError, match="directions only"):
        describe(model, small_bundle.tokenizer(), SAE.directions(sae.W_dec), HOOK, batches(), bundle="small")
