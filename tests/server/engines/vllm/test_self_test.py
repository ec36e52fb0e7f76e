"""The start-up self-test on the hook itself, without vLLM: what works passes in each type, what doesn't is caught."""

import pytest
import torch

from server.engines.vllm.plugin import Tap
from server.engines.vllm.self_test import START, moved_as_asked, probe_for, probe_ids
from steering.edits import ResolvedIntervention, SteeringTable, compile_edit
from steering.sae import SAE

D_IN = 96
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=["unit rows", "rows of other lengths"])
def sae(request):
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(8, D_IN, generator=generator), dim=1)
    if request.param == "rows of other lengths":
        W_dec = W_dec * torch.tensor([0.0, 0.3, 4.0, 1.0, 1.0, 1.0, 1.0, 0.1])[:, None]
    return SAE(W_dec.T.contiguous(), torch.zeros(8), W_dec, torch.zeros(D_IN), torch.zeros(8))


def parts_of_a_stream(length, dtype):
    """`hidden` and `residual` as long as each other, of a sum of a given length; the first token's is 150 times longer."""
    generator = torch.Generator().manual_seed(1)
    hidden, residual = (torch.randn(len(probe_ids(1000)), D_IN, generator=generator) for _ in range(2))
    size = torch.full((len(hidden), 1), length / (2 * D_IN) ** 0.5)
    size[0] *= 150
    return (hidden * size).to(dtype), (residual * size).to(dtype)


def streams(sae, length, dtype, *, factor=1.0, shift=0):
    """The stream without and with the push, as the hook records it; a faulty hook's factor and shift of positions."""
    hidden, residual = parts_of_a_stream(length, dtype)
    n = len(hidden)
    tap = Tap(SteeringTable(2, D_IN), rows=torch.zeros(n, dtype=torch.long), stream=torch.zeros(n, D_IN, dtype=dtype))
    tap.looked_at = True
    tap.apply(hidden, residual)
    plain = tap.stream.to(torch.float32, copy=True)
    probe = probe_for(sae, plain)
    tap.table.set(1, compile_edit([ResolvedIntervention(probe.row, "add", probe.amount * factor)], sae))
    start, end = probe.span
    tap.rows[start + shift : end + shift], tap.idle = 1, False
    tap.apply(hidden, residual)
    return probe, plain, tap.stream.float()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [0.5, 12.0, 158.0])
def test_a_hook_that_works_passes_in_each_type_on_a_stream_of_any_length(sae, length, dtype):
    assert moved_as_asked(*streams(sae, length, dtype), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.8, 1.2, 2.0, -1.0])
def test_a_hook_that_pushes_by_another_amount_is_caught(sae, factor, dtype):
    assert not moved_as_asked(*streams(sae, 158.0, dtype, factor=factor), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shift", [-START, -1, 1])
def test_a_hook_that_pushes_other_positions_is_caught(sae, shift, dtype):
    assert not moved_as_asked(*streams(sae, 158.0, dtype, shift=shift), dtype)


def test_a_stream_that_is_not_finite_is_caught(sae):
    probe, plain, moved = streams(sae, 12.0, torch.float32)
    moved[3, 0] = torch.nan
    assert not moved_as_asked(probe, plain, moved, torch.float32)


def test_the_probe_is_made_of_ids_all_over_the_vocabulary():
    assert all(0 <= i < 300 for i in probe_ids(300))
    assert len(set(probe_ids(300))) == len(probe_ids(49_152))
