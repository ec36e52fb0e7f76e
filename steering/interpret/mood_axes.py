"""Mood axes: emotions, sentiment and formality, predicted from the features that fire.

An axis is a logistic regression over which features fire at all in a stretch of text. Single features are weak
detectors, and a bag of words is often better than all of them: so an axis is shown as a score only where, on held-out
texts, the lower end of its AUROC's interval reached the AUROC of the bag of words. Otherwise it only lists features, as
evidence.
"""

import hashlib
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.errors import BadBundle
from steering.evaluate.classifiers import Auroc
from steering.files import write_atomic
from steering.interpret.analysis import Analysis
from steering.sae import SAE

FILE = "axes.json"
EVIDENCE = 5
"""Features listed per axis."""


class MoodAxis(BaseModel):
    """One axis, and its metrics on held-out texts."""

    model_config = ConfigDict(frozen=True)

    name: str
    high: str
    """Meaning of a high score."""
    low: str
    source: str
    weights: tuple[float, ...]
    """Weights of the file's features, in their order."""
    bias: float
    auroc: Auroc
    bag_of_words: Auroc
    raw: Auroc
    """A logistic regression over the stream's mean."""
    majority: float = 0.5
    """AUROC of a constant prediction."""
    length: Auroc
    """AUROC of the number of words alone: how far length explains the axis."""
    n_train: int
    n_test: int
    prevalence: float
    """Share of positive texts in the test set."""

    @property
    def shown_as(self) -> Literal["score", "evidence"]:
        """`score` only if the lower end of the AUROC's interval is at least the AUROC of a bag of words."""
        return "score" if self.auroc.low >= self.bag_of_words.value else "evidence"


class MoodAxes(BaseModel):
    """All axes of one revision of an SAE: `axes.json`."""

    model_config = ConfigDict(frozen=True)

    method: str
    date: str
    sae: str
    """Digest of the SAE they were fitted with: `sae_digest`."""
    features: tuple[int, ...]
    """Numbers of the features that the weights belong to."""
    axes: tuple[MoodAxis, ...]
    errors: tuple[float, ...] = ()
    """Quantiles, over chats of the corpus, of the share of the stream that the SAE leaves unexplained; ascending."""

    @model_validator(mode="after")
    def _check_number_of_weights(self) -> "MoodAxes":
        if wrong := next((a for a in self.axes if len(a.weights) != len(self.features)), None):
            raise ValueError(f"{wrong.name!r} has {len(wrong.weights)} weights for {len(self.features)} features")
        return self

    @staticmethod
    def open(folder: Path, sae: SAE) -> "MoodAxes | None":
        """Read the axes beside an SAE; None if there are none for it. Raises BadBundle that names the file."""
        file = folder / FILE
        found = _read(file, file.stat().st_mtime_ns) if file.exists() else None
        return found if found and found.sae == sae_digest(sae) else None

    def save(self, folder: Path) -> None:
        """Write the axes beside an SAE, atomically."""
        write_atomic(folder / FILE, self.model_dump_json() + "\n")

    def error_percentile(self, error: float) -> float | None:
        """Return the percentage of the corpus' chats with a smaller error than `error`. Experimental."""
        return round(100 * bisect_left(self.errors, error) / len(self.errors), 1) if self.errors else None

    def to_dict(self, bundle: Bundle, found: Analysis) -> list[dict[str, Any]]:
        """Return the result of each axis for a passage and for each of its speakers."""
        weights = self._weights(bundle)
        fired = found.fired.float()
        theirs = {
            who: fired[[i for i, s in enumerate(found.fired_by) if s == who]] for who in dict.fromkeys(found.fired_by)
        }
        return [
            {
                "name": a.name,
                "high": a.high,
                "low": a.low,
                "shown_as": a.shown_as,
                **_axis_score(a, weights[i], fired, bundle),
                "speakers": {who: _axis_score(a, weights[i], rows, bundle) for who, rows in theirs.items()},
                "auroc": a.auroc.model_dump(),
                "bag_of_words": a.bag_of_words.value,
                "raw": a.raw.value,
                "length": a.length.value,
                "n_test": a.n_test,
            }
            for i, a in enumerate(self.axes)
        ]

    def _weights(self, bundle: Bundle) -> Float[Tensor, "axes d_sae"]:
        """Weights by row of this SAE; a feature that it no longer has has no weight."""
        here = [(i, bundle.numbered[n].row) for i, n in enumerate(self.features) if n in bundle.numbered]
        weights = torch.zeros(len(self.axes), bundle.sae.d_sae)
        if here and self.axes:
            places, rows = (torch.tensor(p) for p in zip(*here, strict=True))
            weights[:, rows] = torch.tensor([a.weights for a in self.axes])[:, places]
        return weights


def sae_digest(sae: SAE) -> str:
    """Return a digest of an SAE's biases and thresholds, which differ after every training."""
    parameters = torch.cat([sae.b_enc.flatten(), sae.threshold.flatten()]).float().cpu()
    return hashlib.sha256(parameters.numpy().tobytes()).hexdigest()[:16]


def _axis_score(
    axis: MoodAxis, weights: Tensor, fired: Float[Tensor, "stretches d_sae"], bundle: Bundle
) -> dict[str, Any]:
    """Return the mean of the stretches' scores, and the features with the largest contributions."""
    if not len(fired):
        return {"score": None, "evidence": []}
    share = weights * fired.mean(0)
    best = share.topk(min(EVIDENCE, len(share)))
    evidence = [
        bundle.features[r].id for v, r in zip(best.values.tolist(), best.indices.tolist(), strict=True) if v > 0
    ]
    score = round(float((fired @ weights + axis.bias).sigmoid().mean()), 4)
    return {"score": score if axis.shown_as == "score" else None, "evidence": evidence}


@lru_cache(maxsize=4)
def _read(file: Path, _changed: int) -> MoodAxes:
    try:
        return MoodAxes.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadBundle(f"{str(file)!r} is damaged: {first}; make it again with `python -m recipes.axes`") from error
