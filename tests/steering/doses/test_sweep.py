"""Strength sweep: each strength has the same replies as alone, however prompts are split."""

import pytest
import torch

from steering.doses import sweep as sweeping
from steering.doses.measure import pushes_along
from steering.doses.rollouts import Rollouts
from steering.doses.sampling import Sampling
from steering.doses.sweep import sweep
from steering.model.chat_template import EncodedChat

HOOK, TOKENS = "layers.1", 6
WORDS = torch.tensor([7, 9])


@pytest.fixture
def chats():
    g = torch.Generator().manual_seed(3)
    ids = [tuple(torch.randint(5, 97, (n,), generator=g).tolist()) for n in (4, 7, 5, 6, 4)]
    return [EncodedChat(i, (False,) * (len(i) - 1) + (True,), "") for i in ids]


@pytest.fixture
def edits(sae):
    return [pushes_along(sae.W_dec[0])(s) for s in (0.0, 2.0, 5.0)]


@pytest.mark.parametrize("draw", [Sampling(), Sampling(1.0, seed=4)])
def test_what_is_said_does_not_depend_on_the_parts(llama, chats, edits, draw, monkeypatch):
    whole = sweep(llama, HOOK, chats, edits, WORDS, tokens=TOKENS, draw=draw)
    monkeypatch.setattr(sweeping, "ROOM", 2 * TOKENS * llama.config.vocab_size)
    parts = sweep(llama, HOOK, chats, edits, WORDS, tokens=TOKENS, draw=draw)
    for one, other in zip([whole[0], *whole[1]], [parts[0], *parts[1]], strict=True):
        assert one.replies == other.replies
        assert len(one.replies) == len(chats)
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
        assert one.kl == pytest.approx(other.kl, abs=1e-4)
    assert [s.effect for s in whole[1]] == pytest.approx([s.effect for s in parts[1]], abs=1e-4)


def test_a_strength_of_nothing_is_the_unsteered_model(llama, chats, edits):
    plain, swept = sweep(llama, HOOK, chats, edits, WORDS, tokens=TOKENS, draw=Sampling(0.8, seed=1))
    assert swept[0].replies == plain.replies
    assert swept[0].effect == pytest.approx(0, abs=1e-4)
    assert swept[0].kl < 1e-4
    assert swept[2].kl > swept[1].kl > 0


def test_logprobs_are_those_of_the_stage(llama, chats, edits):
    _, swept = sweep(llama, HOOK, chats, edits, WORDS[:0], tokens=TOKENS)
    (rolled,) = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS).run(edits[2:])
    assert [x for reply in swept[2].logprobs for x in reply] == pytest.approx(rolled.logprob.tolist(), abs=1e-4)
    assert list(swept[2].replies) == rolled.replies
    assert swept[2].effect is None


def test_a_seed_fixes_the_replies_and_another_one_changes_them(llama, chats, edits):
    said = [
        sweep(llama, HOOK, chats, edits, WORDS[:0], tokens=TOKENS, draw=Sampling(1.5, s))[1][1].replies
        for s in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


def test_it_tells_how_much_is_done(llama, chats, edits, monkeypatch):
    monkeypatch.setattr(sweeping, "ROOM", 2 * TOKENS * llama.config.vocab_size)
    heard = []
    sweep(llama, HOOK, chats, edits, WORDS[:0], tokens=TOKENS, on_progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
