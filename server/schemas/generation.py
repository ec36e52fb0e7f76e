"""Generation request: OpenAI's fields, vLLM's extra fields under vLLM's names, and `steering`."""

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from server.engines.base import Sampling
from server.errors import bad_request, first_validation_error
from server.schemas.client_fields import unsupported
from server.schemas.steering import SteeringRequest, Whole
from server.validation import describe_value
from steering.model.chat_template import Message
from steering.spec import Preset

T = TypeVar("T", bound=BaseModel)
Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda v: (v,) if isinstance(v, str) else tuple(v or ()) if isinstance(v, list | None) else v),
]


def _part(kind: str) -> dict[str, Any]:
    properties = {"type": {"const": kind}, kind: {"type": "string"}}
    return {"type": "object", "required": ["type", kind], "properties": properties}


_PARTS = {"type": "array", "minItems": 1, "items": {"anyOf": [_part("text"), _part("refusal")]}}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, _PARTS, {"type": "null"}]},
        "refusal": {"type": ["string", "null"]},
        "reasoning_content": {"type": ["string", "null"]},
    },
}
MessageInput = Annotated[dict[str, Any], WithJsonSchema(_MESSAGE)]
"""A message as received; `messages_of` parses it and names what is invalid."""


class Prompt(NamedTuple):
    """One prompt, as text or token ids, and its location in the body."""

    place: str
    said: str | tuple[int, ...]


