"""Named vectors: a direction from two sets of texts, with a dose measured as for a feature.

A text is represented by the mean over its own tokens (of a chat that ends with the assistant, over the assistant's), so
that a long text counts no more than a short one. A vector is stored as a `FeatureSnapshot`, the form in which a preset
stores a feature that is gone, so engines need no special case.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue.feature import BundleInfo
from steering.doses.bundle_doses import LONGEST, DoseBench
from steering.doses.measure import MeasuredDose, Subject, pushes_along, reads_direction
from steering.doses.rollouts import QUESTIONS
from steering.edits import as_text
from steering.errors import SteeringError
from steering.interpret.directions import METHODS, Direction, Method
from steering.model.passage import NOBODY, Passage
from steering.sae import SAE
from steering.spec import VECTOR, FeatureSnapshot, Vector


def mean_row(passage: Passage, stream: Float[Tensor, "tokens d_in"]) -> Float[Tensor, " d_in"]:
    """Return the mean over a text's own tokens; of a chat that ends with the assistant, over all assistant turns."""
    speakers = [p.speaker for p in passage.parts]
    theirs = speakers[-1] == "assistant"
    mine = [p != NOBODY and (not theirs or speakers[p] == "assistant") for p in passage.part]
    if not any(mine):
        raise SteeringError("a text has no tokens of its own")
    return stream[torch.tensor(mine, device=stream.device)].float().mean(0).cpu()


def direction_of(method: Method, a: Sequence[Tensor], b: Sequence[Tensor]) -> Direction:
    """Return the direction from B to A, with one row per text. Raises SteeringError if there is none."""
    return METHODS[method](torch.stack(list(a)), torch.stack(list(b)))


def measure_vector_dose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    info: BundleInfo,
    direction: Float[Tensor, " d_in"],
) -> MeasuredDose:
    """Measure the dose with a quarter of the features' questions: a user waits for it. Raises BadChat."""
    bench = DoseBench.prepare(
        model, tokenizer, info.hook, info.typical_norm, QUESTIONS[::4], where=info.where, null=False
    )
    push, read = pushes_along(direction.to(model.device)), reads_direction(direction, info.typical_norm)
    return bench.measure([Subject(push, read, LONGEST * info.typical_norm)], ("", info.revision))[0]


def vector_of(
    name: str,
    method: Method | Literal["import"],
    found: Direction,
    dose: MeasuredDose | None,
    sae: SAE,
    info: BundleInfo,
    *,
    texts: tuple[int, int],
) -> Vector:
    """Return the named vector; `dose` is None where it could not be measured.

    The activation of a probe is the distance of a token from its boundary. It has none with an SAE that scales each
    token: the table of gates has one scaling.
    """
    reads = method == "probe" and sae.scaling == "none" and sae.reads
    snapshot = FeatureSnapshot(
        id=VECTOR + name,
        revision=info.revision,
        label=name,
        direction=as_text(found.direction),
        encoder=as_text(found.direction) if reads else "",
        bias=-found.middle if reads else 0.0,
        threshold=0.0,
        typical_max=abs(found.distance),
        dose=round(dose.dose, 4) if dose else 0.5 * info.typical_norm,
        knots=dose.calibration.knots if dose else (),
        measured=dose is not None,
    )
    auroc = None if found.auroc is None else round(found.auroc, 4)
    return Vector(name=name, method=method, snapshot=snapshot, auroc=auroc, texts=texts)
