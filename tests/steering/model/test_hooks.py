"""Hooks: steering and recording change one layer of a real transformers model, and are removed completely."""

import pytest
import torch
from torch import nn

from steering.edits import ResolvedIntervention, compile_edit
from steering.errors import SteeringError, UnknownArchitecture
from steering.model.hooks import decoder_layers, layer_number, read_stream, record, steer

IDS = torch.arange(12).reshape(2, 6)
HOOKS = ["layers.0", "layers.1", "layers.2"]


def streams(model, edits=None, where=None):
    with torch.no_grad(), steer(model, edits or {}, where=where), record(model, HOOKS) as seen:
        logits = model(input_ids=IDS).logits
    return dict(seen), logits


def edit(sae, *items):
    return compile_edit([ResolvedIntervention(*i) for i in items], sae)


def test_empty_spec_is_bit_identical_to_no_hook(any_model):
    with torch.no_grad():
        plain = any_model(input_ids=IDS).logits
    assert torch.equal(streams(any_model)[1], plain)


def test_steering_touches_its_layer_and_none_before(any_model, sae):
    push = edit(sae, (3, "add", 4.0))
    before, after = streams(any_model)[0], streams(any_model, {"layers.1": push})[0]
    assert torch.equal(after["layers.0"], before["layers.0"])
    assert torch.equal(after["layers.1"], before["layers.1"] + push.push)
    assert not torch.equal(after["layers.2"], before["layers.2"])


def test_gated_edit_reads_the_unsteered_stream(any_model, sae):
    clamp = edit(sae, (3, "clamp", 4.0), (5, "ablate", 0.0))
    before, after = streams(any_model)[0], streams(any_model, {"layers.1": clamp})[0]
    torch.testing.assert_close(after["layers.1"], before["layers.1"] + clamp.delta(before["layers.1"]))


def test_only_the_marked_tokens_move(llama, sae):
    where = torch.zeros(2, 6, dtype=torch.bool)
    where[0, 4:] = True
    before, after = streams(llama)[0], streams(llama, {"layers.1": edit(sae, (3, "add", 4.0))}, where)[0]
    assert torch.equal(after["layers.1"][~where], before["layers.1"][~where])
    assert not torch.equal(after["layers.1"][where], before["layers.1"][where])


def test_no_trace_is_left_even_after_an_error(llama, sae):
    plain = streams(llama)[1]
    with pytest.raises(RuntimeError, match="broken"), steer(llama, {"layers.1": edit(sae, (3, "add", 4.0))}):
        raise RuntimeError("broken")
    assert all(not layer._forward_hooks for layer in decoder_layers(llama))
    assert torch.equal(streams(llama)[1], plain)


def test_reading_stops_after_the_layer_and_equals_a_full_pass(any_model):
    full = streams(any_model)[0]["layers.1"]
    later = decoder_layers(any_model)[2]
    called = []
    handle = later.register_forward_hook(lambda *_: called.append(1))
    assert torch.equal(read_stream(any_model, IDS, "layers.1"), full)
    handle.remove()
    assert not called


def test_unknown_architecture_is_refused_with_what_was_looked_for():
    with pytest.raises(UnknownArchitecture, match=r"Linear.*model\.layers"):
        decoder_layers(nn.Linear(2, 2))


@pytest.mark.parametrize("hook", ["layer.1", "layers", "layers.x", "layers.-1"])
def test_malformed_hook_point_is_refused(hook):
    with pytest.raises(SteeringError, match="form"):
        layer_number(hook)


def test_hook_point_beyond_the_model_is_refused(llama, sae):
    with pytest.raises(SteeringError, match=r"0…2"), steer(llama, {"layers.3": edit(sae, (3, "add", 1.0))}):
        pass
