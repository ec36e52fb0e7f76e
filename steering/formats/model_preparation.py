"""Model preparation: what TransformerLens did to the model before an SAE was trained on it.

Of its steps only `center_writing_weights` changes the residual stream: every block's output loses its mean, which a
model with LayerNorm never reads, so that the stream becomes x − mean(x). Folding LayerNorms (`fold_ln`), value biases
(`fold_value_biases`) or the mean of the unembedding (`center_unembed`) moves numbers between weights on either side of
the stream. Models with RMSNorm read the mean; for them TransformerLens leaves `center_writing_weights` out.
"""

import re
from collections.abc import Sequence

from steering.errors import BadBundle
from steering.formats.fields import Fields, agreed
from steering.formats.weight_files import WeightFiles

CENTRED_REPOSITORIES = (
    "GPT2-Small-SAEs-Reformatted",
    "GPT2-Small-Feature-Splitting-Experiment-Layer-8",
    "gpt2-small-mlp-out-saes",
)
"""Repositories of SAEs of a centred model whose files do not say so; SAELens' list of published SAEs does."""
LAYER_NORM = re.compile(
    r"gpt-?2|gpt-?neo|gpt-?j\b|pythia|\bopt\b|opt-\d|tiny-?stories|gelu-|solu-|attn-only|redwood|phi-[12]\b|phi-1_5|stablelm"
    r"|falcon|starcoder|santacoder|othello|cerebras-gpt"
)
RMS_NORM = re.compile(
    r"gemma|llama|mistral|mixtral|ministral|qwen|smollm|phi-?[34]|olmo-?[23]|deepseek|vicuna|\byi-|granite|glm|apertus|gpt-oss"
)
UNSERVED = re.compile(r"bloom")
"""Models that the server cannot run: they state no maximum length (`max_position_embeddings`)."""


def is_centred(files: WeightFiles, places: Sequence[Fields], model: str | None) -> bool:
    """Whether the SAE was trained on a stream without its mean.

    `places` are the objects that may hold `center_writing_weights`. Raises BadBundle if they contradict each other, or
    if it is not known whether the model has LayerNorm.
    """
    stated = agreed(*((f"center_writing_weights in {f.file}", _flag(f)) for f in places))
    path = files.weights.absolute().as_posix()
    if stated is None and any(name in path for name in CENTRED_REPOSITORIES):
        stated = True
    if not stated or RMS_NORM.search((model or "").lower()):
        return False
    if LAYER_NORM.search((model or "").lower()):
        return True
    raise BadBundle(
        f"center_writing_weights in {places[0].file} is true, which changes the stream of models with LayerNorm only, and "
        f"of {model or 'a model without a name'!r} it is not known whether it has them; name a model in model_name, or "
        "remove center_writing_weights if the model has RMSNorm"
    )


def check_served(field: str, model: object) -> None:
    """Raise BadBundle if the files name a model that the server cannot run."""
    if isinstance(model, str) and UNSERVED.search(model.lower()):
        raise BadBundle(
            f"{field} is {model!r}: models of this architecture have no maximum length and cannot be served; choose an SAE "
            "of another model"
        )


def _flag(fields: Fields) -> bool | None:
    if fields.value("center_writing_weights") is None:
        return None
    return fields.flag("center_writing_weights", default=False)
