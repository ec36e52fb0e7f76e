"""Rollouts: every edit in a batch has the same result as alone."""

import pytest
import torch

from steering.doses import rollouts
from steering.doses.measure import pushes_along
from steering.doses.rollouts import Rollouts
from steering.doses.sampling import NATURAL, Sampling
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.chat_template import EncodedChat
from steering.model.hooks import read_stream, steer

HOOK, TOKENS = "layers.1", 6


@pytest.fixture
def chats():
    g = torch.Generator().manual_seed(3)
    lengths = (4, 7, 5)
    ids = [tuple(torch.randint(5, 97, (n,), generator=g).tolist()) for n in lengths]
    return [EncodedChat(i, (False,) * (len(i) - 1) + (True,), "") for i in ids]


@pytest.fixture
def stage(any_model, chats):
    any_model.generation_config.eos_token_id = 3
    return Rollouts.prepare(any_model, HOOK, chats, tokens=TOKENS)


def alone(model, ids, edit):
    """Greedy, one prompt, no cache: what the batch has to say as well."""
    said, row = [], list(ids)
    for _ in range(TOKENS):
        where = torch.tensor([[False] * (len(ids) - 1) + [True] * (len(row) - len(ids) + 1)])
        with torch.no_grad(), steer(model, {HOOK: edit} if edit else {}, where=where):
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
        said.append(int(logits.argmax()))
        row.append(said[-1])
        if said[-1] == 3:
            break
    return said


def test_every_edit_answers_as_it_does_alone(stage, chats, any_model, sae):
    edits = [pushes_along(sae.W_dec[0])(4.0), compile_edit([ResolvedIntervention(5, "clamp", 3.0)], sae)]
    rolled = stage.run(edits)
    for edit, found in zip(edits, rolled, strict=True):
        assert found.replies == [alone(any_model, c.ids, edit) for c in chats]
    assert stage.plain.replies == [alone(any_model, c.ids, None) for c in chats]


def test_a_push_of_nothing_is_no_distance_and_no_effect(stage, sae):
    (rolled,) = stage.run([pushes_along(sae.W_dec[0])(0.0)])
    assert rolled.kl.max() < 1e-5
    torch.testing.assert_close(rolled.logprob, stage.plain.logprob, rtol=0, atol=1e-4)
    (effects,) = stage.effects([pushes_along(sae.W_dec[0])(0.0)], [torch.tensor([7, 9])])
    assert effects.abs().max() < 1e-4


def test_surprise_is_cross_entropy_and_that_is_entropy_plus_kl(llama, chats, sae):
    """CE(p_s, p_0) = H(p_s) + KL(p_s ‖ p_0), token by token."""
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    edit = pushes_along(sae.W_dec[2])(3.0)
    (rolled,) = stage.run([edit])
    total = 0.0
    for chat, said in zip(chats, rolled.replies, strict=True):
        row = torch.tensor([[*chat.ids, *said]])
        where = torch.tensor([[False] * (len(chat.ids) - 1) + [True] * (len(said) + 1)])
        with torch.no_grad():
            plain = llama(input_ids=row).logits[0].log_softmax(-1)
            with steer(llama, {HOOK: edit}, where=where):
                steered = llama(input_ids=row).logits[0].log_softmax(-1)
        at = slice(len(chat.ids) - 1, len(chat.ids) - 1 + len(said))
        total += float(-(steered[at].exp() * plain[at]).sum())
    tokens = sum(map(len, rolled.replies))
    assert total / tokens == pytest.approx(rolled.entropy + float(rolled.kl.mean()), abs=1e-4)


def test_small_pushes_change_the_distribution_by_their_square(llama, chats, sae):
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    small, twice = stage.run([pushes_along(sae.W_dec[1])(s) for s in (0.02, 0.04)])
    assert 3.2 < float(twice.kl.mean() / small.kl.mean()) < 4.8


def test_an_effect_is_on_the_words_that_were_asked_for(llama, chats):
    """A direction that the model reads as one token raises that token, and not another."""
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    direction = torch.nn.functional.normalize(llama.lm_head.weight[11].detach(), dim=0)
    raised, other = stage.effects([pushes_along(direction)(20.0)], [torch.tensor([11]), torch.tensor([60])])[0].mean(1)
    assert raised > other + 0.05


def test_sampled_replies_are_the_same_again_and_others_with_another_seed(llama, chats, sae):
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS, draw=NATURAL)
    edits = [pushes_along(sae.W_dec[i])(3.0) for i in (0, 1)]
    one, again, other = (stage.run(edits, seed=seed) for seed in (5, 5, 6))
    assert [r.replies for r in one] == [r.replies for r in again]
    assert [r.replies for r in one] != [r.replies for r in other]
    assert stage.run(edits[1:], seed=5)[0].replies == one[1].replies, "a neighbour changes nothing"


def test_a_penalty_makes_greedy_replies_repeat_less(llama, chats):
    plain = Rollouts.prepare(llama, HOOK, chats, tokens=24)
    penalized = Rollouts.prepare(llama, HOOK, chats, tokens=24, draw=Sampling(repetition_penalty=5.0))
    assert penalized.plain.repetition < plain.plain.repetition


def test_top_p_near_nothing_is_greedy(llama, chats):
    greedy = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    assert Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS, draw=Sampling(1.0, 3, top_p=1e-6)).plain.replies == (
        greedy.plain.replies
    )


def test_the_streams_are_those_of_the_unsteered_model_reading_the_reply(llama, chats, sae):
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    (rolled,) = stage.run([pushes_along(sae.W_dec[2])(3.0)])
    for chat, said, stream in zip(chats, rolled.replies, rolled.streams, strict=True):
        alone_ = read_stream(llama, torch.tensor([[*chat.ids, *said]]), HOOK)[0, len(chat.ids) :]
        torch.testing.assert_close(stream, alone_, rtol=0, atol=1e-4)


def test_few_logits_at_a_time_change_nothing(llama, chats, sae, monkeypatch):
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=TOKENS)
    edits = [pushes_along(sae.W_dec[i])(3.0) for i in (0, 1)]
    whole = stage.run(edits)
    monkeypatch.setattr(rollouts, "LOGITS", 1)
    for one, other in zip(whole, stage.run(edits), strict=True):
        assert one.replies == other.replies
        torch.testing.assert_close(one.kl, other.kl, rtol=0, atol=1e-5)


def test_divergence_is_the_mean_kl_on_the_unsteered_replies_and_grows_with_the_push(stage, sae):
    pushes = pushes_along(sae.W_dec[0])
    assert stage.divergence(pushes(0.0)) < 1e-5
    small, large = stage.divergence(pushes(2.0)), stage.divergence(pushes(6.0))
    assert 0 < small < large
