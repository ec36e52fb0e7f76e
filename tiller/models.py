"""Response models, frozen; unknown fields of a newer server are kept.

Everything in a value that is no attribute of its own stands in `model_extra`, or in `raw` of replies and chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Raw = dict[str, Any]


class Value(BaseModel):
    """Something that the server said."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Applied(Value):
    """One feature that steered a reply, its strength in all units."""

    id: str
    label: str = ""
    mode: str = "add"
    strength: float
    dose: float | None = None
    max: float | None = None
    raw: float | None = None
    in_sweet_spot: bool | None = None
    measured: bool | None = None


class Warned(Value):
    """Something that was done as asked, but that one should know."""

    code: str
    feature: str = ""
    message: str


class Coherence(Value):
    """How well a reply holds together."""

    repetition: float | None = None
    mean_logprob_unsteered: float | None = None
    verdict: str


class Steered(Value):
    """What was applied to a reply. `coherence` and `eased` are there if they were asked for."""

    hash: str
    unit: str = "dose"
    scope: str = "assistant"
    revision: str = ""
    preset: str | None = None
    applied: tuple[Applied, ...] = ()
    load: float | None = None
    predicted: str | None = None
    warnings: tuple[Warned, ...] = ()
    cut: float | None = None
    eased: tuple[Raw, ...] | None = None
    coherence: Coherence | None = None


class Usage(Value):
    """Tokens in, out and together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Reply:
    """A whole reply. Where several were asked for with `n`, the first; all of them are in `raw`."""

    text: str
    finish_reason: str | None
    usage: Usage | None
    steering: Steered | None
    raw: Raw = field(repr=False)

    @classmethod
    def from_json(cls, raw: Raw) -> "Reply":
        """Read a chat completion."""
        first = raw["choices"][0]
        return cls(first["message"]["content"], first["finish_reason"], _usage(raw), _steered(raw), raw)


@dataclass(frozen=True)
class Chunk:
    """A piece of a reply. The first tells `steering`, the last `finish_reason`; `index` is the reply's place of several."""

    text: str
    index: int
    finish_reason: str | None
    usage: Usage | None
    steering: Steered | None
    raw: Raw = field(repr=False)

    @classmethod
    def from_json(cls, raw: Raw) -> "Chunk":
        """Read one chunk of a chat completion."""
        first = next(iter(raw["choices"]), {})
        text = (first.get("delta") or {}).get("content") or ""
        return cls(text, first.get("index", 0), first.get("finish_reason"), _usage(raw), _steered(raw), raw)


@dataclass(frozen=True)
class Comparison:
    """The replies of all variants by name, in their order, and the seed that they share."""

    seed: int
    replies: Mapping[str, Reply]

    @classmethod
    def from_json(cls, raw: Raw) -> "Comparison":
        """Read a comparison."""
        return cls(raw["seed"], {item["variant"]: Reply.from_json(item) for item in raw["data"]})


class SweetSpot(Value):
    """Which doses do something and stay coherent."""

    low: float
    high: float


class Feature(Value):
    """A feature. `examples`, `top_logits`, `similar` and the like are told where one is asked for by id."""

    id: str
    index: int
    label: str = ""
    label_source: str | None = None
    density: float | None = None
    dose: float | None = None
    typical_max: float | None = None
    max_activation: float | None = None
    sweet_spot: SweetSpot | None = None
    starred: bool = False
    score: float | None = None
    """How well it fits what was looked for."""
    examples: tuple[Raw, ...] = ()
    top_logits: Raw | None = None
    similar: tuple[Raw, ...] = ()


class Token(Value):
    """A token of a text, and the features that fire most on it."""

    id: int
    text: str
    part: int
    top: tuple[Raw, ...] = ()


class Evoked(Value):
    """A feature that a text evokes."""

    id: str
    label: str = ""
    max: float
    mean: float
    count: int
    score: float
    activations: tuple[float, ...] = ()


class Analysis(Value):
    """What a text evokes, as a whole and token by token."""

    model: str
    revision: str
    truncated: bool
    tokens: tuple[Token, ...]
    features: tuple[Evoked, ...]
    labels: dict[str, str] = {}
    """Label of each feature that is named for a token."""
    parts: tuple[Raw, ...] = ()
    compared: tuple[Raw, ...] | None = None


class Preset(Value):
    """A persona: a steering under a name. `{model}@{id}` is its model id."""

    id: str
    name: str
    description: str = ""
    model: str = ""
    system_prompt: str | None = None
    comparison_prompt: str = ""
    """A system prompt that asks for the same, to compare with; it is never sent with the preset."""
    sampling: dict[str, float] = {}
    steering: Raw = {}
    starter_prompts: tuple[str, ...] = ()
    readonly: bool = False
    version: int = 1


class Suggested(Value):
    """A slider that was suggested, and why."""

    id: str
    label: str = ""
    strength: float
    mode: str = "add"
    unit: str = "dose"
    why: str = ""


class Suggestion(Value):
    """Sliders for a wish, at most three, and a preset that fits as well as the best of them, if there is one."""

    features: tuple[Suggested, ...]
    preset: str | None = None
    gain: float | None = None
    prompt_gain: float | None = None
    random_gain: float | None = None

    @property
    def steering(self) -> Raw:
        """As a chat takes it."""
        return {"features": [f.model_dump(include={"id", "strength", "mode"}) for f in self.features], "unit": "dose"}


class Job(Value):
    """Long work, as it is now."""

    id: str
    type: str
    config: Raw = {}
    state: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    progress: float = 0.0
    eta_s: float | None = None
    created: float
    started: float | None = None
    ended: float | None = None
    metrics: dict[str, float] = {}
    error: str | None = None
    result: Raw = {}


class Event(Value):
    """Something that happened in a job: a `metric`, a `log` or a `state`."""

    id: int
    kind: str
    data: Any


class Limits(Value):
    """What a server is and allows, section by section."""

    server: Raw
    model: Raw
    sae: Raw
    steering: Raw
    requests: Raw
    sweep: Raw = {}
    users: Raw = {}
    training: Raw = {}
    labels: Raw = {}
    meaning: Raw = {}
    shares: Raw = {}
    keys: Raw = {}


class Place(Value):
    """Where a reply stands that waits for room."""

    id: str
    before: int
    """How many are to begin before it, as it looks now."""
    running: int


class Page(Value, Generic[T]):
    """A part of a list, and where it goes on."""

    data: tuple[T, ...] = Field(default=())
    has_more: bool = False
    next_cursor: str | None = None


def _usage(raw: Raw) -> Usage | None:
    return Usage.model_validate(raw["usage"]) if raw.get("usage") else None


def _steered(raw: Raw) -> Steered | None:
    return Steered.model_validate(raw["steering"]) if raw.get("steering") else None
