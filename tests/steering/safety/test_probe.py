"""Probe: scores depend on the text and not on the steering; invalid input is refused with the reason."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from steering.edits import ResidualEdit
from steering.errors import BadBundle, SteeringError
from steering.model.hooks import read_stream, record, steer
from steering.safety.probe import (
    CARD,
    WEIGHTS,
    WITNESS,
    Probe,
    check_hook_below,
    hook_below,
    smoothed,
    tokens_to_score,
    train_probe,
)
from tests.support import small_bundle

HOOK = "layers.0"
SECRET = 90
"""A token that makes a text forbidden when it comes three times."""


def rows(n, seed, *, secret):
    g = torch.Generator().manual_seed(seed)
    found = [torch.randint(30, 80, (8 + i % 5,), generator=g) for i in range(n)]
    for i, ids in enumerate(found):
        if secret:
            ids[1 + i % 4 : 4 + i % 4] = SECRET
    return found


def streams(model, texts, hook=HOOK):
    return [read_stream(model, ids[None], hook)[0] for ids in texts]


@pytest.fixture
def trained(llama):
    forbidden, benign = rows(120, 1, secret=True), rows(120, 2, secret=False)
    witness = read_stream(llama, torch.tensor([WITNESS]), HOOK)[0, -1]
    return train_probe(
        streams(llama, forbidden), streams(llama, benign), witness, hook=HOOK, model="llama", allowed=0.05
    )


def test_it_tells_texts_that_it_never_saw(llama, trained):
    found = [trained.first_hit(x) is not None for x in streams(llama, rows(40, 3, secret=True))]
    flagged = [trained.first_hit(x) is not None for x in streams(llama, rows(40, 4, secret=False))]
    assert sum(found) >= 36
    assert sum(flagged) <= 6


def test_its_reading_is_the_same_with_steering_on_and_off(llama, trained):
    """Not nearly the same: what is added to a block's output changes no bit of what enters it."""
    none, empty = torch.zeros(0, 32), torch.zeros(0)
    edit = ResidualEdit(push=torch.full((32,), 50.0), w=none, b=empty, threshold=empty, d=none, gate=empty)
    ids = rows(1, 5, secret=True)[0][None]
    with torch.no_grad(), record(llama, [HOOK, "layers.1"]) as plain:
        llama(input_ids=ids, use_cache=False)
    with torch.no_grad(), steer(llama, {"layers.1": edit}), record(llama, [HOOK, "layers.1"]) as pushed:
        llama(input_ids=ids, use_cache=False)
    assert not torch.equal(plain["layers.1"], pushed["layers.1"])
    assert torch.equal(trained.token_scores(plain[HOOK][0]), trained.token_scores(pushed[HOOK][0]))


def test_its_scores_are_the_formula(llama, trained):
    x = streams(llama, rows(1, 6, secret=True))[0]
    s, wanted = None, []
    for row in x:
        z = ((row - trained.mean) / trained.scale * trained.direction).sum() + trained.bias
        s = z if s is None else s + trained.card.pace * (z - s)
        wanted.append(1 / (1 + torch.exp(-s)))
    torch.testing.assert_close(trained.token_scores(x), torch.stack(wanted), atol=1e-5, rtol=1e-4)
    assert trained.score(x) == pytest.approx(float(max(wanted)), abs=1e-5)


def test_the_first_hit_does_not_move_when_the_text_goes_on(llama, trained):
    text = rows(1, 7, secret=True)[0]
    longer = torch.cat([text, rows(1, 8, secret=True)[0]])
    first = trained.first_hit(streams(llama, [text])[0])
    assert first is not None
    assert trained.first_hit(streams(llama, [longer])[0]) == first


def test_a_text_without_tokens_is_benign(trained):
    assert trained.score(torch.zeros(0, 32)) == 0.0
    assert trained.first_hit(torch.zeros(0, 32)) is None


def test_smoothing_begins_at_the_first_row_and_pace_one_leaves_all_as_it_is():
    x = torch.tensor([[4.0], [0.0], [0.0]])
    assert smoothed(x, 0.5)[:, 0].tolist() == [4.0, 2.0, 1.0]
    assert torch.equal(smoothed(x, 1.0), x)


def test_the_threshold_flags_no_more_benign_texts_than_allowed(trained):
    assert trained.card.false_positives <= 0.05
    assert trained.card.threshold >= 0.5
    assert (trained.card.forbidden, trained.card.held_out_forbidden) == (80, 40)