def split_prompts(value: object) -> tuple[Prompt, ...]:
    """Normalize OpenAI's four forms of `prompt`: text, token ids, a list of texts, a list of
    token-id lists. Raises a 400 that names the location."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_whole(value[0])):
        return (Prompt("prompt", _prompt(value, "prompt")),)
    if not isinstance(value, list):
        raise bad_request(f"prompt: must be text or a list, got {describe_value(value)}", param="prompt")
    if not value:
        raise bad_request("prompt: must have 1 or more items, got 0", param="prompt")
    return tuple(Prompt(f"prompt.{i}", _prompt(each, f"prompt.{i}")) for i, each in enumerate(value))


_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_TEXT_OR_IDS = {"anyOf": [{"type": "string"}, _IDS]}
Prompts = Annotated[
    tuple[Prompt, ...],
    PlainValidator(split_prompts),
    WithJsonSchema({"anyOf": [*_TEXT_OR_IDS["anyOf"], {"type": "array", "minItems": 1, "items": _TEXT_OR_IDS}]}),
]
MOST_REPLIES = 128
"""Maximum number of choices per text-completion request: its prompts, each `n` times."""

MOST_STOPS = 16
COLDEST = 1e-5
"""Below this temperature sampling is greedy, as in vLLM: dividing logits by less overflows."""
_SAMPLED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "include_stop_str_in_output",
    "ignore_eos",
)


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """Fields that chat and text completions share. Unknown OpenAI fields are ignored."""

    model_config = ConfigDict(frozen=True)

    model: str = Field(min_length=1)
    user: str | None = Field(default=None, max_length=256)
    """The end user of the request. Texts are kept for training only of users who consented."""
    max_tokens: Whole | None = Field(default=None, ge=-1)
    """Maximum number of tokens of a reply. What is left of the context is the maximum in any case, and by default; −1 is
    the default, too.
    """
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    n: Whole = Field(default=1, ge=1, le=8)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stops = ()
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=1024)
    top_k: Whole | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    min_tokens: Whole | None = Field(default=None, ge=0)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10, allow_inf_nan=False)
    stop_token_ids: list[int] | None = Field(default=None, max_length=64)
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    steering: SteeringRequest | None = None

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if len(stop) > MOST_STOPS:
            raise ValueError(f"at most {MOST_STOPS} stop strings; {len(stop)} were given")
        if "" in stop:
            raise ValueError("a stop string may not be empty")
        return stop

    @property
    def requested_max_tokens(self) -> int | None:
        """Number of tokens requested; None for as many as there is room for."""
        return _limited(self.max_tokens)

    @property
    def alternatives(self) -> int | None:
        """Number of alternatives per token; None for no log-probabilities."""
        return None

    @property
    def prompt_alternatives(self) -> int | None:
        """The same for the tokens of the prompt."""
        return None

    def sampling(self, preset: Preset | None, max_tokens: int, model: dict[str, float]) -> Sampling:
        """Sampling parameters: the request's first, then the preset's, the `model`'s, and the defaults."""
        given = {k: v for k in _SAMPLED if (v := getattr(self, k)) is not None}
        taken: dict[str, Any] = {
            **_known(model),
            **_known(preset.sampling if preset else {}),
            **given,
            "max_tokens": max_tokens,
        }
        if self.min_tokens is None:  # of a preset: it may not make a short reply impossible
            taken["min_tokens"] = min(int(taken.get("min_tokens", 0)), max_tokens)
        taken["top_k"] = max(0, int(taken.get("top_k", 0)))
        if taken.get("temperature", 1) < COLDEST or taken.get("top_p") == 0:  # both leave the likeliest token alone
            taken |= {"temperature": 0.0, "top_p": 1.0}
        return Sampling(
            **taken,
            stop=self.stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logit_bias=tuple((self.logit_bias or {}).items()),
            logprobs=self.alternatives,
            prompt_logprobs=self.prompt_alternatives,
        )


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: list[MessageInput] = Field(min_length=1, max_length=2000)
    max_completion_tokens: Whole | None = Field(default=None, ge=-1)
    truncation: Literal["auto", "disabled"] | None = None
    """With `auto`, the oldest turns that do not fit into the model's context are left out, and `steering.warnings` says how
    many; by default such a chat is refused. As in OpenAI's Responses API.
    """
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """The reply continues the last message, which is an assistant's: only the continuation is returned. As in vLLM, where
    `add_generation_prompt` is false then.
    """
    logprobs: bool = False
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _only_what_is_built(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs to be true", param="top_logprobs")
        self._check_continuation()
        for name in ("max_completion_tokens", "max_tokens"):
            if getattr(self, name) == 0:
                raise bad_request(f"{name} must be at least 1, or -1 for as many as there is room for", param=name)
        return self

    @property
    def requested_max_tokens(self) -> int | None:
        """`max_completion_tokens` takes precedence over the older `max_tokens`."""
        return _limited(self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens)

    @property
    def alternatives(self) -> int | None:
        """Number of alternatives per token."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def chat(self) -> list[Message]:
        """The messages as role and text. Raises a 400 for content that is not text."""
        return to_messages(self.messages)

    def chat_with(self, reply: str) -> list[Message]:
        """The messages with a reply, if there is one, after them or as the rest of the last one."""
        messages = self.chat()
        if self.continue_final_message:
            return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + reply}]
        return [*messages, {"role": "assistant", "content": reply}] if reply else messages

    def _check_continuation(self) -> None:
        given = "add_generation_prompt" in self.model_fields_set
        if self.continue_final_message and self.add_generation_prompt and given:
            raise bad_request(
                "continue_final_message and add_generation_prompt cannot both be true: the reply either continues the last "
                "message or is a new one",
                param="continue_final_message",
            )
        if not self.continue_final_message and not self.add_generation_prompt:
            raise unsupported(
                "add_generation_prompt",
                "add_generation_prompt may only be false with continue_final_message, which continues the last message",
            )
        if self.continue_final_message and (role := self.messages[-1].get("role")) != "assistant":
            at = f"messages.{len(self.messages) - 1}.role"
            raise bad_request(f"continue_final_message continues an assistant's message, not one of {role!r}", param=at)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions: raw text without roles. Scope `assistant` means `generated` here."""

    prompt: Prompts
    """Text or token ids, or a list of several; each is completed independently."""
    logprobs: Whole | None = Field(default=None, ge=0, le=20)
    echo: bool = False
    """The prompt is returned before its completion, with `logprobs` those of its tokens as well."""

    @model_validator(mode="after")
    def _only_what_is_built(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise bad_request(
                "max_tokens must be at least 1, or -1 for as many as there is room for; 0 only returns the prompt: set echo to true",
                param="max_tokens",
            )
        if (replies := self.n * len(self.prompt)) > MOST_REPLIES:
            asked = f"{len(self.prompt)} prompts" + (f" with n of {self.n} are {replies} replies" if self.n > 1 else "")
            raise bad_request(f"{asked}; at most {MOST_REPLIES} at once: send fewer at a time", param="prompt")
        return self

    @property
    def alternatives(self) -> int | None:
        """Number of alternatives per token."""
        return self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        """The same for the tokens of the prompt, where it is returned."""
        return self.logprobs if self.echo else None


def check_sampling(sampling: dict[str, float]) -> None:
    """Validate a preset's sampling parameters by the limits of a request. Raises a 400 that names the key."""
    if unknown := sorted(sampling.keys() - set(_SAMPLED)):
        raise bad_request(
            f"a preset cannot set {unknown[0]!r}; it can set {', '.join(_SAMPLED)}", param=f"sampling.{unknown[0]}"
        )
    try:
        GenerationRequest.model_validate({"model": "any", **sampling})
    except ValidationError as error:
        raise first_validation_error(error, within="sampling") from error


def to_messages(messages: list[dict[str, Any]]) -> list[Message]:
    """Messages as role and text. Raises a 400 for content that is not text."""
    return [_message(m, f"messages.{i}") for i, m in enumerate(messages)]


def _limited(max_tokens: int | None) -> int | None:
    return None if max_tokens == -1 else max_tokens


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _prompt(value: object, at: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise bad_request(f"{at}: must be text or a list of token ids, got {describe_value(value)}", param=at)
    if not value:
        raise bad_request(f"{at}: must have 1 or more tokens, got 0", param=at)
    for i, token in enumerate(value):
        if not _is_whole(token):
            raise bad_request(f"{at}.{i}: must be a token id, got {describe_value(token)}", param=f"{at}.{i}")
    return tuple(map(int, value))


def _known(sampling: dict[str, float]) -> dict[str, Any]:
    return {k: int(v) if k in ("top_k", "min_tokens", "seed") else v for k, v in sampling.items() if k in _SAMPLED}


def _message(message: dict[str, Any], at: str) -> Message:
    role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
    if role in ("tool", "function"):
        raise unsupported(f"{at}.role", "tool messages are not supported")
    if role not in ("system", "user", "assistant"):
        raise bad_request(
            f"role must be 'system', 'developer', 'user' or 'assistant', not {role!r}", param=f"{at}.role"
        )
    for calls in ("tool_calls", "function_call"):
        if message.get(calls):
            raise unsupported(f"{at}.{calls}", "tool calls are not supported")
    if role != "assistant":
        return {"role": role, "content": _text(message.get("content"), f"{at}.content", ("text",))}
    content, place = message.get("content"), f"{at}.content"
    if content is None:  # as in turns that were a refusal, or nothing but reasoning or calls of tools
        content, place = message.get("refusal") or "", f"{at}.refusal"
    said = {"role": role, "content": _text(content, place, ("text", "refusal"))}
    if (reasoning := message.get("reasoning_content")) is not None:
        said["reasoning_content"] = _text(reasoning, f"{at}.reasoning_content", ("text",))
    return said


def _text(content: object, at: str, kinds: tuple[str, ...]) -> str:
    """The text of a string or of a list of parts of the given kinds; a part has its text under the name of its kind."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise bad_request(
            f"{at} must be a string or a list of text parts, got {describe_value(content)}; only an assistant's may be null",
            param=at,
        )
    texts = list[str]()
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or kind not in kinds or not isinstance(part.get(kind), str):
            raise unsupported(f"{at}.{i}", f"content part of type {kind!r} is not supported; only text is")
        texts.append(part[kind])
    return "".join(texts)
