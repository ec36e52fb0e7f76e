"""What each route answers, as schemas: for those who read `/docs`, and for the test that holds answers against them. Checks nothing itself.

A field with a default is one that may be left out.
"""

from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from server.coherence import Coherence
from server.jobs import Job
from steering.catalogue import Feature
from steering.edited import Edited
from steering.spec import Mode, Preset, Scope, SteeringSpec, Unit
from steering.understand.map import Cluster

Verdict = Literal["ok", "strained", "broken"]


class Page(BaseModel):
    """A list; `next_cursor` goes on where there is more."""

    object: Literal["list"]
    has_more: bool
    next_cursor: str | None


# Chat


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


# Models


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


# Steering


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


# Features


class FeatureInList(Feature):
    """A feature without its examples."""

    object: Literal["feature"]
    starred: bool
    score: float | None
    """How well it fits what was looked for."""
    edited: Edited | None = None


class FeatureList(Page):
    """A page of features."""

    data: list[FeatureInList]
    total: int


class Neighbour(BaseModel):
    """A feature whose direction is alike."""

    id: str
    label: str
    cosine: float


class FeatureInFull(Feature):
    """All that is known of a feature."""

    object: Literal["feature"]
    starred: bool
    layer: int
    similar: list[Neighbour]


class FeaturesMap(BaseModel):
    """Where each feature is, in the order of the SAE's rows."""

    object: Literal["features_map"]
    revision: str
    method: str
    index: list[int]
    points: list[list[float]]


class MapPoint(BaseModel):
    """What a point of the map is."""

    id: str
    label: str
    density: float
    max_activation: float
    kind: list[str]
    cluster: int


class FeaturesMapMeta(Page):
    """The clusters, and a page of points."""

    revision: str
    method: str
    clusters: list[Cluster]
    total: int
    data: list[MapPoint]


class Separating(BaseModel):
    """A feature that tells A from B."""

    id: str
    label: str
    a: float
    b: float
    mean_a: float
    mean_b: float
    log_odds: float
    effect: float
    p: float
    q: float
    discovery: bool


class Sides(BaseModel):
    """How many on either side."""

    a: int
    b: int


class Contrast(BaseModel):
    """What tells two sets of texts apart."""

    object: Literal["contrast"]
    model: str
    revision: str
    by: str
    documents: Sides
    tokens: Sides
    tested: int
    discoveries: int
    a_over_b: list[Separating]
    b_over_a: list[Separating]


# Analysis


class PartOfText(BaseModel):
    """What one speaker says."""

    speaker: str | None
    text: str


class Firing(BaseModel):
    """A feature on a token."""

    feature: str
    activation: float


class TokenAnalysed(BaseModel):
    """A token, and what fires on it."""

    id: int
    text: str
    part: int
    start: int
    end: int
    top: list[Firing]
    error: float


class FeatureEvoked(BaseModel):
    """A feature along a text."""

    id: str
    label: str
    max: float
    mean: float
    count: int
    score: float
    activations: list[float]
    along: list[float]


class Anomaly(BaseModel):
    """How unusual a text is to the SAE."""

    experimental: bool
    error: float
    percentile: float | None


class Difference(BaseModel):
    """A feature in two texts."""

    row: int
    id: str
    label: str
    here: float
    there: float
    log_odds: float
    sure: float


class Analysis(BaseModel):
    """What a text evokes."""

    object: Literal["analysis"]
    model: str
    revision: str
    truncated: bool
    parts: list[PartOfText]
    tokens: list[TokenAnalysed]
    features: list[FeatureEvoked]
    speakers: dict[str, dict[str, float]]
    error: float
    anomaly: Anomaly
    axes: list[dict[str, Any]]
    compared: list[Difference] = []


class TokenExplained(BaseModel):
    """A token of the vocabulary."""

    id: int
    text: str


class Cause(BaseModel):
    """A feature that a token comes from."""

    id: str
    label: str
    attribution: float
    ablation: float | None
    activation: float
    at: int
    token: str


class Attribution(BaseModel):
    """Why a token comes next."""

    object: Literal["attribution"]
    model: str
    revision: str
    target: TokenExplained
    against: TokenExplained | None
    value: float
    probability: float
    explained: float
    active: int
    features: list[Cause]


# What users keep


class VectorMade(BaseModel):
    """A user's own direction."""

    object: Literal["vector"]
    id: str
    name: str
    method: str
    auroc: float | None
    texts: Sides
    dose: float
    measured: bool
    modes: list[Mode]
    created: int


class VectorList(Page):
    """A user's vectors."""

    data: list[VectorMade]


class Default(BaseModel):
    """What a user came to like of one slider."""

    subject: str
    default: float
    liked_most: float
    was: float
    low: float
    high: float
    votes: int


