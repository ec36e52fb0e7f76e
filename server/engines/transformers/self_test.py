"""Start-up self-tests: steering moves the stream by the given vector, and cached passes agree with a plain one.

They run on the model that is going to serve, whatever its architecture: what fails here would otherwise be served as
steered without being it, or give another text than the model's own.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.llama_pass import BLOCK, LlamaPass
from steering.edits import ResidualEdit
from steering.errors import BadBundle
from steering.model.architecture import reason_unserved
from steering.model.hooks import decoder_layers, read_stream, record, steer

LENGTHS = (18, 11)
"""Tokens of the two sequences that are computed in one batch."""
CHUNK = 8
"""Tokens of them that are computed in the first pass."""
LARGEST_ERROR = {torch.float32: 0.01, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Largest error of the logits over their own spread. Rounding gave 5e-6, 0.06 and 0.008 on
SmolLM2; tests hold that a wrong mask is above the line.
"""


def self_test_tap(model: PreTrainedModel, hook: str) -> None:
    """Add a known vector to the stream and read it back. Raises BadBundle if the stream did not
    change by exactly that."""
    ids = torch.tensor([[1, 2, 3]], device=model.device) % model.config.get_text_config().vocab_size
    d_in = model.config.get_text_config().hidden_size
    probe = torch.linspace(-1, 1, d_in, device=model.device)
    none, empty = torch.zeros(0, d_in, device=model.device), torch.zeros(0, device=model.device)
    edit = ResidualEdit(push=probe, w=none, b=empty, threshold=empty, d=none, gate=empty)
    before = read_stream(model, ids, hook)
    with steer(model, {hook: edit}), record(model, [hook]) as seen, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    if not torch.equal(seen[hook], before + probe.to(before.dtype)) or len(decoder_layers(model)) == 0:
        raise BadBundle(
            f"the tap at {hook!r} does not move the residual stream; refusing to serve unsteered replies as steered"
        )


def self_test_cache(model: PreTrainedModel, llama: LlamaPass | None = None) -> None:
    """Compute two sequences in a batch, in chunks, with the engine's cache and pass, and compare with one plain pass for
    each by the model's own modules.

    Raises BadBundle with the reason if this engine cannot generate with the architecture.
    """
    if reason := reason_unserved(model):
        raise _unserved(model, reason)
    vocab = int(model.config.get_text_config().vocab_size)
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(vocab, (n,), generator=draw).to(model.device) for n in LENGTHS]
    try:
        plain = [_plain(model, ids) for ids in sequences]
        cached = _cached(model, llama, sequences)
    except Exception as error:  # whatever an architecture's own code raises when it meets this cache
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise _unserved(model, f"its pass with this engine's key-value cache fails: {reason}") from error
    worst = max(_error(ours, theirs) for ours, theirs in zip(cached, plain, strict=True))
    if not worst <= LARGEST_ERROR.get(model.dtype, 0.01):
        raise _unserved(model, f"its logits with this engine's key-value cache are off by {worst:.2f} of their spread")


@torch.no_grad()
def _plain(model: PreTrainedModel, ids: Int[Tensor, "time"]) -> Float[Tensor, "time vocab"]:
    return model(input_ids=ids[None], use_cache=False).logits[0].float()


@torch.no_grad()
def _cached(
    model: PreTrainedModel, llama: LlamaPass | None, sequences: list[Int[Tensor, "time"]]
) -> list[Float[Tensor, "time vocab"]]:
    """Logits of each sequence: a first chunk, the next one beside the other's, and one token."""
    config = model.config.get_text_config()
    cache = KVCache(len(sequences), BLOCK)
    masks = AttentionMasks(config, model.dtype, visible=llama is not None)
    found: list[list[Tensor]] = [[] for _ in sequences]
    starts = [0] * len(sequences)
    view = torch.arange(len(sequences), device=model.device)
    for rows, ends in [
        (view, [CHUNK] * len(sequences)),
        (view, [n - 1 for n in LENGTHS]),
        (slice(0, len(sequences)), list(LENGTHS)),
    ]:
        at = torch.full((len(ends), max(e - s for s, e in zip(starts, ends, strict=True))), -1)
        tokens = torch.zeros_like(at)
        for i, (ids, start, end) in enumerate(zip(sequences, starts, ends, strict=True)):
            at[i, : end - start], tokens[i, : end - start] = torch.arange(start, end), ids[start:end].cpu()
        seen = BLOCK if llama else int(at.max()) + 1
        at, tokens = at.to(model.device), tokens.to(model.device)
        cache.begin(rows, at, seen)
        if llama:
            wanted, decoding = torch.arange(at.shape[1]), isinstance(rows, slice)
            logits = llama(tokens, at, cache=cache, masks=masks, wanted=wanted, steer={}, decoding=decoding)
        else:
            mask, positions = masks.build(at, seen), at.clamp(min=0)
            logits = model(
                input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
            ).logits.float()
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            found[i].append(logits[i, : end - start])
        starts = ends
        cache.put(0, cache.take(0, starts[0]), starts[0])  # as a prefix is kept and found again
    return [torch.cat(parts) for parts in found]


def _error(ours: Float[Tensor, "time vocab"], theirs: Float[Tensor, "time vocab"]) -> float:
    """Root mean square of the difference over that of the logits around their mean."""
    spread = theirs - theirs.mean(-1, keepdim=True)
    return float((ours - theirs).square().mean().sqrt() / spread.square().mean().sqrt().clamp(min=1e-6))


def _unserved(model: PreTrainedModel, reason: str) -> BadBundle:
    return BadBundle(
        f"the engine 'transformers' cannot serve a {type(model).__name__}: {reason}; choose a model of another "
        "architecture, or try --engine vllm"
    )