def test_a_probe_that_was_saved_is_the_probe_that_is_loaded(llama, trained, tmp_path):
    trained.save(tmp_path / "probe")
    again = Probe.load(tmp_path / "probe")
    x = streams(llama, rows(1, 9, secret=True))[0]
    assert torch.equal(again.token_scores(x), trained.token_scores(x))
    assert replace(again, card=trained.card).card == trained.card
    assert sorted(p.name for p in (tmp_path / "probe").iterdir()) == sorted([CARD, WEIGHTS])


def damage_shape(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"mean": torch.zeros(3)}, folder / WEIGHTS)


def damage_numbers(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"scale": tensors["scale"] * float("nan")}, folder / WEIGHTS)


def damage_scale(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"scale": tensors["scale"] * 0}, folder / WEIGHTS)


def damage_parts(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("bias")
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_shape, "mean must be [32], not [3]"),
        (damage_numbers, "scale holds NaN or infinity"),
        (damage_scale, "scale must be above 0"),
        (damage_parts, "it lacks bias"),
    ],
)
def test_damaged_weights_are_refused_with_a_sentence(trained, tmp_path, damage, says):
    trained.save(tmp_path)
    damage(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    with pytest.raises(BadBundle, match="is not the one that"):
        Probe.load(tmp_path)
    card["sha256"] = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(BadBundle) as error:
        Probe.load(tmp_path)
    assert says in str(error.value)
    assert "tiller guard train" in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot read a probe"),
        ("[]", "Input should be"),
        ('{"hook": "layers.0"}', "Field required"),
    ],
)
def test_a_damaged_card_is_refused_with_a_sentence(trained, tmp_path, content, says):
    trained.save(tmp_path)
    (tmp_path / CARD).write_text(content)
    with pytest.raises(BadBundle) as error:
        Probe.load(tmp_path)
    assert says in str(error.value)


def test_a_threshold_outside_of_all_scores_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"threshold": 1.5}))
    with pytest.raises(BadBundle, match="threshold"):
        Probe.load(tmp_path)


def test_half_of_a_file_and_no_file_are_refused(trained, tmp_path):
    trained.save(tmp_path / "probe")
    weights = (tmp_path / "probe" / WEIGHTS).read_bytes()
    (tmp_path / "probe" / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BadBundle, match="cannot read a probe"):
        Probe.load(tmp_path / "probe")
    shutil.rmtree(tmp_path / "probe")
    with pytest.raises(BadBundle, match="cannot read a probe"):
        Probe.load(tmp_path / "probe")


def test_another_models_stream_is_told_from_its_own(llama, trained):
    trained.check_model(read_stream(llama, torch.tensor([WITNESS]), HOOK)[0])
    with pytest.raises(SteeringError, match="train one for it"):
        trained.check_model(read_stream(llama, torch.tensor([WITNESS]), "layers.2")[0])
    with pytest.raises(SteeringError, match="train one for it"):
        trained.check_model(torch.ones(3, 16))


def test_what_cannot_be_read_is_an_error_and_not_a_low_score(trained):
    with pytest.raises(SteeringError, match="NaN or infinity"):
        trained.token_scores(torch.full((2, 32), float("nan")))
    with pytest.raises(SteeringError, match="width 32"):
        trained.token_scores(torch.zeros(2, 16))


def test_a_probe_that_steering_would_reach_is_refused():
    check_hook_below("layers.0", "layers.1")
    for hook in ("layers.1", "layers.2"):
        with pytest.raises(SteeringError, match="or lower"):
            check_hook_below(hook, "layers.1")
    assert hook_below("layers.3") == "layers.2"
    with pytest.raises(SteeringError, match="steer at a later layer"):
        hook_below("layers.0")


def test_too_few_texts_are_refused(trained):
    some = [torch.zeros(3, 32)] * 5
    with pytest.raises(SteeringError, match="5 forbidden texts"):
        train_probe(some, some, trained.witness, hook=HOOK, model="llama")


def test_of_a_reply_that_alone_is_read_and_of_a_question_all_of_it():
    tok = small_bundle.tokenizer()
    question = [{"role": "user", "content": "hello there"}]
    ids, start = tokens_to_score(tok, [*question, {"role": "assistant", "content": "the bridge"}])
    assert tok.decode(ids[start:], skip_special_tokens=True) == "the bridge"
    ids, start = tokens_to_score(tok, "hello there")
    assert (start, ids) == tokens_to_score(tok, question)[::-1]
    assert start == 1
    tok.chat_template = None
    ids, start = tokens_to_score(tok, "hello there")
    assert tok.decode(ids[start:]) == "hello there"
