"""Describe every feature of an SAE in one pass: how often and how strongly it fires, where, and what it says.

Knows a model, an SAE and token batches; nothing of labels by people. Memory is bounded: per feature it
keeps a histogram and the few best examples.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue import Feature
from steering.hooks import read_stream
from steering.sae import SAE

BINS = 200


@dataclass
class Tally:
    """What one pass has seen of each feature so far."""

    tokens: int
    fired: Tensor
    top: Float[Tensor, " d_sae"]
    histogram: Tensor
    """Counts of firing activations in `BINS` equal parts of `[0, limit]`, per feature."""
    limit: float
    best: list[list[tuple[float, list[int], int]]]
    """Per feature: activation, context ids, position in it; strongest first."""


def describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sae: SAE,
    hook: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    bundle: str,
    examples: int = 6,
    context: int = 12,
) -> list[Feature]:
    """Return one catalogue row per feature, with a label drawn from the tokens on which it fires most."""
    tally: Tally | None = None
    for ids, real in batches:
        keep = real.clone()
        keep[:, 0] = False
        a = sae.encode(read_stream(model, ids, hook, attention_mask=real.long()).float())
        a = torch.where(keep[..., None], a, 0.0)
        tally = tally or _new_tally(sae, float(a.max()) * 2)
        _count(tally, a, keep)
        _keep_best(tally, a, ids, real, examples, context)
    assert tally is not None, "nothing to describe: no batches"
    logits = top_logits(model, sae, tokenizer)
    return [_feature(i, tally, tokenizer, logits[i], bundle) for i in range(sae.d_sae)]


@torch.no_grad()
def top_logits(
    model: PreTrainedModel, sae: SAE, tokenizer: PreTrainedTokenizerFast, *, top: int = 8
) -> list[dict[str, list[str]]]:
    """Tokens that each direction raises and lowers most, read through the gain of the final norm."""
    norm = next((m for n, m in model.named_modules() if n.endswith(("model.norm", "ln_f"))), None)
    gain = getattr(norm, "weight", torch.ones(sae.d_in))
    head = getattr(model.get_output_embeddings(), "weight")  # noqa: B009 - transformers types it as optional
    scores = (sae.W_dec * gain.float()) @ head.float().T  # [d_sae, vocab]
    scores = scores - scores.mean(0)
    up, down = scores.topk(top).indices.tolist(), (-scores).topk(top).indices.tolist()
    return [
        {"positive": [str(tokenizer.decode([t])) for t in p], "negative": [str(tokenizer.decode([t])) for t in n]}
        for p, n in zip(up, down, strict=True)
    ]


def _new_tally(sae: SAE, limit: float) -> Tally:
    m = sae.d_sae
    return Tally(
        0, torch.zeros(m, dtype=torch.long), torch.zeros(m), torch.zeros(m, BINS), limit, [[] for _ in range(m)]
    )


def _count(tally: Tally, a: Tensor, keep: Tensor) -> None:
    tally.tokens += int(keep.sum())
    tally.fired += (a > 0).sum((0, 1))
    tally.top = torch.maximum(tally.top, a.amax((0, 1)))
    b, t, f = (a > 0).nonzero(as_tuple=True)
    bins = (a[b, t, f] / tally.limit * BINS).long().clamp(max=BINS - 1)
    tally.histogram.view(-1).index_add_(0, f * BINS + bins, torch.ones(len(f)))


def _keep_best(tally: Tally, a: Tensor, ids: Tensor, real: Tensor, examples: int, context: int) -> None:
    """One candidate per text and feature: the token on which it fires most."""
    peak, where = a.max(dim=1)  # [batch, d_sae]
    for row, f in (peak > 0).nonzero().tolist():
        value, held = float(peak[row, f]), tally.best[f]
        if len(held) == examples and value <= held[-1][0]:
            continue
        at = int(where[row, f])
        start, end = max(0, at - context), min(int(real[row].sum()), at + context // 2)
        held.append((value, ids[row, start:end].tolist(), at - start))
        held.sort(key=lambda e: -e[0])
        del held[examples:]


def _feature(
    index: int, tally: Tally, tokenizer: PreTrainedTokenizerFast, logits: dict[str, list[str]], bundle: str
) -> Feature:
    best = tally.best[index]
    return Feature(
        id=f"{bundle}/{index}",
        index=index,
        label_source="auto" if best else "none",
        label=_label([ids[: at + 1] for _, ids, at in best], logits["positive"], tokenizer) if best else "never fired",
        density=round(int(tally.fired[index]) / tally.tokens, 7),
        max_activation=round(float(tally.top[index]), 4),
        typical_max=round(_quantile(tally, index, 0.995), 4),
        top_logits=logits,
        examples=[
            {"text": tokenizer.decode(ids), "token": tokenizer.decode([ids[at]]), "at": at, "activation": round(v, 3)}
            for v, ids, at in best
        ],
    )


def _label(texts: list[list[int]], raised: list[str], tokenizer: PreTrainedTokenizerFast) -> str:
    """Name a feature by the longest ending that half of its best texts share, and by the words that it raises."""
    shared: list[str] = []
    for length in range(1, 5):
        endings = Counter(tuple(t[-length:]) for t in texts if len(t) >= length).most_common(1)
        if not endings or endings[0][1] * 2 < len(texts):
            break
        shared = [str(tokenizer.decode(list(endings[0][0]))).strip()]
    if not any(shared):
        words = (str(tokenizer.decode(t[-1:])).strip() for t in texts)
        shared = [w for w, _ in Counter(w for w in words if w).most_common(2)]
    said = [t.strip() for t in raised if t[:1] == " " and t.strip().isalpha()][:2]  # words, no word's inside
    return f"on “{' / '.join(shared)}”" + (f", says “{' '.join(said)}”" if said else "")


def _quantile(tally: Tally, index: int, q: float) -> float:
    counts = tally.histogram[index].cumsum(0)
    if not counts[-1]:
        return 0.0
    reached = int(torch.searchsorted(counts, q * counts[-1]))
    return min(float(tally.top[index]), (reached + 1) / BINS * tally.limit)
