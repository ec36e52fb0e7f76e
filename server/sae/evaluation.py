"""SAE evaluation: explained variance, L0, dead features, loss recovered."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from server.sae.corpus import SAMPLE, read_texts, tokenize_texts
from server.sae.model_loading import load_model
from steering import formats
from steering.errors import BadBundle, SteeringError
from steering.evaluate.loss_recovered import LossRecovered, loss_recovered
from steering.evaluate.sae_metrics import SaeMetrics, measure_sae
from steering.formats import ImportedSae
from steering.model.activations import activations, padded_batches
from steering.model.hooks import layer_number
from steering.sae import SAE

LONGEST = 512


def read_sae(place: Path, hook: str | None, k: int | None) -> tuple[ImportedSae, str]:
    """Read an SAE file in any known format, and its hook point. Raises SteeringError."""
    found = formats.read_sae(place, hook=hook, k=k)
    if found.hook is None:
        raise SteeringError("its files don't say which layer it reads; add --hook layers.<number>")
    layer_number(found.hook)
    return found, found.hook


@dataclass(frozen=True, eq=False)
class EvaluationInputs:
    """A model, the tokens of a text, and their residual stream at one hook point."""

    model: PreTrainedModel
    tokens: list[list[int]]
    hook: str
    rows: Tensor
    """`[tokens, d_in]`, without first tokens and sinks."""

    @staticmethod
    def load(name: str, hook: str, text: Path | None, width: int) -> "EvaluationInputs":
        """Load a model and record its stream. Raises SteeringError that names the mismatch."""
        model, tokenizer = load_model(name, "cpu")
        if (its := model.config.get_text_config().hidden_size) != width:
            raise SteeringError(f"the SAE reads a stream of width {width}; that of {name!r} is {its}")
        tokens = list(tokenize_texts(tokenizer, read_texts(text or SAMPLE), longest=LONGEST))
        if not tokens:
            raise SteeringError("no text of three tokens or more to measure on")
        batches = padded_batches(tokens, batch=16, longest=LONGEST, pad=0)
        return EvaluationInputs(model, tokens, hook, torch.cat(list(activations(model, batches, hook))))

    def calibrated(self, found: ImportedSae) -> SAE:
        """The SAE as served: a TopK gets its threshold here."""
        return found.sae if found.k is None else found.sae.calibrated(self.rows, found.k)

    def evaluate(self, sae: SAE) -> tuple[SaeMetrics, LossRecovered]:
        """Reconstruction of the SAE, and the model's loss with it."""
        batches = padded_batches(self.tokens, batch=4, longest=LONGEST, pad=0)
        return measure_sae(sae, self.rows.split(4096)), loss_recovered(self.model, sae, batches, self.hook)


def same_after_round_trip(sae: SAE, written: SAE, rows: Tensor) -> None:
    """Raise if the SAE on disk does not reconstruct as the one in memory."""
    same = sae.reconstruct(rows[:256]).equal(written.reconstruct(rows[:256])) if sae.reads else True
    if not (same and sae.W_dec.equal(written.W_dec)):
        raise BadBundle("the SAE on disk does not reconstruct as the one that was read")


def evaluation_figures(m: SaeMetrics) -> dict[str, float]:
    """Figures of an evaluation, by name."""
    return {"explained_variance": m.explained_variance, "l0": m.l0, "tokens": m.tokens}


def length_ratio(found: ImportedSae, norm: float) -> list[float]:
    """Factors from a published SAE's activations to the stream's own length."""
    if not found.unit.isfinite().all():
        raise SteeringError(
            "its activations are in units of tokens that lie at another place, so that those of an export have no "
            "length here; leave out --labels"
        )
    return (found.unit * found.sae.typical_scale(norm)).tolist()
