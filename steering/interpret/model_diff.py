"""Model diff: features whose firing rate differs between two checkpoints on the same documents.

Both streams are encoded by one SAE, so a feature means the same in both as long as the SAE still explains the stream:
its explained variance in each is reported. Documents are paired with themselves: the share of tokens on which a feature
fires, with either model. The test is a sign permutation test; discoveries are selected by Benjamini–Hochberg q-values;
a checkpoint compared with itself has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from steering.errors import SteeringError
from steering.evaluate.statistics import benjamini_hochberg, paired_permutation_test
from steering.interpret.contrast import Tested
from steering.model.hooks import decoder_layers, layer_number, read_stream
from steering.sae import SAE

FEW = 6
"""Least number of documents whose rates differ for a feature to be tested: with fewer, no p is below 0.03."""


@dataclass(frozen=True, eq=False)
class FiringRates:
    """Firing of each feature in each document, with one model."""

    share: NDArray[np.float32]
    """`[documents, d_sae]`: the share of tokens on which a feature fires."""
    mean: NDArray[np.float64]
    """Mean activation of each feature over all tokens."""
    explained: float
    """Explained variance of the SAE."""
    tokens: int


@dataclass(frozen=True)
class Changed(Tested):
    """One feature with both models; `a` and `b` are the mean shares of a document's tokens on which it fires."""

    up: int
    down: int
    """Number of documents in which it fires more, and less, with B."""


@dataclass(frozen=True)
class ModelDiff:
    """All features that were tested, smallest p first."""

    features: tuple[Changed, ...]
    documents: int
    explained: tuple[float, float]

    @property
    def discoveries(self) -> tuple[Changed, ...]:
        """Features that changed, at a false-discovery rate of 5 %: largest change first."""
        return tuple(sorted((f for f in self.features if f.discovery), key=lambda f: -abs(f.b - f.a)))


def check_fits(model: PreTrainedModel, sae: SAE, hook: str, name: str) -> None:
    """Raise SteeringError if the SAE does not fit this model's width or layers."""
    sae.check_reads()
    width, layers = int(model.config.get_text_config().hidden_size), len(decoder_layers(model))
    if width != sae.d_in:
        raise SteeringError(
            f"{name}: its stream is {width} wide, the SAE reads {sae.d_in}; give checkpoints of one model"
        )
    if layer_number(hook) >= layers:
        raise SteeringError(f"{name}: it has layers 0…{layers - 1}, the SAE reads {hook}")


@torch.no_grad()
def firing_rates(model: PreTrainedModel, sae: SAE, hook: str, documents: Sequence[Sequence[int]]) -> FiringRates:
    """Return firing rates, without each document's first token. Raises SteeringError for documents under two tokens, or
    none.
    """
    if not documents:
        raise SteeringError("there is no text to read")
    shares, sums, n = [], torch.zeros(sae.d_sae, dtype=torch.float64), 0
    error, square, total = 0.0, 0.0, torch.zeros(sae.d_in, dtype=torch.float64)
    for ids in documents:
        x = read_stream(model, torch.tensor([list(ids)], device=model.device), hook)[0, 1:].float().cpu()
        if not len(x):
            raise SteeringError("a text holds a single token; leave it out")
        a = sae.encode(x)
        shares.append((a > 0).float().mean(0).numpy())
        sums += a.double().sum(0)
        error += float((x - sae.decode(a, x)).double().pow(2).sum())
        square, total, n = square + float(x.double().pow(2).sum()), total + x.double().sum(0), n + len(x)
    variance = square - float(total.pow(2).sum()) / n
    return FiringRates(np.stack(shares), (sums / n).numpy(), 1 - error / max(variance, 1e-12), n)


def diff_models(a: FiringRates, b: FiringRates, *, seed: int = 0) -> ModelDiff:
    """Test the firing rates of two models on the same documents."""
    change = b.share.astype(np.float64) - a.share
    rows = np.flatnonzero((change != 0).sum(0) >= min(FEW, len(change)))
    p = paired_permutation_test(change[:, rows], seed=seed) if len(rows) else np.ones(0)
    q = benjamini_hochberg(p)
    found = (
        Changed(
            int(row),
            float(a.share[:, row].mean()),
            float(b.share[:, row].mean()),
            float(a.mean[row]),
            float(b.mean[row]),
            float(p[i]),
            float(q[i]),
            up=int((change[:, row] > 0).sum()),
            down=int((change[:, row] < 0).sum()),
        )
        for i, row in enumerate(rows)
    )
    features = tuple(sorted(found, key=lambda f: (f.p, -abs(f.b - f.a))))
    return ModelDiff(features, len(change), (a.explained, b.explained))
