"""Logit lens and output score: the tokens that a direction promotes, and whether a push raises their probability.

Many features are pushed in one forward pass.

The output score is that of Arad, Mueller & Belinkov (2505.20063): P(steered) − P(base), P = (1 − rank ÷ |V|) · p of the
best ranked of the feature's twenty logit-lens tokens, where the next token is predicted after a neutral prompt that is
steered by ten times the feature's typical maximum. It separates features that can steer from those that only detect.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.edits import SteeringTable
from steering.model.hooks import tap
from steering.sae import SAE

NEUTRAL = "In my experience,"
FACTOR, TOKENS = 10.0, 20
SHOWN = 8
AT_ONCE = 64
NORMS = ("model.norm", "ln_f", "final_layer_norm", "language_model.norm")
"""Name suffixes of a model's final norm."""
CELLS = 1 << 25


@torch.no_grad()
def logit_lens(
    model: PreTrainedModel, sae: SAE, *, top: int = TOKENS
) -> tuple[Int[Tensor, "d_sae top"], Int[Tensor, "d_sae top"]]:
    """Return the tokens that each direction raises and lowers most relative to the others, with the gain of the final
    norm.
    """
    head = getattr(model.get_output_embeddings(), "weight")  # noqa: B009 - transformers types it as optional
    head, top = head.float().cpu(), min(top, head.shape[0])
    rows = sae.W_dec.cpu() * _gain(model, sae.d_in)
    middle = rows.mean(0) @ head.T  # what all directions raise is not specific to one
    up, down = [], []
    for some in rows.split(max(1, CELLS // len(head))):
        scores = some @ head.T - middle
        up.append(scores.topk(top).indices)
        down.append((-scores).topk(top).indices)
    return torch.cat(up), torch.cat(down)


@torch.no_grad()
def output_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sae: SAE,
    hook: str,
    typical: Float[Tensor, " d_sae"],
    raised: Int[Tensor, "d_sae top"],
) -> Float[Tensor, " d_sae"]:
    """Return S_out of each feature, −1 … 1; 0 where the typical maximum is 0."""
    bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
    ids = torch.tensor([[*bos, *tokenizer(NEUTRAL, add_special_tokens=False)["input_ids"]]], device=model.device)
    plain = _next_token_probabilities(model, ids)
    found = torch.zeros(sae.d_sae)
    table = SteeringTable(AT_ONCE + 1, sae.d_in, gates=0, device=model.device)
    for some in (typical > 0).nonzero()[:, 0].split(AT_ONCE):
        table.push[1 : len(some) + 1] = (FACTOR * typical[some, None] * sae.W_dec[some].cpu()).to(model.device)
        rows = torch.arange(1, len(some) + 1, device=model.device)[:, None].expand(-1, ids.shape[1]).clone()
        rows[:, : len(bos)] = 0
        with tap(model, {hook: lambda x, rows=rows: table.apply(x, rows)}):
            steered = _next_token_probabilities(model, ids.expand(len(some), -1))
        lists = raised[some]
        found[some] = _rank_weighted(steered, lists) - _rank_weighted(plain.expand(len(some), -1), lists)
    return found


def _next_token_probabilities(model: PreTrainedModel, ids: Tensor) -> Float[Tensor, "batch vocab"]:
    out = model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return out.logits[:, -1].float().softmax(-1).cpu()


def _rank_weighted(p: Float[Tensor, "batch vocab"], lists: Int[Tensor, "batch top"]) -> Float[Tensor, " batch"]:
    """Return (1 − rank ÷ |V|) · p of the likeliest token of each list; the likeliest token of all has rank 0."""
    best = p.gather(1, lists).amax(1)
    rank = (p > best[:, None]).sum(1)
    return (1 - rank / p.shape[1]) * best


def _gain(model: PreTrainedModel, width: int) -> Float[Tensor, " width"]:
    """Return the factors of the final norm, whatever its formula (some add 1): measured with inputs of alternating ±1."""
    found = [m for n, m in model.named_modules() if n.endswith(NORMS) and ".layers." not in n]
    if not found:
        return torch.ones(width)
    norm: nn.Module = found[-1]
    place = next(norm.parameters(), torch.zeros(1))
    v = torch.ones(width, device=place.device, dtype=place.dtype)
    v[1::2] = -1
    return ((norm(v[None]) - norm(-v[None]))[0] / (2 * v)).float().cpu()
