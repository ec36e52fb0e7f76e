"""Mechanics of steering, M1 to M10, each with its pass line. Slow implementations are the reference of fast ones."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.resolve import Catalogue
from steering.doses.measure import pushes_along
from steering.doses.rollouts import Rollouts
from steering.edits import ResolvedIntervention, SteeringTable, compile_edit
from steering.model.hooks import read_stream, record, steer
from steering.sae import SAE
from steering.spec import Intervention, SteeringSpec
from tests.steering.conftest import SIZES

HOOK = "layers.1"
IDS = torch.tensor([[5, 17, 23, 8, 61, 30]])


@pytest.fixture
def planted():
    """An orthonormal SAE: 32 directions in a stream of 32, each read by itself."""
    rows = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    return SAE(rows.T.contiguous(), torch.zeros(32), rows, torch.zeros(32), torch.zeros(32))


def moved(model, edit, **where):
    with torch.no_grad(), record(model, ["layers.0", HOOK, "layers.2"]) as plain:
        logits = model(input_ids=IDS, use_cache=False).logits
    # Reads come after the push: hooks run in the order in which they were put on.
    with torch.no_grad(), steer(model, {HOOK: edit}, **where), record(model, ["layers.0", HOOK, "layers.2"]) as seen:
        steered = model(input_ids=IDS, use_cache=False).logits
    return plain, seen, logits, steered


def test_m1_nothing_is_bit_identical_to_no_hook(any_model, sae):
    with torch.no_grad():
        plain = any_model(input_ids=IDS).logits
        for edit in (
            pushes_along(sae.W_dec[0])(0.0),
            compile_edit([], sae),
            compile_edit([ResolvedIntervention(3, "scale", 1.0)], sae),
            compile_edit([], sae, preserve=True),
        ):
            with steer(any_model, {HOOK: edit}, where=torch.ones_like(IDS, dtype=torch.bool)):
                assert any_model(input_ids=IDS).logits.equal(plain)


def test_m2_an_addition_moves_the_stream_by_exactly_its_sum(llama, sae):
    edit = compile_edit([ResolvedIntervention(i, "add", s) for i, s in ((0, 2.0), (5, -1.5), (9, 0.7))], sae)
    plain, seen, *_ = moved(llama, edit)
    wanted = 2.0 * sae.W_dec[0] - 1.5 * sae.W_dec[5] + 0.7 * sae.W_dec[9]
    norm = plain[HOOK].norm(dim=-1).median()
    assert ((seen[HOOK] - plain[HOOK]) - wanted).abs().max() <= 1e-5 * norm


def test_m3_a_clamp_sets_what_the_same_encoder_reads(llama, planted):
    plain = planted.encode(read_stream(llama, IDS, HOOK))[0]
    feature = int((plain > 0).sum(0).argmax())
    _, seen, *_ = moved(llama, compile_edit([ResolvedIntervention(feature, "clamp", 3.0)], planted))
    on = plain[:, feature] > 0  # where it was below zero, that is error, and kept
    again = planted.encode(seen[HOOK])[0]
    assert on.sum() >= 3
    assert (again[on, feature] - 3.0).abs().max() <= 1e-5
    others = torch.arange(32) != feature
    assert (again[:, others] - plain[:, others]).abs().max() <= 1e-5


def test_m4_the_error_term_is_kept(llama, sae):
    """Clamping a feature to what it is anyway changes nothing: the stream is never replaced by its reconstruction."""
    x = read_stream(llama, IDS, HOOK)
    a = sae.encode(x)
    for t in range(x.shape[1]):
        live = a[0, t].argmax()
        edit = compile_edit([ResolvedIntervention(int(live), "clamp", float(a[0, t, live]))], sae)
        torch.testing.assert_close(x[0, t] + edit.delta(x[0, t]), x[0, t], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", [[0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
def test_m5_outside_of_the_scope_nothing_moves(any_model, sae, mask):
    where = torch.tensor([mask], dtype=torch.bool)
    plain, seen, *_ = moved(any_model, pushes_along(sae.W_dec[2])(4.0), where=where)
    assert seen[HOOK][~where].equal(plain[HOOK][~where])
    assert (seen[HOOK][where] - plain[HOOK][where]).abs().min(dim=-1).values.max() > 0


def test_m6_no_spec_passes_the_budget(sae, tmp_path):
    """A thousand random specs, cut where they are too long: never longer than is allowed."""
    from server.serving.served_model import ServedModel
    from server.settings import Settings
    from steering.catalogue.revisions import Revisions  # noqa: F401 - the type of a field

    info = BundleInfo(name="b", model="m", hook=HOOK, revision="r1", typical_norm=5.0)
    features = [Feature(id=f"b/{i}", index=i, dose=4.0, typical_max=2.0) for i in range(64)]
    catalogue = Catalogue([Bundle(tmp_path, info, sae, features)])
    tiller = ServedModel(None, catalogue, None, Settings(data_dir=tmp_path, max_push=1.5), None)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    cut = 0
    for _ in range(1000):
        n = int(torch.randint(1, 9, (1,), generator=g))
        rows = torch.randperm(64, generator=g)[:n].tolist()
        strengths = (4 * torch.randn(n, generator=g)).tolist()
        spec = SteeringSpec(
            features=tuple(Intervention(id=f"b/{i}", strength=s) for i, s in zip(rows, strengths, strict=True))
        )
        resolved, factor = tiller._scale_to_budget(spec, {})
        cut += factor is not None
        assert float(resolved.edits[HOOK].push.norm()) <= 1.5 * 5.0 * (1 + 1e-6)
    assert cut > 100


def test_m7_the_order_of_sliders_does_not_matter(sae):
    items = [ResolvedIntervention(i, "add", 1.0 + i) for i in range(6)]
    one, other = compile_edit(items, sae).push, compile_edit(items[::-1], sae).push
    assert (one - other).abs().max() <= 1e-5


def test_m8_kl_grows_with_the_square_of_small_pushes(llama, sae):
    """CE = H + KL is held in test_rollouts; here the slope of log KL over log strength."""
    from steering.model.chat_template import EncodedChat

    chats = [EncodedChat(tuple(IDS[0].tolist()), (False,) * 5 + (True,), "")]
    stage = Rollouts.prepare(llama, HOOK, chats, tokens=6)
    small, twice = stage.run([pushes_along(sae.W_dec[7])(s) for s in (0.02, 0.04)])
    slope = float((twice.kl.mean() / small.kl.mean()).log2())
    assert 1.8 <= slope <= 2.2


def test_m9_a_batch_a_cache_and_pieces_say_what_one_pass_says(llama, sae):
    """Alone and in a batch of eight, with the cache and without: the same logits (engines: tests/contract)."""
    edits = [pushes_along(sae.W_dec[i])(2.0 + i) for i in range(8)]
    table = SteeringTable(9, 32, gates=0)
    for i, edit in enumerate(edits, 1):
        table.set(i, edit)
    rows = torch.arange(1, 9)[:, None].expand(8, IDS.shape[1])
    from steering.model.hooks import tap

    with torch.no_grad(), tap(llama, {HOOK: lambda x: table.apply(x, rows[:, : x.shape[1]])}):
        batch = llama(input_ids=IDS.expand(8, -1), use_cache=False).logits
    for i, edit in enumerate(edits):
        with torch.no_grad(), steer(llama, {HOOK: edit}):
            alone = llama(input_ids=IDS, use_cache=False).logits
            first = llama(input_ids=IDS[:, :4], use_cache=True)
            rest = llama(input_ids=IDS[:, 4:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(batch[i], alone[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(rest[0], alone[0, 4:], rtol=0, atol=1e-4)


def test_m10_layers_before_the_hook_are_untouched():
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    rows = torch.nn.functional.normalize(torch.randn(4, 32), dim=1)
    plain, seen, logits, steered = moved(model, pushes_along(rows[0])(5.0))
    assert seen["layers.0"].equal(plain["layers.0"])
    assert not seen["layers.2"].equal(plain["layers.2"])
    assert not steered.equal(logits)
