"""Chats, completions and what steered them. Schemas alone."""

from typing import Literal

from pydantic import BaseModel

from server.schemas.pages import Verdict
from steering.evaluate.coherence import Coherence
from steering.spec import Mode, Scope, SteeringSpec, Unit


class Applied(BaseModel):
    """One feature that steers, its strength in all units."""

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
    """There for a user's own vector."""
    retired: bool = True
    """There for a feature that the revision has no more."""


class Warned(BaseModel):
    """Something that was done as asked, but that the caller should know."""

    code: str
    feature: str
    message: str


class Easing(BaseModel):
    """Where the guard eased a reply, to which share of its strengths, and why."""

    at: int
    factor: float
    why: str


class Guards(BaseModel):
    """What the server's guards made of a prompt, and their scores."""

    outcome: Literal["as asked", "unsteered", "refused"] = "as asked"
    refusal: float | None = None
    prompt: float | None = None


class Steering(BaseModel):
    """What was applied. `coherence` and `eased` are there if they were asked for."""

    hash: str
    unit: Unit
    scope: Scope
    revision: str
    preset: str | None
    default: str | None
    """The operator's preset that lies under it."""
    guards: Guards = Guards()
    """There where the server reads prompts and replies."""
    applied: list[Applied]
    load: float
    predicted: Verdict
    warnings: list[Warned]
    cut: float = 1.0
    eased: list[Easing] = []
    coherence: Coherence | None = None


class SteeringDelta(BaseModel):
    """What is otherwise with the steering of one choice than the whole answer's `steering` says, and nothing else."""

    hash: str = ""
    unit: Unit = "dose"
    scope: Scope = "assistant"
    preset: str | None = None
    guards: Guards = Guards()
    applied: list[Applied] = []
    load: float = 0.0
    predicted: Verdict = "ok"
    warnings: list[Warned] = []
    eased: list[Easing] = []
    coherence: Coherence | None = None


class CachedTokens(BaseModel):
    """How many of the prompt's tokens an earlier turn had computed."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens in, out and together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Alternative(BaseModel):
    """A token that could have been said."""

    token: str
    logprob: float
    bytes: list[int]


class TokenSaid(Alternative):
    """A token that was said."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """Of each token of a reply."""

    content: list[TokenSaid]
    refusal: None


class ChatMessage(BaseModel):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One of the replies."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]
    steering: SteeringDelta = SteeringDelta()


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    steering: Steering


class ChatCompletion(_Completion):
    """A reply to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    """Of each token of a text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]
    steering: SteeringDelta = SteeringDelta()


class TextCompletion(_Completion):
    """A continuation of raw text."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Place(BaseModel):
    """Where a reply stands that waits for room."""

    object: Literal["place"]
    id: str
    before: int
    """How many are to begin before it, as it looks now."""
    running: int


class SteeringAbilities(BaseModel):
    """How a model can be steered."""

    saes: list[str]
    hook: str
    modes: list[Mode]
    scopes: list[Scope]
    max_features: int


class ModelCard(BaseModel):
    """A model id: the model's own with `steering`, or a persona's with `parent`, `name` and `description`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    steering: SteeringAbilities | None = None
    parent: str = ""
    name: str = ""
    description: str = ""


class ModelList(BaseModel):
    """The model, and one id for each preset."""

    object: Literal["list"]
    data: list[ModelCard]


class Validated(BaseModel):
    """What a steering object would do."""

    valid: Literal[True]
    normalized: SteeringSpec
    push_norm: dict[str, float]
    guards: Guards = Guards()
    """There where the server reads prompts and replies."""
    applied: list[Applied]
    load: float
    predicted: Verdict
    strained_from: float
    """The load above which most replies strain."""
    broken_from: float
    """The load above which most replies break."""
    cosines: list[list[float]]
    """Between the directions of what is applied, in its order; 0 with what does not push. The load is √(Σ dᵢ dⱼ cos(i, j))."""
    warnings: list[Warned]
    hash: str
    cut: float = 1.0


class Compared(ChatCompletion):
    """One variant's reply, and its place."""

    variant: str
    index: int


class Comparison(BaseModel):
    """The replies of all variants, in their order."""

    object: Literal["comparison"]
    seed: int
    data: list[Compared]


class SuggestedSlider(BaseModel):
    """A slider, and why."""

    id: str
    label: str
    strength: float
    mode: Mode
    unit: Unit
    why: str
    gain: float | None = None


class Suggestion(BaseModel):
    """Sliders for a wish or a question."""

    object: Literal["suggestion"]
    features: list[SuggestedSlider]
    gain: float | None
    prompt_gain: float | None
    random_gain: float | None
    system_prompts: list[str] = []