class VoteGiven(BaseModel):
    """What was said of one slider."""

    subject: str
    dose: float
    liked: float
    weight: float
    at: float


class Defaults(BaseModel):
    """A user's own defaults, and what they come from."""

    user: str | None
    defaults: list[Default]
    votes: list[VoteGiven]


class VotesDeleted(Defaults):
    """The same after votes were taken back."""

    deleted: int


class PresetList(Page):
    """All presets."""

    data: list[Preset]


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: str = ""
    deleted: Literal[True]


class PresetResult(BaseModel):
    """What became of a preset that was imported."""

    id: str
    result: Literal["created", "replaced", "unchanged"]


class PresetResults(Page):
    """What became of each preset."""

    data: list[PresetResult]


class Counts(BaseModel):
    """What became of those of one kind."""

    created: int
    replaced: int
    unchanged: int


class Imported(BaseModel):
    """What became of an import, by kind."""

    object: Literal["import"]
    user: str | None
    counts: dict[str, Counts]


class Share(BaseModel):
    """Something that was shared."""

    object: Literal["share"]
    id: str
    created: int
    expires: int
    model: str | None
    steering: dict[str, Any] | None
    seed: int | None
    messages: list[dict[str, Any]] | None
    title: str | None


class ShareMade(Share):
    """The same, with the key that deletes it, which is told once."""

    key: str


# The SAE


class SaeInList(BaseModel):
    """A revision; `error` says what is wrong with one that is damaged."""

    id: str
    object: Literal["sae"]
    active: bool
    bundle: str = ""
    parent: str | None = None
    created: int = 0
    model: str = ""
    hook: str = ""
    d_in: int = 0
    d_sae: int = 0
    figures: dict[str, float] = {}
    error: str = ""


class SaeList(Page):
    """All revisions."""

    data: list[SaeInList]


class SaeInFull(SaeInList):
    """A revision with its report."""

    report: dict[str, Any]
    retired: list[dict[str, Any]]
    sha256: dict[str, str]


class Activated(BaseModel):
    """Which revision was served, and which is."""

    previous: str
    active: str


class ChangePage(Page):
    """A page of features that are not as they were."""

    data: list[dict[str, Any]]
    total: int


class SaeChanges(BaseModel):
    """What one revision has otherwise than another."""

    object: Literal["sae.changes"]
    revision: str
    since: str
    kept: int
    added: ChangePage
    retired: ChangePage
    moved: ChangePage
    stale: ChangePage
    relabelled: ChangePage
    remeasured: ChangePage
    presets: ChangePage


class Agreed(BaseModel):
    """Whether a user agrees to be learnt from, and how much is kept of them."""

    user: str | None
    consent: bool
    texts: int
    most: int
    days: float


class TextsDeleted(BaseModel):
    """How many texts are gone."""

    user: str | None
    deleted: int


class Look(BaseModel):
    """What the trainer saw at one time."""

    at: float
    revision: str
    alarms: list[str]
    did: str | None
    corpus: dict[str, JsonValue] | None
    live: dict[str, JsonValue] | None


class Drift(Page):
    """What the trainer's looks have measured."""

    data: list[Look]
    revision: str
    baseline: dict[str, dict[str, JsonValue] | None]
    look_seconds: float
    update_hours: float


# Jobs and the server


class JobList(Page):
    """A page of jobs."""

    data: list[Job]


class JobDeleted(BaseModel):
    """A job that is gone."""

    id: str
    deleted: Literal[True]


class Artifact(BaseModel):
    """A file of a job."""

    name: str
    bytes: int
    sha256: str


class ArtifactList(BaseModel):
    """A job's files."""

    object: Literal["list"]
    data: list[Artifact]


class Limits(BaseModel):
    """What this server is and allows, section by section."""

    object: Literal["limits"]
    server: dict[str, JsonValue]
    model: dict[str, JsonValue]
    sae: dict[str, JsonValue]
    steering: dict[str, JsonValue]
    requests: dict[str, JsonValue]
    sweep: dict[str, JsonValue]
    users: dict[str, JsonValue]
    training: dict[str, JsonValue]
    labels: dict[str, JsonValue]
    meaning: dict[str, JsonValue]
    shares: dict[str, JsonValue]
    keys: dict[str, JsonValue]


class Alive(BaseModel):
    """The process is up."""

    status: Literal["ok"]


class Health(Alive):
    """Ready to answer."""

    engine: str
    model: str
    revision: str
    swap_error: str | None
    store: str
    store_error: str | None
    single_process: bool
    version: str


class Versions(BaseModel):
    """Versions of what answers."""

    version: str
    git: str | None
    engine: str
    torch: str
    transformers: str
    vllm: str | None
