"""Model loading: a model and its tokenizer from a folder or a hub."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from steering.errors import BadBundle

THREAD_WORTH = 30_000_000
"""Parameters per decoding thread; with fewer, the synchronization after each layer costs more than a thread gains."""


def load(
    path: str, *, revision: str | None = None, device: str = "auto", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a folder or a hub id. Raises BadBundle if it is not a causal language model with a fast tokenizer."""
    place = _device(device)
    kind = _kind(dtype, place)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            revision=revision,
            dtype=kind,
            attn_implementation=_attention(config),
            use_safetensors=True,  # a pickle can execute code
        )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) else error
        raise BadBundle(f"cannot load a language model from {path!r}: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BadBundle(f"the tokenizer of {path!r} is not a fast one; steering by role needs character offsets")
    return model.to(place), tokenizer  # pyright: ignore[reportArgumentType] - transformers wraps `to`


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Token ids that end a reply: the tokenizer's and the model configuration's, as far as the model can say them."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    size = int(model.config.get_text_config().vocab_size)
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int) and 0 <= i < size)


def decode_threads(model: PreTrainedModel) -> int:
    """Number of decoding threads: one core is left to the event loop, which would otherwise stall them."""
    return max(1, min(torch.get_num_threads() - 1, round(model.num_parameters() / THREAD_WORTH)))


def _device(name: str) -> torch.device:
    try:
        place = torch.device(_best_device() if name == "auto" else name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # the latter if torch was built without the device
        raise BadBundle(f"no device {name!r} here: {str(error).splitlines()[0]}; try auto or cpu") from error
    return place


def _kind(name: str, place: torch.device) -> torch.dtype | str:
    kind = (torch.float32 if place.type == "cpu" else "auto") if name == "auto" else getattr(torch, name, None)
    if kind not in ("auto", torch.float32, torch.bfloat16, torch.float16):
        raise BadBundle(f"no dtype {name!r}: auto, float32, bfloat16 or float16")
    return kind


def _attention(config: PretrainedConfig) -> str | None:
    """Attention implementation. Gemma 2 soft-caps attention scores, which torch's fused attention silently omits."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
