"""The transformers engine against a plain loop: same tokens, whatever else is in the batch."""

import asyncio
import threading
from dataclasses import replace

import pytest
import torch

from server.engines.base import EngineFailed, Generation, Overloaded, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.self_test import self_test_tap
from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.errors import BadBundle, SteeringError
from steering.model.hooks import decoder_layers, steer
from tests.support import small_bundle
from tests.support.halted_engine import halted
from tests.support.waiting import eventually

HOOK = "layers.1"
GREEDY = Sampling(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture
async def engine(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK], live=4, queue=8)
    yield engine
    await engine.close()


def edits(*items, preserve=False):
    return {HOOK: compile_edit([ResolvedIntervention(*i) for i in items], small_bundle.sae(), preserve=preserve)}


SPECS = [
    {},
    edits((1, "add", 6.0)),
    edits((2, "clamp", 9.0), (3, "ablate", 0.0)),
    edits((4, "scale", 3.0), (5, "add", -6.0)),
    edits((1, "add", 9.0), (2, "clamp", 5.0), preserve=True),
]


def request(engine, text="hello there", edit=None, sampling=GREEDY, scope="assistant"):
    chat = engine.encode_chat([{"role": "user", "content": text}])
    steered = chat.assistant if scope == "assistant" else (scope == "all",) * len(chat.ids)
    return Generation(chat.ids, steered, True, edit or {}, fingerprint(edit or {}), sampling=sampling)


def fingerprint(edit):
    return "".join(f"{hook} {e.push.tolist()} {e.gate.tolist()} {e.preserve}" for hook, e in edit.items())


async def text_of(engine, generation):
    return "".join([p.text async for p in engine.generate(generation)])


