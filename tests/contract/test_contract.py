"""Engine contract: replies equal the model with hooks, independently of other requests in the batch."""

import asyncio
import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from server.engines.base import EngineFailed, Generation, Overloaded, Sampling
from steering.catalogue.resolve import Catalogue
from steering.edits import ResidualEdit, ResolvedIntervention
from steering.model.hooks import read_stream, steer
from steering.spec import Intervention, Preset, SteeringSpec
from tests.support import small_bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREEDY = Sampling(temperature=0, max_tokens=24)
NONE, EMPTY = torch.zeros(0, 256), torch.zeros(0)
QUESTIONS = ["What should I do this weekend?", "Tell me a story.", "Hello!", "How can I sleep better?"]


@pytest.fixture(scope="module")
def model(bundle):
    return AutoModelForCausalLM.from_pretrained(bundle.model_path, dtype=torch.float32).eval().to(small_bundle.DEVICE)


@pytest.fixture(scope="module")
def specs(bundle):
    """Sixteen: none, six personas, the gated modes, what is mixed, and the two other scopes."""
    persona = {p.id: p.steering for p in bundle.presets}
    chosen = [persona[n] for n in ("golden-gate", "ocean", "pirate", "cat", "robot", "wise")]
    frequent = sorted(bundle.features, key=lambda f: -f.density)[:6]

    def gated(*modes):
        items = [
            Intervention(id=f.id, mode=m, strength={"clamp": 2.0, "scale": 3.0, "ablate": 0.0, "add": 1.0}[m])
            for f, m in zip(frequent, modes, strict=False)
        ]
        return SteeringSpec(features=tuple(items), unit="max")

    scoped = [chosen[0].model_copy(update={"scope": s}) for s in ("all", "generated")]
    modes = [gated("clamp"), gated("ablate", "ablate"), gated("scale", "add"), gated("add", "clamp", "scale", "ablate")]
    halves = [s.model_copy(update={"scale": 0.5}) for s in (chosen[0], modes[0])]
    return [SteeringSpec(), *chosen, *modes, *scoped, *halves, SteeringSpec()]


def request(engine, catalogue, spec, number=0, **changes):
    """A chat of one or two questions, steered as the server would."""
    messages = [{"role": "user", "content": QUESTIONS[number % 4]}]
    if number % 3 == 1:
        messages += [{"role": "assistant", "content": "I like the sea."}, {"role": "user", "content": QUESTIONS[0]}]
    chat, resolved = engine.encode_chat(messages), catalogue.resolve(spec)
    marks = {
        "assistant": chat.assistant,
        "all": (True,) * len(chat.ids),
        "generated": (False,) * (len(chat.ids) - 1) + (True,),
    }[spec.scope]
    wanted = Generation(
        chat.ids,
        marks,
        steer_new=True,
        edits=resolved.edits,
        interventions=resolved.interventions,
        fingerprint=spec.fingerprint,
        revision="r1",
        tenant="ada",
        sampling=GREEDY,
    )
    return replace(wanted, **changes)


async def said(engine, generation):
    pieces = [p async for p in engine.generate(generation)]
    return "".join(p.text for p in pieces), pieces[-1]


@torch.no_grad()
def by_the_book(engine, model, generation):
    """Every token computed anew, with hooks on the plain model."""
    ids, steered = list(generation.ids), list(generation.steered)
    while len(ids) < len(generation.ids) + generation.sampling.max_tokens:
        with steer(model, generation.edits, where=torch.tensor([steered])):
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        steered.append(generation.steer_new)
        if ids[-1] == engine.tokenizer.eos_token_id:
            break
    return engine.decode(ids[len(generation.ids) :])


async def test_sixteen_at_once_say_what_each_says_by_the_book(engine, catalogue, model, specs):
    wanted = [request(engine, catalogue, spec, i) for i, spec in enumerate(specs)]
    told = await asyncio.gather(*(said(engine, g) for g in wanted))
    assert [text for text, _ in told] == [by_the_book(engine, model, g) for g in wanted]
    assert len({text for text, _ in told}) > 10


async def test_no_spec_is_the_plain_model(engine, catalogue, model):
    plain = request(engine, catalogue, SteeringSpec(), 1)
    assert (await said(engine, plain))[0] == by_the_book(engine, model, replace(plain, edits={}))


