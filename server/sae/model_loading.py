"""Model loading for SAE training and evaluation."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from steering.errors import SteeringError
from steering.model.architecture import reason_unserved


def load_model(
    name: str, device: torch.device | str, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A transformers model and its tokenizer; by default in the engine's dtype, so that both read the same.

    Raises SteeringError if it cannot be loaded, or could not be served afterwards.
    """
    logging.disable_progress_bar()
    kind = dtype or (torch.float32 if torch.device(device).type == "cpu" else "auto")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=kind, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise SteeringError(f"the model {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    if reason := reason_unserved(model):
        raise SteeringError(
            f"the model {name!r} ({type(model).__name__}) cannot be served: {reason}; choose a model of another architecture"
        )
    torch.nn.Module.to(model, device)
    return model, tokenizer


def measuring_dtype() -> torch.dtype:
    """Return the dtype in which this CPU generates many replies at once fastest: bfloat16 if it multiplies it natively."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if native() else torch.float32


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU if available. Raises SteeringError for an unavailable device."""
    try:
        return torch.empty(
            0, device=("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        ).device
    except (RuntimeError, AssertionError) as error:
        raise SteeringError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
