"""Response schemas of chat and text completions, and of the steering applied."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.engines.base import FinishReason
from server.schemas.generation import MessageInput
from server.schemas.pages import Verdict
from steering.evaluate.coherence import Coherence
from steering.spec import Mode, Norm, Positions, Scope, SteeringSpec, Unit


class Applied(BaseModel):
    """One feature that is steered, its strength in every unit."""

    id: str
    label: str
    mode: Mode
    strength: float
    dose: float
    max: float
    raw: float
    layer: int
    in_sweet_spot: bool | None
    measured: bool
    vector: bool = True
    """Present for a user's own vector."""
    retired: bool = True
    """Present for a feature that the revision no longer has."""


class Warned(BaseModel):
    """A warning about something that was done as requested."""

    code: str
    feature: str
    message: str


class Easing(BaseModel):
    """Where the guard reduced the strengths within a reply, the remaining share, and the reason."""

    at: int
    factor: float
    why: str


class Guards(BaseModel):
    """Results of the server's guards for a prompt, with their scores."""

    outcome: Literal["as asked", "unsteered", "refused"] = "as asked"
    refusal: float | None = None
    prompt: float | None = None


class Steering(BaseModel):
    """Steering that was applied. `coherence` and `eased` are present if requested."""

    hash: str
    unit: Unit
    scope: Scope
    skip_special: bool
    """Whether special tokens and those of the chat template were left out."""
    positions: Positions = ()
    """Present with the scopes that take them."""
    norm: Norm = "free"
    """Present where it is not `free`."""
    revision: str
    preset: str | None
    default: str | None
    """The operator's default preset that was merged in."""
    guards: Guards = Guards()
    """Present if the server's guards check prompts and replies."""
    applied: list[Applied]
    load: float
    predicted: Verdict
    warnings: list[Warned]
    cut: float = 1.0
    eased: list[Easing] = []
    coherence: Coherence | None = None


class SteeringDelta(BaseModel):
    """Differences between the steering of one choice and the response's `steering`."""

    hash: str = ""
    unit: Unit = "dose"
    scope: Scope = "assistant"
    skip_special: bool = False
    positions: Positions = ()
    norm: Norm = "free"
    preset: str | None = None
    guards: Guards = Guards()
    applied: list[Applied] = []
    load: float = 0.0
    predicted: Verdict = "ok"
    warnings: list[Warned] = []
    eased: list[Easing] = []
    coherence: Coherence | None = None


class CachedTokens(BaseModel):
    """Number of prompt tokens read from the cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Number of tokens in the prompt, in the completion, and in total."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Alternative(BaseModel):
    """An alternative token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenSaid(Alternative):
    """A generated token and its log-probability."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """Log-probabilities of each token of a reply."""

    content: list[TokenSaid]
    refusal: None


class ChatMessage(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One choice of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    steering: SteeringDelta = SteeringDelta()


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    steering: Steering


class ChatCompletion(_Completion):
    """A chat completion."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    """Log-probabilities of each token of a text; null for the first token of a prompt, which no other one predicts."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One choice of a text completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    steering: SteeringDelta = SteeringDelta()


class TextCompletion(_Completion):
    """A text completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Place(BaseModel):
    """Position of a waiting request in the queue."""

    object: Literal["place"]
    id: str
    before: int
    """Number of requests ahead in the queue, at present."""
    running: int


class SteeringAbilities(BaseModel):
    """Steering capabilities of a model."""

    saes: list[str]
    hook: str
    modes: list[Mode]
    scopes: list[Scope]
    scope: Scope
    """The scope of a request that names none."""
    skip_special: bool = False
    """The `skip_special` of a request that does not give it."""
    max_features: int


class ModelCard(BaseModel):
    """A model: the base model with `steering`, or a persona with `parent`, `name` and `description`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    default_system_prompt: str = ""
    """What the model's chat template says as the system where a chat has no system message."""
    steering: SteeringAbilities | None = None
    parent: str = ""
    name: str = ""
    description: str = ""


class ModelList(BaseModel):
    """The base model, and one model id per preset."""

    object: Literal["list"]
    data: list[ModelCard]


class Validated(BaseModel):
    """Result of validating a steering object."""

    valid: Literal[True]
    normalized: SteeringSpec
    push_norm: dict[str, float]
    guards: Guards = Guards()
    """Present if the server's guards check prompts and replies."""
    applied: list[Applied]
    load: float
    predicted: Verdict
    strained_from: float
    """The load above which most replies are strained."""
    broken_from: float
    """The load above which most replies break down."""
    cosines: list[list[float]]
    """Cosines between the directions applied, in their order; 0 for one that adds no push. The load is √(Σ dᵢ dⱼ cos(i, j))."""
    warnings: list[Warned]
    hash: str
    cut: float = 1.0


class Compared(ChatCompletion):
    """One variant's reply, and its index."""

    variant: str
    index: int


class Comparison(BaseModel):
    """The replies of all variants, in the order of the request."""

    object: Literal["comparison"]
    seed: int
    data: list[Compared]


class SuggestRequest(BaseModel):
    """POST /v1/steering/suggest: a wish, or the messages that a reply is wanted for."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    wish: str | None = Field(default=None, min_length=1, max_length=300)
    """How replies should be: `more poetic, less formal`."""
    messages: list[MessageInput] | None = Field(default=None, min_length=1, max_length=200)
    limit: int = Field(default=3, ge=1, le=3)

    @model_validator(mode="after")
    def _something(self) -> "SuggestRequest":
        if self.wish is None and self.messages is None:
            raise ValueError("give either wish or messages")
        return self


class SuggestedSlider(BaseModel):
    """A suggested slider, and the reason."""

    id: str
    label: str
    strength: float
    mode: Mode
    unit: Unit
    why: str
    similarity: float | None = None
    """Of its label to the wish; 1 and more where words are the same."""
    gain: float | None = None
    """No longer measured; always null."""


class Suggestion(BaseModel):
    """Sliders suggested for a wish or a question. Empty where no label fits."""

    object: Literal["suggestion"]
    features: list[SuggestedSlider]
    preset: str | None = None
    """A preset that fits the wish at least as well as the best feature."""
    gain: float | None
    """No longer measured; always null, as are the next two."""
    prompt_gain: float | None
    random_gain: float | None
    system_prompts: list[str] = []
    """System prompts with the same wish, to compare with."""
