"""Model loading: a model and its tokenizer from a folder or a hub."""

from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from server.engines.transformers.llama_pass import LlamaPass
from server.engines.transformers.weights import Packed, is_available
from steering.errors import BadBundle
from steering.model.hooks import decoder_layers

Weights = Literal["auto", "float32", "bfloat16", "int8", "int4"]
PACKED = ("int8", "int4")
PACK_FROM = 50_000_000
"""Parameters from which on packing pays: the weights of smaller models stay in the processor's cache."""
THREAD_WORTH = 30_000_000
"""Parameters per decoding thread; with fewer, the synchronization after each layer costs more than a thread gains."""


def load(
    path: str, *, revision: str | None = None, device: str = "auto", dtype: str = "auto", weights: Weights = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Packed | None]:
    """Load a folder or a hub id; the last value is how its weights are packed for decoding.

    `weights` of `auto` on a CPU that multiplies bfloat16: a model of the Llama family that was published in 16 bits stays
    in bfloat16, and decodes with 4 bits where that loses nothing, else with 8; any other model is computed in float32. A
    `dtype` says the same as `weights` of that name. Raises BadBundle if it is not a causal language model with a fast
    tokenizer, or if it cannot have these weights.
    """
    place = _device(device)
    if weights in ("float32", "bfloat16"):
        dtype = weights
    kind = "auto" if dtype == "auto" and weights == "auto" else _kind("bfloat16" if weights in PACKED else dtype, place)
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
    model = model.to(place)  # pyright: ignore[reportArgumentType] - transformers wraps `to`
    packed_as = _packing(model, weights) if dtype == "auto" else None
    if dtype == "auto" and weights == "auto" and place.type == "cpu" and not packed_as:
        model = model.float()
    return model, tokenizer, packed_as


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Token ids that end a reply: the tokenizer's and the model configuration's, as far as the model can say them."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    size = int(model.config.get_text_config().vocab_size)
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if isinstance(i, int) and 0 <= i < size)


def decode_threads(model: PreTrainedModel) -> int:
    """Number of decoding threads: one core is left to the event loop, which would otherwise stall them."""
    return max(1, min(torch.get_num_threads() - 1, round(model.num_parameters() / THREAD_WORTH)))


def _packing(model: PreTrainedModel, weights: Weights) -> Packed | None:
    """How the weights of a loaded model are packed. Raises BadBundle if they cannot be packed as asked."""
    fits = LlamaPass.supports(model) and is_available("int8")
    if weights in PACKED:
        shapes = {m.weight.shape for m in decoder_layers(model).modules() if isinstance(m, torch.nn.Linear)}
        if not fits or not all(is_available(weights, *shape) for shape in shapes):
            raise BadBundle(
                f"no {weights} weights for a {type(model).__name__} on {model.device.type} here: they are for the Llama "
                "family on a CPU; choose --weights auto, float32 or bfloat16"
            )
        return weights
    small = model.num_parameters() < PACK_FROM
    return None if not fits or small or model.dtype == torch.float32 or not _multiplies_bfloat16() else "lossless"


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; without them they are slower than of float32."""
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


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
