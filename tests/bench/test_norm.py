"""Strengths of equal KL: what is found diverges as was asked."""

from functools import partial

import pytest
import torch

from bench.steering.norm import WAYS, activation, matched, scaled
from steering.doses.rollouts import Rollouts
from steering.model.chat_template import encode_chat
from tests.support import small_bundle

HOOK = "layers.1"


@pytest.mark.parametrize("name", WAYS)
def test_a_strength_is_found_that_diverges_as_the_addition_does(name):
    torch.manual_seed(0)
    tokenizer, sae = small_bundle.tokenizer(), small_bundle.sae()
    chats = [encode_chat(tokenizer, [{"role": "user", "content": text}]) for text in ("hello there", "how are you")]
    stage = Rollouts.prepare(small_bundle.model(len(tokenizer)), HOOK, chats, tokens=8)
    target = stage.divergence(scaled(WAYS["add"], 1, 8.0, sae, 1.0))
    factor, kl = matched(stage, partial(scaled, WAYS[name], 1, 8.0, sae), target)
    assert kl == pytest.approx(target, rel=0.1)
    assert factor > 1 / 8


def test_an_activation_is_counted_in_typical_maxima():
    sae = small_bundle.sae()
    stream = 4.0 * sae.W_dec[3:4] + sae.b_dec
    part = sae.only(torch.tensor([3]))
    assert activation(part, 2.0, stream) == pytest.approx(2.0, rel=1e-4)
