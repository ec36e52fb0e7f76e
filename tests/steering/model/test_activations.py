"""Activation stream: shuffled batches, deterministic and resumable at any position."""

import itertools

import pytest
import torch

from steering.errors import SteeringError
from steering.model.activations import ActivationStream, activations, padded_batches
from steering.model.token_store import TokenStore
from tests.support import small_bundle

HOOK = "layers.1"


@pytest.fixture(scope="module")
def model():
    return small_bundle.model(vocab=300)


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 40, (700,), generator=generator).tolist()
    return TokenStore.gather(torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths)


def stream(model, tokens, **more):
    return ActivationStream(model, tokens, HOOK, **{"rows": 64, "buffer": 3000, "batch": 8, **more})


def test_padding_marks_what_is_real():
    ids, real = next(padded_batches([[1, 2, 3], [4]], batch=2, longest=8, pad=0))
    assert ids.tolist() == [[4, 0, 0], [1, 2, 3]]
    assert real.tolist() == [[True, False, False], [True, True, True]]


def test_first_tokens_and_special_ones_are_left_out(model):
    batches = list(padded_batches([[5, 6, 7, 8], [9, 6, 10]], batch=2, longest=8, pad=0))
    assert len(torch.cat(list(activations(model, batches, HOOK)))) == 5
    assert len(torch.cat(list(activations(model, batches, HOOK, skip={6})))) == 3


def test_a_pass_gives_every_row_once_but_what_fills_no_batch(model, tokens):
    seen = torch.cat(list(stream(model, tokens)))
    whole = torch.cat(list(activations(model, padded_batches(tokens, batch=8, longest=512, pad=0), HOOK)))
    assert len(whole) * 0.9 < len(seen) <= len(whole)
    assert len(seen.unique(dim=0)) > 0.8 * len(seen)  # chance repeats some beginnings of texts
    found = torch.cdist(seen[:200].double(), whole.double()).amin(1)
    assert found.max() < 1e-3


@pytest.mark.parametrize("after", [0, 1, 17, 46, 47, 120])
def test_a_stream_goes_on_where_another_was(model, tokens, after):
    one = stream(model, tokens, passes=2)
    for _ in range(after):
        next(one)
    other = stream(model, tokens, passes=2, position=one.position)
    for _ in range(60):
        assert next(one).equal(next(other))


def test_shares_of_a_text_are_different_and_together_all_of_it(model, tokens):
    parts = [list(stream(model, tokens, share=(i, 2), rows=16)) for i in range(2)]
    whole = list(stream(model, tokens, rows=16))
    assert abs(sum(map(len, parts)) - len(whole)) < 30
    assert torch.cdist(torch.cat(parts[0])[:300].double(), torch.cat(parts[1]).double()).amin(1).median() > 0.1


def test_every_pass_has_its_own_order(model, tokens):
    batches = list(stream(model, tokens, passes=2, buffer=10**6, rows=64))
    assert not batches[0].equal(next(stream(model, tokens, seed=1)))
    assert len(batches) > 1.9 * len(list(stream(model, tokens)))


def test_tokens_come_back_from_disk(tokens, tmp_path):
    TokenStore.write(tmp_path / "t", tokens)
    again = TokenStore.open(tmp_path / "t")
    assert list(again) == list(tokens)
    assert list(again.subset([3, 5])) == [tokens[3], tokens[5]]
    assert TokenStore.write(tmp_path / "u", tokens, most=100).lengths().sum() < 150


def test_tokens_that_are_cut_off_are_refused(tokens, tmp_path):
    TokenStore.write(tmp_path / "t", tokens)
    with (tmp_path / "t" / "tokens.u32").open("r+b") as file:
        file.truncate(400)
    with pytest.raises(SteeringError, match="holds 100 tokens, not the"):
        TokenStore.open(tmp_path / "t")


def test_no_text_is_an_error(model):
    with pytest.raises(ValueError, match="no texts"):
        stream(model, TokenStore.gather([]))
    assert list(itertools.islice(stream(model, TokenStore.gather([[1, 2, 3]])), 3)) == []
