"""Refusal detection: the exact probability of a refusal, and configurable openers."""

import itertools
import math

import pytest
import torch

from steering.errors import SteeringError
from steering.safety.refusal import RefusalDetector
from tests.support import small_bundle

VOCAB = 6


@torch.no_grad()
def logprobs_of(model, prompt, ids):
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def test_the_latch_equals_the_sum_over_all_replies_that_begin_so():
    """Brute force: every reply of three tokens over a small vocabulary, drawn with its probability."""
    model = small_bundle.model(VOCAB)
    latch, prompt = RefusalDetector(((1, 2), (1, 3, 4), (5,)), 0.2), [0, 3, 2]
    wanted = 0.0
    for reply in itertools.product(range(VOCAB), repeat=3):
        if any(reply[: len(opener)] == opener for opener in latch.openers):
            wanted += math.exp(sum(logprobs_of(model, prompt, list(reply))))
    found = latch.probability([logprobs_of(model, prompt, list(o)) for o in latch.openers])
    assert found == pytest.approx(wanted, abs=1e-6)
    assert 0 < found < 1


def test_openers_with_the_same_first_token_are_told_apart():
    tok = small_bundle.tokenizer()
    latch = RefusalDetector.from_sentences(tok, ["I can't", "I will not"])
    assert latch.openers[0][0] == latch.openers[1][0]
    assert {tok.decode(ids) for ids in latch.openers} == {"I can't", "I will not"}


def test_an_opener_that_begins_with_another_counts_once():
    tok = small_bundle.tokenizer()
    latch = RefusalDetector.from_sentences(tok, ["I am sorry, but I can not", "I am sorry", "I am sorry "])
    assert [tok.decode(ids) for ids in latch.openers] == ["I am sorry"]


def test_openers_are_tokenized_as_a_reply_begins_with_them():
    tok = small_bundle.tokenizer()
    tok.chat_template = tok.chat_template.replace("{{ m['content'] }}", " {{ m['content'] }}").replace(
        "<|assistant|>{%", "<|assistant|>{%"
    )
    (spaced,) = RefusalDetector.from_sentences(tok, ["hello there"]).openers
    assert tok.decode(spaced) == " hello there"
    tok.chat_template = None
    (plain,) = RefusalDetector.from_sentences(tok, ["hello there"]).openers
    assert tok.decode(plain) == "hello there"


def test_it_holds_above_tau_and_not_at_it():
    latch = RefusalDetector(((1,),), 0.25)
    assert not latch.holds(latch.probability([[math.log(0.25)]]))
    assert latch.holds(latch.probability([[math.log(0.26)]]))


@pytest.mark.parametrize("logprobs", [[[float("nan")]], [], [[0.0], [0.0]]])
def test_what_is_no_probability_is_an_error_and_not_a_zero(logprobs):
    with pytest.raises(SteeringError, match="a refusal cannot be detected"):
        RefusalDetector(((1,),)).probability(logprobs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RefusalDetector(()), "at least one sentence"),
        (lambda: RefusalDetector(((1,),), 0.0), "between 0 and 1"),
        (lambda: RefusalDetector(((1,),), float("nan")), "between 0 and 1"),
        (lambda: RefusalDetector.from_sentences(small_bundle.tokenizer(), ["I can't", " "]), "an opener is empty"),
    ],
)
def test_a_latch_that_means_nothing_is_refused(make, says):
    with pytest.raises(SteeringError, match=says):
        make()
