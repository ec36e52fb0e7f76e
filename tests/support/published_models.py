"""Published models, rebuilt small: their configuration class with what is particular to it, their tokenizer's kind, their
chat template. Weights are random.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from tests.support import published_templates
from tests.support.published_tokenizers import Kind, small_tokenizer

WIDTH = 64
SHAPE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Published:
    """One model: `config` names transformers' class, `template` one of `published_templates`, None if it has none."""

    name: str
    config: str
    tokenizer: Kind
    template: str | None
    particular: dict[str, Any] = field(default_factory=dict)
    bare: bool = False
    """Whether `particular` is the whole configuration."""

    def tokenizer_object(self) -> PreTrainedTokenizerFast:
        """Return the small tokenizer with the model's template."""
        if self.template is None:
            return small_tokenizer(self.tokenizer, added=[], template=None)
        return published_templates.tokenizer(self.template, self.tokenizer)

    def build_config(self, vocab: int) -> PretrainedConfig:
        """Return the small configuration."""
        given = {**({} if self.bare else SHAPE), **self.particular}
        kind = getattr(transformers, self.config)
        if "text_config" in given:
            return kind(**{**given, "text_config": {**given["text_config"], "vocab_size": vocab}})
        return kind(**given, vocab_size=vocab)

    def write(self, folder: Path) -> Path:
        """Write the checkpoint, as a publisher would."""
        tokenizer = self.tokenizer_object()
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(self.build_config(len(tokenizer))).eval()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


