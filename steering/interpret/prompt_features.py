"""Features of prompts: relevance of each feature for a text, and what several texts have in common.

A feature is scored by its strongest token: activation ÷ typical maximum × log(1 ÷ density), as in `analyse`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.interpret.analysis import COMMON
from steering.model.passage import NOBODY, Passage

ROWS = 1024


@torch.no_grad()
def features_of_prompt(
    bundle: Bundle, passage: Passage, stream: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, " d_sae"]:
    """Return the relevance of each row for one text; the first of several tokens is left out."""
    sae = bundle.sae
    owned = torch.tensor([p != NOBODY for p in passage.part])
    owned[0] &= len(owned) == 1
    peak = torch.zeros(sae.d_sae)
    for x in stream.float().to(sae.W_enc.device)[owned.to(sae.W_enc.device)].split(ROWS):
        peak = torch.maximum(peak, sae.encode(x).amax(0).cpu())
    typical = torch.tensor([f.typical_max for f in bundle.features])
    rare = torch.tensor([math.log(1 / min(1.0, max(COMMON, f.density))) for f in bundle.features])
    return peak / torch.where(typical > 0, typical, peak.clamp(min=1e-9)) * rare


def features_in_common(
    these: Sequence[Float[Tensor, " d_sae"]], without: Sequence[Float[Tensor, " d_sae"]] = ()
) -> Float[Tensor, " d_sae"]:
    """Return relevance for all of `these` and none of `without`: minimum over the former minus maximum over the latter."""
    least = torch.stack(list(these)).amin(0)
    return (least - torch.stack(list(without)).amax(0) if without else least).clamp(min=0)