@torch.no_grad()
def by_the_book(parts, generation):
    """Greedy decoding without a cache: every step runs the whole sequence."""
    model, tok = parts
    ids, steered = list(generation.ids), list(generation.steered)
    for _ in range(generation.sampling.max_tokens):
        with steer(model, generation.edits, where=torch.tensor([steered])):
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].float()
        logits[4] = -torch.inf
        ids.append(int(logits.argmax()))
        steered.append(generation.steers(ids[-1]))
    return tok.decode(ids[len(generation.ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("scope", ["assistant", "all"])
@pytest.mark.parametrize("spec", range(5))
async def test_engine_equals_a_plain_loop_without_cache(engine, parts, spec, scope):
    generation = request(engine, edit=SPECS[spec], scope=scope)
    assert await text_of(engine, generation) == by_the_book(parts, generation)


@pytest.mark.parametrize("changes", [{"steer_new": False}, {"unsteered_new": frozenset(range(0, 400, 2))}])
async def test_new_tokens_are_steered_as_the_request_says(engine, parts, changes):
    wanted = request(engine, edit=edits((1, "add", 20.0)))
    changed = replace(wanted, **changes)
    assert await text_of(engine, changed) == by_the_book(parts, changed) != await text_of(engine, wanted)
    text = await text_of(engine, changed)  # now from the cache
    assert text == by_the_book(parts, changed)


async def test_reply_does_not_depend_on_its_neighbours(engine):
    wanted = [request(engine, f"hello {i}", SPECS[i % 4]) for i in range(8)]
    alone = [await text_of(engine, g) for g in wanted]
    assert await asyncio.gather(*(text_of(engine, g) for g in wanted)) == alone
    assert len(set(alone)) > 1


async def test_steering_changes_the_reply(engine):
    assert await text_of(engine, request(engine, edit=SPECS[1])) != await text_of(engine, request(engine))


async def test_same_seed_gives_the_same_reply(engine):
    sampled = Sampling(temperature=1.0, max_tokens=20, seed=3, ignore_eos=True)
    first, second = [await text_of(engine, request(engine, sampling=sampled)) for _ in range(2)]
    other = await text_of(
        engine, request(engine, sampling=Sampling(temperature=1.0, max_tokens=20, seed=4, ignore_eos=True))
    )
    assert first == second != other


async def test_closing_the_stream_frees_the_slot_at_once(engine):
    stream = engine.generate(request(engine, sampling=Sampling(max_tokens=100, ignore_eos=True)))
    await anext(stream)
    await stream.aclose()
    await text_of(engine, request(engine))
    assert engine.occupancy == (0, 0)


async def test_full_queue_is_refused_and_drains(engine):
    with halted(engine):
        busy = [asyncio.create_task(text_of(engine, request(engine))) for _ in range(30)]
        await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
    results = await asyncio.gather(*busy, return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert refused and refused[0].retry_after > 0
    assert len([r for r in results if isinstance(r, str)]) == 30 - len(refused) >= 8
    assert await text_of(engine, request(engine))


async def test_who_leaves_the_queue_makes_room_before_its_turn_comes(engine):
    held = threading.Event()
    looks = threading.Event()
    busy = asyncio.create_task(engine.with_model(lambda _: looks.set() or held.wait(120)))
    await asyncio.to_thread(looks.wait, 120)  # nothing is taken in while it looks
    try:
        crowd = [asyncio.create_task(text_of(engine, request(engine))) for _ in range(200)]
        await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)  # who is refused is refused at once, and all have asked
        done, waiting = [t for t in crowd if t.done()], [t for t in crowd if not t.done()]
        assert done and all(isinstance(t.exception(), Overloaded) for t in done)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert engine.occupancy[1] == 0
        late = asyncio.create_task(text_of(engine, request(engine)))
        assert not (await asyncio.wait({late}, timeout=0.2))[0]  # it waits and was not refused
    finally:
        held.set()
    await busy
    assert await late


async def test_broken_request_fails_alone(engine):
    width = torch.zeros(0, 3)
    broken = ResidualEdit(
        push=torch.zeros(3), w=width, b=torch.zeros(0), threshold=torch.zeros(0), d=width, gate=torch.zeros(0)
    )
    fine = asyncio.create_task(text_of(engine, request(engine)))
    with pytest.raises(EngineFailed):
        await text_of(engine, request(engine, edit={HOOK: broken}))
    assert await fine == await text_of(engine, request(engine))


async def test_giving_up_a_job_leaves_the_engine_alive(engine):
    busy = asyncio.create_task(text_of(engine, request(engine)))
    ids = request(engine).ids
    given_up = [asyncio.create_task(engine.logprobs_unsteered(ids, 1)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    assert await busy
    assert len(await engine.logprobs_unsteered(ids, 1)) == len(ids) - 1


async def test_closed_engine_refuses_instead_of_waiting(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK])
    await engine.close()
    with pytest.raises(EngineFailed, match="shutting down"):
        await asyncio.wait_for(text_of(engine, request(engine)), 120)
    with pytest.raises(EngineFailed, match="shutting down"):
        await asyncio.wait_for(engine.logprobs_unsteered((1, 2), 1), 120)


async def test_when_the_device_is_lost_all_are_told_and_nobody_waits(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK], live=2, queue=8)

    def lost(*_):
        raise RuntimeError("the device is lost")

    endless = request(engine, sampling=Sampling(max_tokens=400, ignore_eos=True))
    busy = [asyncio.create_task(text_of(engine, endless)) for _ in range(4)]
    await eventually(lambda: engine.occupancy[0] == 2)
    engine._batch._cache.begin = engine._batch._cache.wipe = lost
    told = await asyncio.wait_for(asyncio.gather(*busy, return_exceptions=True), 120)
    assert all(isinstance(t, EngineFailed) for t in told)
    assert engine.failure is not None
    for again in (text_of(engine, request(engine)), engine.logprobs_unsteered((1, 2), 1)):
        with pytest.raises(EngineFailed, match="until the server is restarted"):
            await asyncio.wait_for(again, 120)
    await engine.close()


@pytest.mark.parametrize("include", [False, True])
async def test_stop_string_that_spans_tokens_ends_the_reply(engine, include):
    whole = await text_of(engine, request(engine))
    stop = whole[5:9]
    sampling = Sampling(temperature=0, max_tokens=24, ignore_eos=True, stop=(stop,), include_stop_str_in_output=include)
    pieces = [p async for p in engine.generate(request(engine, sampling=sampling))]
    cut = whole.index(stop)
    assert "".join(p.text for p in pieces) == whole[: cut + len(stop) * include]
    assert pieces[-1].finish_reason == "stop"


async def test_length_ends_the_reply_with_its_reason_and_count(engine):
    pieces = [p async for p in engine.generate(request(engine))]
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].tokens == 24


async def test_logprobs_are_those_of_the_model(engine, parts):
    sampling = Sampling(temperature=0, max_tokens=4, ignore_eos=True, logprobs=3)
    generation = request(engine, sampling=sampling)
    tokens = [t async for p in engine.generate(generation) for t in p.logprobs]
    assert len(tokens) == 4
    assert all(t.top[0].token_id == t.token_id and len(t.top) == 3 for t in tokens)
    plain = await engine.logprobs_unsteered([*generation.ids, tokens[0].token_id], len(generation.ids))
    assert plain[0] == pytest.approx(tokens[0].logprob, abs=1e-4)


async def test_record_reads_the_unsteered_stream(engine):
    (x,) = await engine.record([range(5, 15)], HOOK)
    assert x.shape == (10, small_bundle.WIDTH)
    assert torch.equal(x, (await engine.record([range(5, 15)], HOOK))[0])


async def test_raw_text_cannot_hold_special_tokens(engine):
    assert 3 not in engine.encode("<|assistant|> hello")
    assert engine.encode("hello")[0] == 0


async def test_closed_engine_ends_running_replies(parts):
    engine = TransformersEngine(*parts, hooks=[HOOK])
    stream = engine.generate(request(engine, sampling=Sampling(max_tokens=100, ignore_eos=True)))
    await anext(stream)
    await engine.close()
    with pytest.raises(EngineFailed, match="shutting down"):
        async for _ in stream:
            pass


def test_engine_refuses_a_model_on_which_the_tap_does_nothing(parts):
    class Stubborn(torch.nn.Module):
        """Runs a layer past its hooks, as a compiled graph would."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def register_forward_hook(self, hook, **rest):
            return self.layer.register_forward_hook(lambda m, i, out: (hook(m, i, out), out)[1], **rest)

        def forward(self, *args, **rest):
            return self.layer(*args, **rest)

    tok = small_bundle.tokenizer()
    model = small_bundle.model(len(tok)).to(small_bundle.DEVICE)
    layers = decoder_layers(model)
    layers[1] = Stubborn(layers[1])
    with pytest.raises(BadBundle, match="does not move"):
        self_test_tap(model, HOOK)


def test_hook_beyond_the_model_stops_the_start(parts):
    with pytest.raises(SteeringError, match="0…2"):
        TransformersEngine(*parts, hooks=["layers.9"])


def test_folder_without_a_model_stops_the_start(tmp_path):
    with pytest.raises(BadBundle, match="cannot load"):
        TransformersEngine.load(str(tmp_path), hooks=[HOOK])


def test_saved_model_loads_as_from_a_hub(tmp_path):
    folder = small_bundle.write_bundle(tmp_path)
    engine = TransformersEngine.load(str(folder / "model"), hooks=[HOOK], device="cpu")
    assert engine.max_model_len == small_bundle.CONTEXT
    asyncio.run(engine.close())


@pytest.mark.parametrize(
    ("wanted", "words"), [({"device": "tpu"}, "no device 'tpu'"), ({"dtype": "float7"}, "no dtype 'float7'")]
)
def test_a_device_or_a_number_that_is_not_there_is_named(tmp_path, wanted, words):
    with pytest.raises(BadBundle, match=words):
        TransformersEngine.load(str(tmp_path), hooks=[HOOK], **wanted)
