"""Rewindable CPU generator: draws of a seeded request can be undone, as vLLM does with chunked prefill."""

from types import SimpleNamespace

import torch

from server.engines.vllm.plugin import Rewindable, _make_rewindable


def runner(seed=7):
    generator = torch.Generator("cpu").manual_seed(seed)
    request = SimpleNamespace(generator=generator)
    batch = SimpleNamespace(generators={0: generator}, req_ids=["r0"])
    return SimpleNamespace(input_batch=batch, requests={"r0": request})


def draw(generator):
    return torch.empty(8).exponential_(generator=generator)


def test_a_draw_that_is_thrown_away_leaves_no_trace():
    plain, made = runner(), runner()
    expected = [draw(plain.requests["r0"].generator) for _ in range(3)]
    found = []
    for step in range(4):
        _make_rewindable(made)
        generator = made.input_batch.generators[0]
        drawn = draw(generator)
        if step == 0:  # half of a prompt: vLLM moves the offset back
            generator.set_offset(generator.get_offset() - 4)
        else:
            found.append(drawn)
    assert all(a.equal(b) for a, b in zip(expected, found, strict=True))


def test_batch_and_request_share_one_generator_and_keep_it():
    made = runner()
    _make_rewindable(made)
    first = made.input_batch.generators[0]
    assert isinstance(first, Rewindable)
    assert made.requests["r0"].generator is first
    _make_rewindable(made)
    assert made.input_batch.generators[0] is first
