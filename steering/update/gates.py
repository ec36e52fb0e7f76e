"""Gates of an update: quality, identity and behaviour metrics that a candidate revision has to pass.

Each gate has a value, its limit and a sentence. A feature's identity is its direction: the cosine to its direction in
the parent and at its creation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue, Resolved
from steering.errors import SteeringError
from steering.evaluate.loss_recovered import loss_recovered
from steering.evaluate.sae_metrics import measure_sae
from steering.model.activations import padded_batches
from steering.model.hooks import read_stream, steer
from steering.sae import SAE
from steering.spec import Preset
from steering.train.weights import Rows

PURE = 1 / 3
"""Largest share of a feature's firing on the texts of few users; half would leave nothing for texts not seen."""


@dataclass(frozen=True)
class Gate:
    """One value and its limit."""

    name: str
    value: float
    limit: float
    at_most: bool
    says: str

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; NaN never is."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def as_row(self) -> dict[str, Any]:
        """Return the gate as a row of a report."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out rows of the stream, `[rows, d_in]`, and token ids of texts: old, and old and new together."""

    old: Rows
    mixed: Rows
    texts: Sequence[list[int]]
    prompts: Sequence[list[int]]
    """Prompts that end with the generation prompt."""


def quality_gates(model: PreTrainedModel, hook: str, parent: SAE, new: SAE, held: HeldOut, k: float) -> list[Gate]:
    """Gates on reconstruction, sparsity and the model's loss: not worse on old text, better on the mixture."""
    was, now = (measure_sae(sae, held.old.split(4096)) for sae in (parent, new))
    was_mixed, now_mixed = (measure_sae(sae, held.mixed.split(4096)) for sae in (parent, new))
    batches = list(padded_batches(held.texts, batch=8, longest=256, pad=0))
    lost, loses = (loss_recovered(model, sae, batches, hook).rise for sae in (parent, new))
    unexplained = (1 - now.explained_variance) / (1 - was.explained_variance) - 1
    gained = 1 - (1 - now_mixed.explained_variance) / (1 - was_mixed.explained_variance)
    lengths = (new.W_dec.norm(dim=1) - 1).abs().max()
    finite = all(bool(torch.isfinite(t).all()) for t in (new.W_enc, new.b_enc, new.W_dec, new.b_dec, new.threshold))
    return [
        Gate(
            "unexplained_old",
            unexplained,
            0.01,
            True,
            f"explained variance on old text {was.explained_variance:.4f} → {now.explained_variance:.4f}",
        ),
        Gate(
            "gain_mixed",
            gained,
            0.01,
            False,
            f"explained variance on old and new text {was_mixed.explained_variance:.4f} → {now_mixed.explained_variance:.4f}",
        ),
        Gate("loss_rise", loses - lost, max(0.005, 0.05 * abs(lost)), True, f"ΔCE {lost:.4f} → {loses:.4f} nats"),
        Gate("l0", abs(now.l0 - k) / k, 0.05, True, f"{now.l0:.1f} features a token for {k:.1f}"),
        Gate("bias", abs(now.bias - 1), 0.03, True, f"reconstruction bias {now.bias:.3f}"),
        Gate("dead", now_mixed.dead - was_mixed.dead, 0.01, True, f"dead {was_mixed.dead:.2%} → {now_mixed.dead:.2%}"),
        Gate("weights", float(lengths) if finite else float("nan"), 1e-3, True, "weights are finite, rows of length 1"),
    ]


def identity_gates(
    parent: SAE, new: SAE, fired: Float[Tensor, " d_sae"], pinned: Mapping[int, Tensor], kept: Int[Tensor, " kept"]
) -> list[Gate]:
    """Gates on the identity of features. `pinned` are rows with their directions at creation.

    `kept` are the rows of the parent that are still the same feature, `fired` the firing counts of the parent's
    features.
    """
    cosine = (new.W_dec[: parent.d_sae] * parent.W_dec).sum(1)
    rows = sorted(pinned)
    birth = min((float(new.W_dec[i] @ pinned[i]) for i in rows), default=1.0)
    to_parent = min((float(cosine[i]) for i in rows), default=1.0)
    weight = fired[kept] / fired[kept].sum()
    same = float((weight * (cosine[kept] >= 0.9)).sum())
    swapped = _swapped(parent, new, kept)
    return [
        Gate("pinned_birth", birth, 0.98, False, f"{len(rows)} features of presets: least cosine to birth {birth:.4f}"),
        Gate("pinned_parent", to_parent, 0.99, False, f"their least cosine to the parent {to_parent:.4f}"),
        Gate("identity", same, 0.98, False, f"{same:.2%} of what fires has a cosine of 0.9 and more to the parent"),
        Gate(
            "swapped",
            float(swapped.float().mean()),
            0.005,
            True,
            f"{int(swapped.sum())} features took the direction of another one",
        ),
    ]