GPT2 = {
    "n_embd": WIDTH,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PYTHIA = {k: v for k, v in SHAPE.items() if k not in ("num_key_value_heads", "head_dim")} | {"rotary_pct": 0.25}
GEMMA3_TEXT = SHAPE | SLIDING | {"query_pre_attn_scalar": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FALCON = {k: v for k, v in SHAPE.items() if k not in ("num_key_value_heads", "head_dim", "intermediate_size")} | {
    "multi_query": True,
    "parallel_attn": True,
}
MAMBA = {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4}
MODELS = (
    Published("Llama 2 7B Chat", "LlamaConfig", "llama", "llama2", {"num_key_value_heads": 4}),
    Published("Llama 3 8B Instruct", "LlamaConfig", "byte-level", "llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    Published("Llama 3.2 1B Instruct", "LlamaConfig", "byte-level", "llama32", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    Published("Llama 4 Scout", "Llama4TextConfig", "byte-level", "llama3", {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 16, "layer_types": ["chunked_attention", "full_attention", "chunked_attention"]}),
    Published("TinyLlama 1.1B Chat", "LlamaConfig", "llama", "zephyr"),
    Published("Vicuna 7B v1.5", "LlamaConfig", "llama", "vicuna", {"num_key_value_heads": 4}),
    Published("Hermes 3 Llama 3.1 8B", "LlamaConfig", "byte-level", "hermes", {"rope_parameters": LLAMA3_ROPE}),
    Published("SmolLM2 135M Instruct", "LlamaConfig", "byte-level", "smollm2", {"tie_word_embeddings": True}),
    Published("SmolLM3 3B", "SmolLM3Config", "byte-level", "smollm3", {"no_rope_layers": [1, 1, 0], "tie_word_embeddings": True}),
    Published("Gemma 2B Instruct", "GemmaConfig", "gemma", "gemma2", {"num_key_value_heads": 1}),
    Published("Gemma 2 2B Instruct", "Gemma2Config", "gemma", "gemma2", {"sliding_window": 12, "query_pre_attn_scalar": 16}),
    Published("Gemma 3 1B Instruct", "Gemma3TextConfig", "gemma", "gemma3", {"query_pre_attn_scalar": 16, **SLIDING}),
    Published("Gemma 3 4B Instruct", "Gemma3Config", "gemma", "gemma3", {"text_config": GEMMA3_TEXT, "vision_config": VISION, "mm_tokens_per_image": 4, "initializer_range": 0.2}, bare=True),
    Published("Qwen 2 7B Instruct", "Qwen2Config", "byte-level", "qwen25"),
    Published("Qwen 2.5 7B Instruct", "Qwen2Config", "byte-level", "qwen25", {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}),
    Published("Qwen 3 8B", "Qwen3Config", "byte-level", "qwen3"),
    Published("Qwen 3 30B-A3B", "Qwen3MoeConfig", "byte-level", "qwen3", {"num_experts": 4, **EXPERTS}),
    Published("Qwen 3.5", "Qwen3_5TextConfig", "byte-level", "qwen3", MIXED),
    Published("Mistral 7B Instruct v0.2", "MistralConfig", "llama", "mistral7b"),
    Published("Mistral Nemo Instruct", "MistralConfig", "byte-level", "nemo", {"head_dim": 32, "sliding_window": None}),
    Published("Mistral Small 3 24B Instruct", "MistralConfig", "byte-level", "mistral_small", {"head_dim": 32, "sliding_window": None}),
    Published("Mixtral 8x7B Instruct", "MixtralConfig", "llama", "mistral7b", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Published("Phi 2", "PhiConfig", "byte-level", None, {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    Published("Phi 3 mini 4k Instruct", "Phi3Config", "llama", "phi3", {"sliding_window": 12}),
    Published("Phi 4", "Phi3Config", "byte-level", "phi4"),
    Published("OLMo 2 7B Instruct", "Olmo2Config", "byte-level", "olmo2"),
    Published("OLMo 3 7B Instruct", "Olmo3Config", "byte-level", "olmo2", SLIDING),
    Published("DeepSeek R1 Distill Llama 8B", "LlamaConfig", "byte-level", "deepseek_r1", {"rope_parameters": LLAMA3_ROPE}),
    Published("DeepSeek R1 Distill Qwen 1.5B", "Qwen2Config", "byte-level", "deepseek_r1"),
    Published("DeepSeek V3.1", "DeepseekV3Config", "byte-level", "deepseek_v31", {"num_key_value_heads": 4, "n_routed_experts": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8, **EXPERTS}),
    Published("GLM 4 9B Chat", "GlmConfig", "byte-level", "glm4"),
    Published("GLM 4.5 Air", "Glm4MoeConfig", "byte-level", "glm45", {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **EXPERTS}),
    Published("gpt-oss 20B", "GptOssConfig", "byte-level", "gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, **SLIDING}),
    Published("Granite 3.3 2B Instruct", "GraniteConfig", "byte-level", "granite3", {"attention_multiplier": 0.1, "residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 3.0}),
    Published("Granite 4.0 H", "GraniteMoeHybridConfig", "byte-level", "granite3", {"layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8}),
    Published("LFM2 1.2B", "Lfm2Config", "byte-level", "lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    Published("Command R", "CohereConfig", "byte-level", "command_r"),
    Published("Command R7B", "Cohere2Config", "byte-level", "command_r", SLIDING),
    Published("StableLM 2 Zephyr", "StableLmConfig", "byte-level", "zephyr"),
    Published("Falcon 7B Instruct", "FalconConfig", "byte-level", None, FALCON, bare=True),
    Published("GPT-2", "GPT2Config", "byte-level", None, GPT2, bare=True),
    Published("Pythia 160M", "GPTNeoXConfig", "byte-level", None, PYTHIA, bare=True),
    Published("OPT 125M", "OPTConfig", "byte-level", None, {"ffn_dim": 96, "word_embed_proj_dim": WIDTH}),
    Published("BLOOM 560M", "BloomConfig", "byte-level", None, {"hidden_size": WIDTH, "n_layer": 3, "n_head": 4}, bare=True),
    Published("Mamba 130M", "MambaConfig", "byte-level", None, MAMBA, bare=True),
)  # fmt: skip
