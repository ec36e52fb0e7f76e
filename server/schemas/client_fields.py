"""Unsupported request parameters: those that would change an answer are refused, the others ignored.

The names are those of OpenAI, vLLM, SGLang, TGI and llama.cpp. A field that is in no table is ignored.
"""

from dataclasses import dataclass
from typing import Any, Literal

from server.errors import ApiError, bad_request

Route = Literal["chat", "completions"]
NOTHING: tuple[Any, ...] = (False, "", [])
"""Values that ask for nothing, of a field that names no other."""
SCHEMA = "the reply has no schema or grammar here; ask for the form in the prompt and check the reply"
TOKENS = "use logprobs, or send and read token ids with /v1/completions"
SAMPLER = "use temperature, top_p, top_k, min_p and the penalties"
TEMPLATE = "the model's own chat template is used; render the chat yourself and send its token ids to /v1/completions"


@dataclass(frozen=True)
class Refused:
    """A field that would change the answer and is not supported."""

    name: str
    instead: str
    """What to do instead, as the error says it."""
    neutral: tuple[Any, ...] = NOTHING
    """Values beside null that change nothing, so that they are accepted."""
    unless: tuple[str, Any] | None = None
    """Another field and its value, with which this one changes nothing."""
    same_as: str | None = None
    """Another field with whose value this one changes nothing; 1 where that is absent."""
    route: Route | None = None
    """The route where it is refused; None for both."""


REFUSED = (
    Refused("tools", "leave them out, or set tool_choice to 'none'", unless=("tool_choice", "none")),
    Refused("tool_choice", "leave it out: the model calls no tools", ("none", "auto")),
    Refused("functions", "leave them out, or set function_call to 'none'", unless=("function_call", "none")),
    Refused("function_call", "leave it out: the model calls no functions", ("none", "auto")),
    Refused("response_format", SCHEMA, ({}, {"type": "text"})),
    Refused("audio", "ask for text"),
    Refused("modalities", "ask for text", ([], ["text"])),
    Refused("web_search_options", "the server searches no web; put what was found into the messages", (False,)),
    Refused("guided_json", SCHEMA),
    Refused("guided_regex", SCHEMA),
    Refused("guided_choice", SCHEMA),
    Refused("guided_grammar", SCHEMA),
    Refused("guided_json_object", SCHEMA),
    Refused("structured_outputs", SCHEMA, ({},)),
    Refused("structural_tag", SCHEMA),
    Refused("json_schema", SCHEMA),
    Refused("grammar", SCHEMA),
    Refused("regex", SCHEMA),
    Refused("ebnf", SCHEMA),
    Refused("best_of", "use n and choose among the replies", same_as="n"),
    Refused("suffix", "leave it out: text is only continued"),
    Refused("echo", "use /v1/completions, which has it", route="chat"),
    Refused("use_beam_search", "use n for several replies"),
    Refused("length_penalty", "it belongs to beam search, which is not there", (1,)),
    Refused("bad_words", "use logit_bias with -100 for their tokens"),
    Refused("allowed_token_ids", "use logit_bias with 100 for these tokens"),
    Refused("prompt_logprobs", "use /v1/completions with echo and logprobs", (False,)),
    Refused("n_probs", "use logprobs", (0,)),
    Refused("return_token_ids", TOKENS),
    Refused("return_tokens_as_token_ids", TOKENS),
    Refused("skip_special_tokens", "special tokens are never part of the text", (True,)),
    Refused("add_special_tokens", "the chat template writes them", (False,), route="chat"),
    Refused("add_special_tokens", "send the prompt as token ids", (True,), route="completions"),
    Refused("prompt_embeds", "send the prompt as text or token ids"),
    Refused("truncate_prompt_tokens", "shorten the prompt; a chat has truncation"),
    Refused("max_new_tokens", "use max_tokens", (-1,)),
    Refused("n_predict", "use max_tokens", (-1,)),
    Refused("repeat_penalty", "use repetition_penalty", (1,)),
    Refused("typical_p", SAMPLER, (0, 1)),
    Refused("tfs_z", SAMPLER, (1,)),
    Refused("top_a", SAMPLER, (0,)),
    Refused("top_n_sigma", SAMPLER, (-1, 0)),
    Refused("epsilon_cutoff", SAMPLER, (0,)),
    Refused("eta_cutoff", SAMPLER, (0,)),
    Refused("mirostat", SAMPLER, (0, False)),
    Refused("dry_multiplier", SAMPLER, (0,)),
    Refused("xtc_probability", SAMPLER, (0,)),
    Refused("dynatemp_range", SAMPLER, (0,)),
    Refused("smoothing_factor", SAMPLER, (0,)),
    Refused("samplers", SAMPLER),
    Refused("logits_processors", SAMPLER),
    Refused("watermark", "leave it out"),
    Refused("chat_template", TEMPLATE),
    Refused("chat_template_kwargs", TEMPLATE, ({},)),
    Refused("documents", "put them into the messages"),
    Refused("lora", "one model is served, without adapters"),
    Refused("lora_path", "one model is served, without adapters"),
    Refused("adapter_id", "one model is served, without adapters"),
    Refused("vllm_xargs", "use steering for what this server adds to vLLM", ({},)),
)
"""Fields that are refused, with `unsupported_parameter`, in the order in which they are looked at."""

IGNORED = {
    "of an account": (
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "priority",
    ),
    "about speed and caches": (
        "prediction",
        "cache_prompt",
        "cache_salt",
        "id_slot",
        "kv_transfer_params",
        "t_max_predict_ms",
    ),
    "hints that the models here do not know": (
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
    ),
    "of a refused field, without effect by themselves": (
        "guided_decoding_backend",
        "guided_whitespace_pattern",
        "early_stopping",
        "spaces_between_special_tokens",
        "repeat_last_n",
        "min_keep",
        "mirostat_tau",
        "mirostat_eta",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "xtc_threshold",
        "dynatemp_exponent",
        "tool_prompt",
    ),
}
"""Fields that change nothing in an answer, by the reason."""
KNOWN = {each.name for each in REFUSED} | {name for names in IGNORED.values() for name in names}
"""Names of all fields in the tables."""


def unsupported(param: str, message: str) -> ApiError:
    """A 400 for a feature that this server does not support."""
    return bad_request(message, param=param, code="unsupported_parameter")
