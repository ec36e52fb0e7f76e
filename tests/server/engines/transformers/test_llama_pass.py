"""The Llama family's own pass: what transformers' modules compute, and no row depends on who else is in the pass."""

import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.llama_pass import BLOCK, LlamaPass
from server.engines.transformers.loading import load
from server.engines.transformers.weights import is_available, packed
from steering.edits import ResolvedIntervention, compile_edit
from steering.errors import BadBundle
from steering.model.hooks import record
from tests.support import small_bundle
from tests.support.published_models import MODELS, Published

FAMILY = [
    m
    for m in MODELS
    if m.config in ("LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config") and "Qwen 2 " not in m.name
]
WIDE = Published("wide", "LlamaConfig", "byte-level", "smollm2", {"hidden_size": 64, "intermediate_size": 96})
LENGTH = 90
pytestmark = pytest.mark.skipif(small_bundle.DEVICE != "cpu", reason="this pass is for a CPU")


def built(published, dtype=torch.float32):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(published.build_config(400)).to(dtype).eval()


@torch.no_grad()
def computed(model, ids, packed_as=None, *, chunk=LENGTH):
    """Logits and streams of our pass over one sequence, in chunks; `chunk` 1 decodes."""
    ours = LlamaPass(model, packed_as)
    cache, masks = KVCache(1, 2 * BLOCK), AttentionMasks(model.config, model.dtype, visible=True)
    streams = [[] for _ in model.model.layers]
    steer = {i: lambda x, i=i: (streams[i].append(x), x)[1] for i in range(len(streams))}
    logits = []
    for start in range(0, len(ids), chunk):
        at = torch.arange(start, min(len(ids), start + chunk))[None]
        cache.begin(slice(0, 1), at, 2 * BLOCK)
        wanted = torch.arange(at.shape[1])
        tokens = ids[at[0]][None]
        logits.append(ours(tokens, at, cache=cache, masks=masks, wanted=wanted, steer=steer, decoding=chunk == 1))
    return torch.cat(logits, 1)[0], [torch.cat(s, 1)[0] for s in streams]


@pytest.mark.parametrize("published", FAMILY, ids=lambda m: m.name)
@pytest.mark.parametrize("chunk", [LENGTH, 40, 1])
def test_every_layer_is_transformers_own(published, chunk):
    model = built(published)
    ids = torch.randint(400, (LENGTH,), generator=torch.Generator().manual_seed(1))
    logits, streams = computed(model, ids, chunk=chunk)
    hooks = [f"layers.{i}" for i in range(len(streams))]
    with record(model, hooks) as seen, torch.no_grad():
        expected = model(ids[None], use_cache=False).logits[0]
    for hook, stream in zip(hooks, streams, strict=True):
        torch.testing.assert_close(stream, seen[hook][0], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["int8", "int4", "lossless"])
def test_packed_weights_say_nearly_the_same(kind):
    model = built(WIDE, torch.bfloat16)
    ids = torch.randint(400, (40,), generator=torch.Generator().manual_seed(1))
    plain, _ = computed(model, ids)
    ours, _ = computed(model, ids, kind, chunk=1)
    error = float((ours - plain).norm() / plain.norm())
    assert 0 < error < {"int8": 0.1, "lossless": 0.1, "int4": 0.7}[kind]


def test_a_matrix_that_was_in_four_bits_is_found_again():
    torch.manual_seed(0)
    levels, scale, low = torch.randint(0, 16, (32, 2, 32)), torch.rand(32, 2, 1) / 16, -torch.rand(32, 2, 1)
    levels[..., 0], levels[..., 1] = 0, 15
    weight = (levels * scale + low).view(32, 64)
    x = torch.randn(3, 64).bfloat16()
    exact = x.float() @ weight.T
    for kind, most in (("lossless", 0.01), ("int4", 0.01)):
        assert float((packed(weight, kind)(x).float() - exact).norm() / exact.norm()) < most
    other = torch.randn(32, 64)
    loss = float((packed(other, "int4")(x).float() - x.float() @ other.T).norm() / (x.float() @ other.T).norm())
    assert loss > 0.03
    assert torch.equal(packed(other, "lossless")(x), packed(other, "int8")(x))


def test_a_shape_that_four_bits_do_not_fit_is_told():
    assert is_available("int4", 64, 64)
    assert not is_available("int4", 64, 48)
    assert not is_available("int4", 24, 64)
    assert torch.equal(
        packed(torch.ones(24, 48), "lossless")(torch.ones(1, 48).bfloat16()), torch.full((1, 24), 48.0).bfloat16()
    )


def test_weights_that_a_model_cannot_have_are_refused_with_the_way_out(tmp_path):
    other = next(m for m in MODELS if m.name == "GPT-2").write(tmp_path)
    with pytest.raises(BadBundle, match=r"no int8 weights for a GPT2LMHeadModel on cpu here: .*--weights auto"):
        load(str(other), device="cpu", weights="int8")


@pytest.mark.parametrize(
    ("weights", "dtype", "kind"),
    [
        ("auto", torch.float32, None),  # too small to pack
        ("float32", torch.float32, None),
        ("bfloat16", torch.bfloat16, None),
        ("int8", torch.bfloat16, "int8"),
        ("int4", torch.bfloat16, "int4"),
    ],
)
def test_weights_decide_the_dtype(weights, dtype, kind, tmp_path):
    model, _, packed_as = load(str(WIDE.write(tmp_path)), device="cpu", weights=weights)
    assert (model.dtype, packed_as) == (dtype, kind)


SAMPLING = Sampling(temperature=0, max_tokens=6, ignore_eos=True)
EDITS = [
    {"layers.1": compile_edit([ResolvedIntervention(i, "add", 20.0), ResolvedIntervention(i + 7, "clamp", 9.0)], small_bundle.sae())}
    for i in range(4)
]  # fmt: skip


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8", "int4"])
def engine(request):
    kind = request.param if request.param.startswith("int") else None
    model = built(WIDE, torch.float32 if request.param == "float32" else torch.bfloat16)
    engine = TransformersEngine(model, WIDE.tokenizer_object(), hooks=["layers.1"], live=16, packed_as=kind)
    yield engine
    asyncio.run(engine.close())


async def replies(engine, prompts):
    async def one(ids, edits, salt):
        wanted = Generation(ids, (True,) * len(ids), True, edits, salt, tenant=salt, sampling=SAMPLING)
        return [i async for p in engine.generate(wanted) for i in p.ids]

    return await asyncio.gather(*(one(ids, edits, salt) for ids, edits, salt in prompts))


@given(
    seed=st.integers(0, 2**16),
    lengths=st.lists(st.integers(1, 150), min_size=2, max_size=16),
)
@settings(max_examples=8, deadline=None)
def test_a_greedy_reply_is_the_same_alone_and_among_others(engine, seed, lengths):
    draw = torch.Generator().manual_seed(seed)
    prompts = [
        (tuple(torch.randint(3, 300, (n,), generator=draw).tolist()), EDITS[i % 4] if i % 3 else {}, f"{seed}-{i}")
        for i, n in enumerate(lengths)
    ]
    alone = [asyncio.run(replies(engine, [(ids, edits, f"{salt}-alone")]))[0] for ids, edits, salt in prompts]
    assert asyncio.run(replies(engine, prompts)) == alone
    assert asyncio.run(replies(engine, prompts[::-1])) == alone[::-1]  # prompts out of the prefix cache
