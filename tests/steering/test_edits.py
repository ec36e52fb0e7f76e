"""Steering formula in four modes: alone, mixed in a batch, and with NaN or infinity."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from steering.edits import ResolvedIntervention, SteeringTable, apply_where, compile_edit
from steering.errors import BadStrength
from steering.sae import SAE
from tests.steering.conftest import random_sae

SAE_64 = random_sae()
SCALED = [random_sae(scaling=s) for s in ("length", "spread")]
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
            s = {"none": 1.0, "length": float(x[t].norm()) / 32**0.5, "spread": float(x[t].std()) + 1e-5}[sae.scaling]
            pre = float(x[t].double() @ sae.W_enc[:, i.index].double() + s * sae.b_enc[i.index].double())
            live = pre if pre > s * float(sae.threshold[i.index]) else 0.0
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
    table, fine = SteeringTable(3, 32), compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SAE_64)
    table.set(1, fine)
    table.set(2, fine)
    x = stream(3)
    expected = x[1] + fine.delta(x[1])
    table.push[2] = poison
    for buffer in (table.w, table.b, table.gate):
        buffer[1] = poison
    x[2] = poison
    out = table.apply(x, torch.tensor([0, 1, 2]))
    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out[1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["push", "w", "b", "threshold", "d", "gate"])
def test_table_refuses_a_poisoned_edit(part):
    edit = compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SAE_64)
    table = SteeringTable(2, 32)
    with pytest.raises(BadStrength, match="NaN"):
        table.set(1, replace(edit, **{part: getattr(edit, part) * float("nan")}))
    assert table.used == 0


def test_gates_of_rows_that_left_are_used_again():
    table, edit = (
        SteeringTable(4, 32, gates=4),
        compile_edit([ResolvedIntervention(i, "ablate", 0) for i in (1, 2)], SAE_64),
    )
    table.set(1, edit)
    table.set(2, edit)
    with pytest.raises(BadStrength, match="2 gated features; 0 more fit"):
        table.set(3, edit)
    table.clear(1)
    table.set(3, edit)
    x = stream(3)
    torch.testing.assert_close(table.apply(x, torch.tensor([3, 2, 1])), torch.stack([*(x + edit.delta(x))[:2], x[2]]))
    for row in (2, 3):
        table.clear(row)
    assert table.used == 0


def test_captured_graph_steers_by_what_is_in_the_table_when_it_runs():
    table, x, rows = SteeringTable(3, 32, gates=8), stream(6), torch.zeros(6, dtype=torch.long)
    graph = make_fx(lambda x, rows: table.apply(x, rows, all_gates=True))(x, rows)  # captured while nobody steers
    assert torch.equal(graph(x, rows), x)
    table.set(1, compile_edit([ResolvedIntervention(2, "clamp", 3.0), ResolvedIntervention(5, "add", 1.0)], SAE_64))
    table.set(2, compile_edit([ResolvedIntervention(7, "scale", 4.0)], SAE_64))
    rows = torch.tensor([0, 1, 2, 1, 0, 2])
    assert not torch.equal(graph(x, rows), x)
    torch.testing.assert_close(graph(x, rows), table.apply(x, rows))


def test_row_zero_cannot_be_set():
    with pytest.raises(ValueError, match="row 0 steers nothing"):
        SteeringTable(2, 32).set(0, compile_edit([], SAE_64))


def test_cleared_row_steers_nothing():
    table = SteeringTable(2, 32)
    table.set(1, compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SAE_64))
    table.clear(1)
    x = stream(2)
    assert torch.equal(table.apply(x, torch.tensor([1, 1])), x)


@given(some, st.sampled_from(SCALED))
@settings(deadline=None)
def test_edit_of_a_scaled_sae_equals_the_formula(items, sae):
    x = stream() * 4 + 1
    torch.testing.assert_close(x + compile_edit(items, sae).delta(x), by_the_book(x, items, sae), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scaling", ["length", "spread"])
def test_clamp_sets_a_scaled_activation_to_what_was_asked(scaling):
    rows = torch.randn(8, 32)
    rows = torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    parts = {"W_enc": rows.T, "b_enc": torch.full((8,), 0.3), "W_dec": rows, "b_dec": torch.randn(32)}
    sae, x = SAE(**parts, threshold=torch.full((8,), 0.1), scaling=scaling), stream(40) * 5
    on = sae.encode(x)[:, 3] > 0
    moved = x + compile_edit([ResolvedIntervention(3, "clamp", 12.0)], sae).delta(x)
    scale = {"length": x.norm(dim=1) / 32**0.5, "spread": x.std(dim=1) + 1e-5}[scaling]
    torch.testing.assert_close(  # read at the scale of the token that was there
        (moved @ sae.W_enc + scale[:, None] * sae.b_enc)[on, 3], torch.full((int(on.sum()),), 12.0)
    )
    assert 0 < int(on.sum()) < 40
    gone = x + compile_edit([ResolvedIntervention(3, "ablate", 0.0)], sae).delta(x)
    assert torch.equal(gone[~on], x[~on])


@pytest.mark.parametrize("sae", SCALED, ids=lambda s: s.scaling)
def test_mixed_batch_of_a_scaled_sae_equals_each_alone_captured_or_not(sae):
    table, x = SteeringTable(4, 32, gates=8, scaling=sae.scaling), stream(12) * 3
    graph = make_fx(lambda x, rows: table.apply(x, rows, all_gates=True))(x, torch.zeros(12, dtype=torch.long))
    edits = [
        compile_edit([ResolvedIntervention(i, m, 2.0), ResolvedIntervention(i + 9, "add", 1.0)], sae)
        for i, m in enumerate(("clamp", "scale", "ablate"))
    ]
    for row, edit in enumerate(edits, 1):
        table.set(row, edit)
    rows = torch.arange(12) % 4
    out = table.apply(x, rows)
    assert torch.equal(out[rows == 0], x[rows == 0])
    for row, edit in enumerate(edits, 1):
        alone = x[rows == row]
        torch.testing.assert_close(out[rows == row], alone + edit.delta(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(graph(x, rows), out)
    x[rows == 2] = float("nan")
    beside = table.apply(x, rows)
    assert torch.equal(beside[rows == 1], out[rows == 1])
    assert torch.equal(beside[rows == 0], x[rows == 0])


def test_a_table_takes_gates_of_its_own_kind_alone():
    table = SteeringTable(2, 32)
    table.set(1, compile_edit([ResolvedIntervention(1, "add", 2.0)], SCALED[0]))  # a push reads nothing
    with pytest.raises(ValueError, match="scaling 'length' does not fit a table with 'none'"):
        table.set(1, compile_edit([ResolvedIntervention(1, "clamp", 2.0)], SCALED[0]))


@pytest.mark.parametrize("mode", ["clamp", "scale", "ablate"])
def test_directions_can_be_added_and_nothing_else(mode):
    sae, x = SAE.directions(SAE_64.W_dec), stream()
    moved = x + compile_edit([ResolvedIntervention(5, "add", 3.0)], sae).delta(x)
    torch.testing.assert_close(moved, x + 3 * SAE_64.W_dec[5])
    with pytest.raises(BadStrength, match=f"feature 5 cannot be steered by '{mode}'.*use the mode 'add'"):
        compile_edit([ResolvedIntervention(5, mode, 3.0)], sae)


@given(some, st.sampled_from([SAE_64, *SCALED]))
@settings(deadline=None)
def test_preserved_norm_is_the_formula_scaled_to_the_length_of_each_token(items, sae):
    x = stream() * 4 + 1
    edit, moved = compile_edit(items, sae, preserve=True), by_the_book(x, items, sae)
    wanted = moved * (x.norm(dim=1) / moved.norm(dim=1))[:, None]
    torch.testing.assert_close(x + edit.delta(x), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((x + edit.delta(x)).norm(dim=1), x.norm(dim=1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_edit_that_preserves_the_norm_is_bit_identical_to_none(dtype):
    x, table = stream(8).to(dtype), SteeringTable(3, 32)
    silent = ResolvedIntervention(3, "ablate", 0.0)  # a feature that no token has
    x -= 9 * SAE_64.W_enc[:, 3].to(dtype)
    for row, items in ((1, []), (2, [silent])):
        edit = compile_edit(items, SAE_64, preserve=True)
        table.set(row, edit)
        assert torch.equal(x + edit.delta(x), x)
    for all_gates in (False, True):
        assert torch.equal(table.apply(x, torch.arange(8) % 3, all_gates=all_gates), x)


def test_rows_with_and_without_the_norm_do_not_touch_each_other_captured_or_not():
    x, onto, rows = stream(8), stream(8, seed=2), torch.arange(8) % 4
    table = SteeringTable(4, 32, gates=8)
    graph = make_fx(lambda x, rows: table.apply(x, rows, onto=onto, all_gates=True))(x, rows)
    items = [ResolvedIntervention(2, "clamp", 3.0), ResolvedIntervention(5, "add", 4.0)]
    before = compile_edit(items, SAE_64)
    table.set(1, before)
    alone = table.apply(x, torch.where(rows == 1, 1, 0), onto=onto)
    for row in (2, 3):
        table.set(row, compile_edit(items[row - 2 :], SAE_64, preserve=True))
    out = table.apply(x, rows, onto=onto)
    assert torch.equal(out[rows == 1], alone[rows == 1])
    assert torch.equal(out[rows == 0], onto[rows == 0])
    for row in (2, 3):
        edit = compile_edit(items[row - 2 :], SAE_64, preserve=True)
        mine = rows == row
        torch.testing.assert_close(out[mine], onto[mine] + edit.delta(x[mine]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(graph(x, rows), out)
    table.clear(2)
    table.set(2, before)  # a row that is used again keeps nothing of the last
    assert torch.equal(
        table.apply(x, torch.where(rows == 2, 2, 0), onto=onto)[rows == 2],
        (table.apply(x, torch.where(rows == 2, 1, 0), onto=onto)[rows == 2]),
    )


def test_a_long_push_with_the_norm_preserved_turns_the_stream_into_its_direction():
    x = stream()
    edit = compile_edit([ResolvedIntervention(5, "add", 1e6)], SAE_64, preserve=True)
    wanted = SAE_64.W_dec[5] * x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(x + edit.delta(x), wanted, atol=1e-3, rtol=1e-3)
