"""One formula, four modes: alone, mixed in a batch, and poisoned."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steering.edits import ResolvedIntervention, SteeringTable, apply_where, compile_edit
from steering.errors import BadStrength

from .conftest import random_sae

SAE_64 = random_sae()
MODES = ("add", "clamp", "scale", "ablate")
some = st.lists(
    st.builds(ResolvedIntervention, index=st.integers(0, 63), mode=st.sampled_from(MODES), raw=st.floats(-4, 4)),
    max_size=6,
    unique_by=lambda i: i.index,
)


def stream(n=5, seed=1):
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


def by_the_book(x, items, sae):
    """The formula of `edits`, one feature and one token at a time."""
    out = x.clone().double()
    for t in range(len(x)):
        for i in items:
            pre = float(x[t].double() @ sae.W_enc[:, i.index].double() + sae.b_enc[i.index].double())
            live = pre if pre > float(sae.threshold[i.index]) else 0.0
            out[t] += i.scale * (i.target / i.scale - i.gate / i.scale * live) * sae.W_dec[i.index].double()
    return out.float()


@given(some)
@settings(deadline=None)
def test_edit_equals_the_formula(items):
    x = stream()
    torch.testing.assert_close(
        x + compile_edit(items, SAE_64).delta(x), by_the_book(x, items, SAE_64), atol=1e-5, rtol=1e-5
    )


@given(some, st.randoms())
@settings(deadline=None)
def test_order_of_interventions_does_not_matter(items, random):
    x, mixed = stream(), list(items)
    random.shuffle(mixed)
    torch.testing.assert_close(
        compile_edit(items, SAE_64).delta(x), compile_edit(mixed, SAE_64).delta(x), atol=1e-5, rtol=1e-5
    )


@given(st.lists(some, min_size=1, max_size=5))
@settings(deadline=None)
def test_mixed_batch_equals_each_alone(batches):
    table = SteeringTable(len(batches) + 1, 32)
    for row, items in enumerate(batches, 1):
        table.set(row, compile_edit(items, SAE_64))
    x, rows = stream(4 * (len(batches) + 1)), torch.arange(4 * (len(batches) + 1)) % (len(batches) + 1)
    out = table.apply(x, rows)
    assert torch.equal(out[rows == 0], x[rows == 0])
    for row, items in enumerate(batches, 1):
        alone = x[rows == row]
        torch.testing.assert_close(
            out[rows == row], alone + compile_edit(items, SAE_64).delta(alone), atol=1e-5, rtol=1e-5
        )


def test_no_interventions_move_nothing():
    x = stream()
    assert torch.equal(x + compile_edit([], SAE_64).delta(x), x)


def test_push_moves_the_stream_by_exactly_its_vector():
    x, edit = (
        stream(),
        compile_edit([ResolvedIntervention(3, "add", 2.0), ResolvedIntervention(4, "add", -1.0)], SAE_64),
    )
    assert torch.equal(apply_where(edit, x, torch.ones(5, dtype=torch.bool)), x + edit.push)


def orthonormal_sae():
    from steering.sae import SAE

    eye = torch.eye(32)
    return SAE(W_enc=eye, b_enc=torch.zeros(32), W_dec=eye, b_dec=torch.zeros(32), threshold=torch.zeros(32))


def test_clamp_to_zero_removes_the_feature():
    sae, x = orthonormal_sae(), stream().abs()
    moved = x + compile_edit([ResolvedIntervention(7, "clamp", 0.0)], sae).delta(x)
    assert sae.encode(moved)[:, 7].abs().max() < 1e-6


def test_clamp_keeps_the_error_term():
    sae, x = orthonormal_sae(), stream()
    moved = x + compile_edit([ResolvedIntervention(7, "clamp", 5.0)], sae).delta(x)
    others = torch.arange(32) != 7
    assert torch.equal(moved[:, others], x[:, others])
    torch.testing.assert_close(moved[x[:, 7] > 0, 7], torch.full((int((x[:, 7] > 0).sum()),), 5.0))


def test_clamp_to_its_own_activation_changes_nothing():
    x = stream(1)
    live = float(SAE_64.encode(x)[0].max())
    index = int(SAE_64.encode(x)[0].argmax())
    edit = compile_edit([ResolvedIntervention(index, "clamp", live)], SAE_64)
    torch.testing.assert_close(x + edit.delta(x), x)


def test_tokens_out_of_scope_are_bit_identical():
    x, where = stream(), torch.tensor([True, False, True, False, False])
    moved = apply_where(compile_edit([ResolvedIntervention(1, "clamp", 9.0)], SAE_64), x, where)
    assert torch.equal(moved[~where], x[~where])
    assert not torch.equal(moved[where], x[where])


@pytest.mark.parametrize("raw", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["add", "clamp", "scale"])
def test_strength_that_is_not_finite_is_refused(raw, mode):
    with pytest.raises(BadStrength, match="finite"):
        compile_edit([ResolvedIntervention(1, mode, raw)], SAE_64)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poisoned_row_cannot_reach_its_neighbours(poison):
    table = SteeringTable(3, 32)
    fine = compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SAE_64)
    table.set(1, fine)
    table.set(2, fine)
    for buffer in (table.push, table.w, table.d, table.b, table.gate):
        buffer[2] = poison
    x = stream(3)
    out = table.apply(x, torch.tensor([0, 1, 2]))
    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out[1], x[1] + fine.delta(x[1]), atol=1e-5, rtol=1e-5)


def test_table_refuses_a_poisoned_edit():
    from dataclasses import replace

    edit = compile_edit([ResolvedIntervention(1, "add", 2.0)], SAE_64)
    with pytest.raises(BadStrength):
        SteeringTable(2, 32).set(1, replace(edit, push=edit.push * float("nan")))


def test_row_zero_cannot_be_set():
    with pytest.raises(ValueError, match="row 0 steers nothing"):
        SteeringTable(2, 32).set(0, compile_edit([], SAE_64))


def test_cleared_row_steers_nothing():
    table = SteeringTable(2, 32)
    table.set(1, compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SAE_64))
    table.clear(1)
    x = stream(2)
    assert torch.equal(table.apply(x, torch.tensor([1, 1])), x)
