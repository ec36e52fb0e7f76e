"""Words of a feature: tokens that occur where it fires, by contrast with the corpus.

A token counts for a feature if the feature fired on it or on one of the few before it. Words are ranked by the z-score
of their log-odds there against the corpus, with the corpus as an informative Dirichlet prior (Monroe, Colaresi & Quinn
2008). The decoder is not used, so an effect on these words is no tautology.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from steering.model.hooks import read_stream
from steering.sae import SAE

AFTER = 4
"""Tokens that still count after one on which a feature fires."""
STRONG = 0.3
"""Share of a feature's typical maximum below which firing does not count."""
SURE = 4.0
"""Least z-score of a word."""
PRIOR = 500.0
"""Weight of the prior, in tokens."""


@torch.no_grad()
def count_contexts(
    model: PreTrainedModel,
    sae: SAE,
    hook: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    rows: Sequence[int],
    typical: Float[Tensor, " features"],
    vocab: int,
) -> tuple[Float[Tensor, "features vocab"], Float[Tensor, " vocab"]]:
    """Count each token where each of the SAE's `rows` fires, and overall. Memory: features × vocabulary."""
    near, total = torch.zeros(vocab, len(rows)), torch.zeros(vocab)
    chosen = torch.tensor(list(rows), dtype=torch.long, device=sae.W_enc.device)
    some = sae.only(chosen)
    for ids, real in batches:
        keep = real.clone()
        keep[:, 0] = False
        x = read_stream(model, ids.to(model.device), hook, attention_mask=real.long().to(model.device)).float()
        strong = (some.encode(x).cpu() > STRONG * typical) & keep[..., None]  # [batch, time, features]
        there = strong.clone()
        for later in range(1, AFTER + 1):
            there[:, later:] |= strong[:, :-later]
        there &= keep[..., None]
        at, hits = ids[keep], there[keep].float()
        near.index_add_(0, at, hits)
        total.index_add_(0, at, torch.ones(len(at)))
    return near.T, total


def most_telling_tokens(
    near: Float[Tensor, "features vocab"],
    total: Float[Tensor, " vocab"],
    word: Callable[[int], bool],
    *,
    most: int = 12,
    sure: float = SURE,
) -> list[Int[Tensor, " words"]]:
    """Return the tokens that are much more frequent there than elsewhere, largest z-score first.

    `word` filters tokens, `sure` is the least z-score.
    """
    elsewhere = (total - near).clamp(min=0)
    prior = PRIOR * (total + 1e-3) / (total + 1e-3).sum()
    here, there = near + prior, elsewhere + prior
    n, m = here.sum(1, keepdim=True), there.sum(1, keepdim=True)
    delta = (here / (n - here)).log() - (there / (m - there)).log()
    z = delta / (1 / here + 1 / there).sqrt()
    allowed = torch.tensor([word(i) for i in range(len(total))]) & (total > 0)
    z = torch.where(allowed & (near > 2), z, -torch.inf)
    best = z.topk(min(most, z.shape[1]), dim=1)
    return [ids[scores > sure] for scores, ids in zip(best.values, best.indices, strict=True)]