async def test_nobody_notices_who_joins_leaves_cancels_or_breaks(engine, catalogue, specs):
    rng = random.Random(0)
    drawn = [
        Sampling(temperature=0, max_tokens=12),
        Sampling(temperature=0.8, max_tokens=12, seed=3),
        Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.3, max_tokens=9, seed=5),
    ]
    cases = [request(engine, catalogue, s, i, sampling=drawn[i % 3]) for i, s in enumerate(specs)]
    alone = [(await said(engine, g))[0] for g in cases]

    async def leave_early(generation):
        stream = engine.generate(generation)
        for _ in range(rng.randrange(1, 4)):
            await anext(stream, None)
        await stream.aclose()

    async def breaks(generation):
        with pytest.raises(EngineFailed):
            await said(engine, poisoned(generation))

    async def visit(step):
        await asyncio.sleep(rng.random() * 2)
        case, kind = rng.randrange(len(cases)), rng.random()
        if kind < 0.2:
            await leave_early(cases[case])
        elif kind < 0.3:
            await breaks(cases[case])
        else:
            assert (await said(engine, cases[case]))[0] == alone[case], step

    for start in range(0, 500, 50):
        await asyncio.gather(*(visit(start + i) for i in range(50)))
    assert engine.occupancy == (0, 0)


def poisoned(generation):
    """The same with a strength that no check would let through."""
    nan = {"layers.3": (ResolvedIntervention(1, "add", float("nan")),)}
    push = torch.full((256,), torch.nan)
    edits = {"layers.3": ResidualEdit(push=push, w=NONE, b=EMPTY, threshold=EMPTY, d=NONE, gate=EMPTY)}
    return replace(generation, edits=edits, interventions=nan, fingerprint="s_poison")


@pytest.mark.parametrize(
    "broken",
    [
        {"layers.3": (ResolvedIntervention(10**6, "add", 1.0),)},
        {"layers.3": (ResolvedIntervention(1, "add", float("inf")),)},
        {"layers.5": (ResolvedIntervention(1, "add", 1.0),)},
    ],
    ids=["no such feature", "infinite", "no such tap"],
)
async def test_what_cannot_be_steered_is_an_error_and_the_next_request_works(engine, catalogue, specs, broken):
    fine = request(engine, catalogue, specs[1])
    before, _ = await said(engine, fine)
    hook, (item,) = next(iter(broken.items()))
    edit = replace(next(iter(fine.edits.values())), push=torch.full((256,), item.raw if item.index == 1 else torch.nan))
    bad = replace(fine, interventions=broken, edits={hook: edit}, fingerprint="s_broken")
    with pytest.raises(EngineFailed):
        await said(engine, bad)
    assert (await said(engine, fine))[0] == before


async def test_streamed_pieces_are_the_whole_reply(engine, catalogue, specs):
    sampling = Sampling(temperature=0.9, seed=11, max_tokens=40, ignore_eos=True)
    pieces = [p async for p in engine.generate(request(engine, catalogue, specs[3], sampling=sampling))]
    ids = [i for p in pieces for i in p.ids]
    assert len(pieces) > 2  # how many depends on how fast they are fetched
    assert len(ids) == pieces[-1].tokens == 40
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "length"
    assert "".join(p.text for p in pieces).rstrip("\ufffd") == engine.decode(ids).rstrip("\ufffd")


async def test_same_seed_says_the_same_and_another_seed_does_not(engine, catalogue, specs):
    def drawn(seed):
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=16)
        return said(engine, request(engine, catalogue, specs[1], sampling=sampling))

    first, *others = [text for text, _ in await asyncio.gather(*(drawn(s) for s in (1, 1, 2, 3, 4)))]
    assert others[0] == first
    assert set(others) > {first}


async def test_stop_strings_cut_the_reply(engine, catalogue, specs):
    whole, _ = await said(engine, request(engine, catalogue, specs[1]))
    word = whole.split()[3]
    stopped, last = await said(
        engine, request(engine, catalogue, specs[1], sampling=replace(GREEDY, stop=(f" {word}",)))
    )
    assert stopped == whole[: whole.index(f" {word}")]
    assert last.finish_reason == "stop"


async def test_logprobs_are_reported_for_each_token(engine, catalogue, specs):
    sampling = Sampling(temperature=0, max_tokens=8, logprobs=3, ignore_eos=True)
    pieces = [p async for p in engine.generate(request(engine, catalogue, specs[2], sampling=sampling))]
    found = [t for p in pieces for t in p.logprobs]
    assert [t.token_id for t in found] == [i for p in pieces for i in p.ids]
    for t in found:
        assert t.top[0].logprob == pytest.approx(t.logprob, abs=1e-4)  # greedy takes the best
        assert [a.logprob for a in t.top] == sorted((a.logprob for a in t.top), reverse=True)