@torch.no_grad()
def behaviour_gates(
    model: PreTrainedModel, parent: Bundle, new: Bundle, presets: Sequence[Preset], prompts: Sequence[list[int]]
) -> list[Gate]:
    """Gates on presets: KL of the next-token distribution on `prompts`, from the parent's steering to the candidate's."""
    plain, found = _next_log_probs(model, None, prompts), []
    for preset in presets:
        try:
            before, after = (Catalogue([b]).resolve(preset.steering, preset.pins) for b in (parent, new))
            one, other = (_next_log_probs(model, r, prompts) for r in (before, after))
            kl = float((one.exp() * (one - other)).sum(-1).mean())
            push = float((one.exp() * (one - plain)).sum(-1).mean())
            line = f"{preset.name}: KL {kl:.4f} nats; the preset itself is {push:.2f} from the unsteered model"
        except SteeringError as error:
            kl, line = float("nan"), f"{preset.name}: {error}"
        found.append(Gate(f"preset:{preset.id}", kl, 0.05, True, line))
    return found


def export_gate(new: SAE, written: SAE, rows: Rows) -> Gate:
    """Gate on the written files: they reconstruct as the trained SAE does."""
    here, there = new.reconstruct(rows), written.reconstruct(rows)
    off = float((here - there).norm() / here.norm())
    return Gate("export", off, 1e-4, True, "the written SAE reconstructs as the trained one")


@dataclass(frozen=True)
class Suspect:
    """A feature that fires mostly on the texts of few users."""

    row: int
    share: float
    """Share of its firing on those users' texts."""
    users: int
    says: str


def find_suspects(
    counts: Float[Tensor, "users d_sae"], others: Float[Tensor, " d_sae"], *, least: int, most: float = PURE
) -> dict[int, Suspect]:
    """Return the rows that have more than `most` of their firing on the texts of `least / 2` users.

    `counts` is how often each feature fires on each user's texts, `others` on the corpus. So a feature that does not
    fire on the corpus needs at least `least` users, and no half of them can create one.
    """
    if not len(counts):
        return {}
    half = max(1, least // 2)
    few = counts.sort(0, descending=True).values[:half].sum(0)
    share = few / (counts.sum(0) + others).clamp_min(1e-9)
    found = {}
    for row in (share > most).nonzero()[:, 0].tolist():
        users = int((counts[:, row] > 0).sum())
        behind = "one user" if min(users, half) == 1 else f"{min(users, half)} users"
        says = f"{float(share[row]):.0%} of where it fires is on texts of {behind}; {least} have to be behind it"
        found[row] = Suspect(row, float(share[row]), users, says)
    return found


def _swapped(parent: SAE, new: SAE, kept: Int[Tensor, " kept"]) -> Tensor:
    """Return which kept features are nearer to another row of the parent than to their own."""
    own = (new.W_dec[kept] * parent.W_dec[kept]).sum(1)
    best = torch.cat([(part @ parent.W_dec.T).max(1).values for part in new.W_dec[kept].split(1024)])
    return (best > 0.7) & (best > own + 1e-4)


def _next_log_probs(
    model: PreTrainedModel, resolved: Resolved | None, prompts: Sequence[list[int]]
) -> Float[Tensor, "n vocab"]:
    """Log-probabilities after each prompt, steered at its last token."""
    found = []
    for ids in prompts:
        where = torch.zeros(1, len(ids), dtype=torch.bool)
        where[0, -1] = True
        with steer(model, resolved.edits if resolved else {}, where=where):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        found.append(logits.float().log_softmax(-1))
    return torch.stack(found)


@torch.no_grad()
def firings_by_owner(
    model: PreTrainedModel,
    sae: SAE,
    hook: str,
    texts: Sequence[list[int]],
    owners: Sequence[int],
    n: int,
    *,
    skip: set[int],
) -> Float[Tensor, "n d_sae"]:
    """Return on how many tokens of each owner's texts each feature fires, without first tokens and ids in `skip`."""
    counts = torch.zeros(n, sae.d_sae)
    left_out = torch.tensor(sorted(skip), dtype=torch.long)
    for ids, owner in zip(texts, owners, strict=True):
        tokens = torch.tensor([ids])
        x = read_stream(model, tokens, hook)[0].float()
        on = (sae.encode(x) > 0) & ~torch.isin(tokens[0], left_out)[:, None]
        counts[owner] += on[1:].sum(0)
    return counts


def without_rows(new: SAE, parent: SAE, rows: Sequence[int]) -> SAE:
    """Return `new` with these rows as in the parent; rows that the parent does not have are removed."""
    parts = {n: getattr(new, n).clone() for n in ("W_enc", "b_enc", "W_dec", "threshold")}
    back = [row for row in rows if row < parent.d_sae]
    parts["W_enc"][:, back], parts["W_dec"][back] = parent.W_enc[:, back], parent.W_dec[back]
    parts["b_enc"][back], parts["threshold"][back] = parent.b_enc[back], parent.threshold[back]
    stay = [row for row in range(new.d_sae) if row < parent.d_sae or row not in {*rows}]
    return replace(
        new,
        W_enc=parts["W_enc"][:, stay],
        W_dec=parts["W_dec"][stay],
        b_enc=parts["b_enc"][stay],
        threshold=parts["threshold"][stay],
    )
