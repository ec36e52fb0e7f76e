"""Attribution of the next token to features: by gradient × activation, and by ablation.

The quantity explained is one number after the last token: `logit[target] − logit[against]`, or `logit[target]` minus
the mean of all logits. To first order, ablating feature i reduces it by

    attribution_i = Σ_t a_i(t) · (∇ₓ[that number](t) · d_i)

The exact reduction is measured: the features with the most attribution and the most activation are ablated, with the
SAE's error term kept, many of them in one batch. The first token is left out of both: no SAE is trained on it, and its
apparent features are the attention sink.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.edits import ResolvedIntervention, SteeringTable, compile_edit
from steering.errors import SteeringError
from steering.model.hooks import tap
from steering.sae import SAE

AT_ONCE = 32
"""Ablations in one batch."""


@dataclass(frozen=True)
class Cause:
    """Contribution of one feature to the next token."""

    row: int
    attribution: float
    """First-order contribution, by the gradient."""
    ablation: float | None
    """Measured reduction without it. None if it was not ablated."""
    activation: float
    """Sum over the tokens."""
    peak: int
    """Token on which its attribution is largest."""


@dataclass(frozen=True)
class Attributed:
    """Contributions of all features that fire, and the quantity explained."""

    target: int
    against: int | None
    value: float
    probability: float
    """Probability of the target as the next token."""
    causes: tuple[Cause, ...]
    """Largest absolute attribution first."""

    @property
    def explained(self) -> float:
        """Sum of all attributions: to first order, the reduction without any feature."""
        return sum(c.attribution for c in self.causes)


def attribute(
    model: PreTrainedModel,
    sae: SAE,
    hook: str,
    ids: Sequence[int],
    *,
    target: int | None = None,
    against: int | None = None,
    tried: int | None = 20,
    breathe: Callable[[], None] = lambda: None,
) -> Attributed:
    """Attribute the token after `ids`: `target`, or the model's own argmax. `tried` by each ranking are ablated; None:
    all.

    Raises SteeringError if the SAE cannot be read, or if there is no token before the explained one.
    """
    sae.check_reads()
    if len(ids) < 2:
        raise SteeringError("there is no text before the token that is explained; give at least one token")
    row = torch.tensor([list(ids)], device=model.device)
    seen: dict[str, Tensor] = {}

    def hold(x: Tensor) -> Tensor:
        seen["x"] = x.detach().requires_grad_()
        return seen["x"]

    with torch.enable_grad(), tap(model, {hook: hold}):
        logits = _last(model, row)[0]
        aim = int(logits.argmax()) if target is None else target
        value = _value(logits, aim, against)
        (gradient,) = torch.autograd.grad(value, seen["x"])
    x = seen["x"].detach()[0, 1:].float()  # [time − 1, d_in]
    with torch.no_grad():
        a = sae.encode(x.to(sae.W_enc.device))
        each = a * (gradient[0, 1:].float().to(a.device) @ sae.W_dec.T)  # [time − 1, d_sae]
        total, activation = each.sum(0), a.sum(0)
        alive = (activation > 0).nonzero()[:, 0].tolist()
        order = sorted(alive, key=lambda i: -abs(float(total[i])))
        busiest = sorted(alive, key=lambda i: -float(activation[i]))
        wanted = order if tried is None else list(dict.fromkeys([*order[:tried], *busiest[:tried]]))
        breathe()
        lost = _ablated(model, sae, hook, row, wanted, float(value.detach()), aim, against)
    peaks = each.abs().argmax(0)
    causes = tuple(Cause(i, float(total[i]), lost.get(i), float(activation[i]), int(peaks[i]) + 1) for i in order)
    return Attributed(aim, against, float(value.detach()), float(logits.detach().softmax(-1)[aim]), causes)


def token_of(tokenizer: PreTrainedTokenizerFast, text: str, *, param: str = "target") -> int:
    """Return the one token of a text, with a leading space if only that is one token. Raises SteeringError with the
    pieces.
    """
    for said in (text, f" {text}"):
        found = tokenizer(said, add_special_tokens=False)["input_ids"]
        if len(found) == 1:
            return int(found[0])
    pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = ", ".join(repr(tokenizer.decode([i])) for i in pieces[:6])
    raise SteeringError(f"{text!r} is {len(pieces)} tokens ({shown}); give one of them", param=param)


def _ablated(
    model: PreTrainedModel,
    sae: SAE,
    hook: str,
    ids: Int[Tensor, "1 time"],
    rows: Sequence[int],
    value: float,
    target: int,
    against: int | None,
) -> dict[int, float]:
    """Return by how much the value falls without each of the features."""
    found: dict[int, float] = {}
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        table = SteeringTable(len(some) + 1, sae.d_in, gates=len(some), device=sae.W_dec.device, scaling=sae.scaling)
        for n, i in enumerate(some, 1):
            table.set(n, compile_edit([ResolvedIntervention(i, "ablate", 0.0)], sae))
        mine = torch.arange(1, len(some) + 1, device=ids.device)[:, None].repeat(1, ids.shape[1])
        mine[:, 0] = 0
        with tap(model, {hook: lambda x, table=table, mine=mine: table.apply(x, mine)}):
            logits = _last(model, ids.repeat(len(some), 1))
        found |= {i: value - float(_value(row, target, against)) for i, row in zip(some, logits, strict=True)}
    return found


def _last(model: PreTrainedModel, ids: Int[Tensor, "rows time"]) -> Float[Tensor, "rows vocab"]:
    return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()


def _value(logits: Float[Tensor, " vocab"], target: int, against: int | None) -> Float[Tensor, ""]:
    return logits[target] - (logits.mean() if against is None else logits[against])
