"""Input embeddings of a checkpoint, read from its files without loading the model."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steering.errors import ModelUnavailable

NAMES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""How the tensor's name ends, by family of models."""
INDEX = "model.safetensors.index.json"


def read_input_embeddings(model: str) -> Float[Tensor, "vocab d_model"]:
    """Return the input embeddings of a checkpoint: a folder, or a hub id that is in the cache.

    Raises ModelUnavailable if there is no such file or tensor.
    """
    try:
        folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))
        for name, file in _tensors(folder):
            if name.endswith(NAMES):
                with safe_open(file, framework="pt") as tensors:
                    return tensors.get_tensor(name)
    except (OSError, ValueError, SafetensorError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelUnavailable(f"cannot read the input embeddings of {model!r}: {error}") from error
    raise ModelUnavailable(f"{model!r} has no tensor of input embeddings in safetensors files")


def _tensors(folder: Path) -> list[tuple[str, Path]]:
    """Names of all tensors, with their files."""
    if (index := folder / INDEX).exists():
        return [(name, folder / file) for name, file in json.loads(index.read_text())["weight_map"].items()]
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found += [(name, file) for name in tensors.keys()]  # noqa: SIM118 - not a mapping
    return found