async def test_next_turn_reuses_the_first_and_any_change_does_not(engine, catalogue, specs):
    history = [{"role": "user", "content": "Tell me a long story about the sea and the old harbor. " * 4}]
    first = request(engine, catalogue, specs[1])
    chat = engine.encode_chat(history)
    first = replace(first, ids=chat.ids, steered=chat.assistant, tenant="turns")
    reply, last = await said(engine, first)
    assert last.cached == 0
    longer = [*history, {"role": "assistant", "content": reply}, {"role": "user", "content": "And then?"}]
    chat = engine.encode_chat(longer)
    second = replace(first, ids=chat.ids, steered=chat.assistant)
    known = len(engine.encode_chat(history).ids)
    assert known // 32 * 32 <= (await said(engine, second))[1].cached < len(second.ids)
    other = request(engine, catalogue, specs[2])
    stronger = request(engine, catalogue, specs[1].model_copy(update={"scale": 1.1}))
    for name, change in {
        "tenant": {"tenant": "bob"},
        "revision": {"revision": "r0", "interventions": {}, "edits": {}},
        "spec": {"edits": other.edits, "interventions": other.interventions, "fingerprint": other.fingerprint},
        "strength": {
            "edits": stronger.edits,
            "interventions": stronger.interventions,
            "fingerprint": stronger.fingerprint,
        },
        "unsteered": {"edits": {}, "interventions": {}, "fingerprint": "s_0"},
    }.items():
        assert (await said(engine, replace(second, **change)))[1].cached == 0, name


@pytest.mark.parametrize("number", [1, 7, 8, 10], ids=["persona", "clamp", "ablate", "mixed"])
async def test_features_that_the_sae_has_no_more_steer_by_their_snapshots(engine, catalogue, bundle, specs, number):
    pins = bundle.pinned(Preset(id="mine", name="Mine", steering=specs[number])).pins
    numbered = [f.model_copy(update={"id": f"harbor/{9000 + f.row}", "index": 9000 + f.row}) for f in bundle.features]
    without = Catalogue([replace(bundle, features=numbered)])
    resolved = without.resolve(specs[number], pins)
    here = request(engine, catalogue, specs[number], tenant="here")
    gone = replace(here, edits=resolved.edits, interventions=resolved.interventions, tenant="gone")
    assert all(a.gone for a in resolved.applied)
    assert (await said(engine, gone))[0] == (await said(engine, here))[0]


async def test_revision_is_changed_and_changed_back_while_somebody_speaks(engine, catalogue, bundle, specs, tmp_path):
    hook, sae = bundle.info.hook, bundle.sae
    turned = replace(sae, W_dec=-sae.W_dec)
    turned.save(tmp_path / "r2", hook=hook, model="harbor")
    other = Catalogue([replace(bundle, sae=turned)])
    old = request(engine, catalogue, specs[1])
    new = request(engine, other, specs[1], revision="r2")
    before, _ = await said(engine, old)
    running = engine.generate(replace(old, tenant="running"))
    first = await anext(running)
    await engine.add_revision("r2", {hook: tmp_path / "r2"})
    after, last = await said(engine, new)
    assert "".join([first.text, *[p.text async for p in running]]) == before != after
    assert last.cached == 0
    await engine.add_revision("r1", {hook: bundle.files})
    assert (await said(engine, old))[0] == before
    assert (await said(engine, new))[0] == after  # somebody may still be on his way with it


@pytest.mark.parametrize("hook", ["layers.3", "layers.2"], ids=["steered", "below"])
async def test_recorded_streams_are_the_models(engine, model, hook):
    texts = [list(range(5, 45)), list(range(60, 70)), [7]]
    found = await engine.record(texts, hook)
    for ids, stream in zip(texts, found, strict=True):
        expected = read_stream(model, torch.tensor([ids], device=model.device), hook)[0].to(stream.device)
        torch.testing.assert_close(stream.float(), expected, atol=1e-4, rtol=1e-4)


async def test_logprobs_of_a_given_text_are_the_models(engine, model):
    ids = list(range(5, 45))
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=torch.tensor([ids], device=model.device)).logits[0], -1)
    expected = [float(logits[i - 1, ids[i]]) for i in range(10, 40)]
    assert await engine.logprobs_unsteered(ids, 10) == pytest.approx(expected, abs=1e-4)


async def test_full_queue_says_when_to_come_back(engine, catalogue, specs):
    one = request(engine, catalogue, specs[1], sampling=replace(GREEDY, max_tokens=2))
    results = await asyncio.gather(*(said(engine, one) for _ in range(150)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert refused
    assert all(r.retry_after >= 1 for r in refused)
    assert {r[0] for r in results if isinstance(r, tuple)} == {(await said(engine, one))[0]}
