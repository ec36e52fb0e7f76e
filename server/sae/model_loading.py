"""Model loading for SAE training and evaluation."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from steering.errors import SteeringError


def load_model(name: str, device: torch.device | str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A transformers model and its tokenizer. Raises SteeringError if it cannot be loaded."""
    logging.disable_progress_bar()
    dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"  # as in the engine: both read the same
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise SteeringError(f"the model {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    torch.nn.Module.to(model, device)
    return model, tokenizer


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU if available. Raises SteeringError for an unavailable device."""
    try:
        return torch.empty(
            0, device=("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        ).device
    except (RuntimeError, AssertionError) as error:
        raise SteeringError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
