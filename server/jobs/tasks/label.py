"""Job type `label`: labels features and scores the labels, in a server's revision or in a bundle.

Without an endpoint a label is the words that occur where a feature is active, and predicts by them;
with one, a language model reads examples, names them, and is then asked to predict by the name.
Half of the texts are for naming, the other half for scoring. Labels of users are scored where a
model is available, and never changed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from server.features.llm_client import LLMClient
from server.features.llm_judge import judge_label, name_feature, rate_label
from server.jobs.tasks.publish import Measurement, MeasurementInputs, OnProgress, publish_revision, with_progress
from server.jobs.worker import JobContext
from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, LabelScores
from steering.catalogue.resolve import Catalogue
from steering.errors import BadBundle, SteeringError
from steering.interpret.label_scores import DetectionTrial, detection_trial, mean_of
from steering.interpret.top_activations import LeftOut, TopActivations, collect_top_activations
from steering.interpret.word_labels import Labeller, LabelTexts, WordLabel, word_positions

PEOPLES = ("hand", "fit")
"""Sources whose labels are never changed."""
MADE_BY_US = ("auto", "none", "contrast")
"""Sources that labels by words may replace: a sentence from a user's model is more informative."""
TOP, SAMPLES, HELD = 20, 12, 4
"""Examples for a label: the strongest, of each level, and held out of each level."""
ASKED = 16
"""Number of windows of each kind that a language model is asked about."""


class LabelConfig(BaseModel):
    """What to label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: tuple[str, ...] = ()
    """Feature ids; default: all."""
    endpoint: bool = True
    """Use the language model of the server's settings, if configured."""


@dataclass(frozen=True, eq=False)
class Case:
    """One feature with the examples for its label and for its score."""

    feature: Feature
    words: WordLabel
    ids: np.ndarray
    activations: np.ndarray
    trial: DetectionTrial | None


def label_features(
    ground: MeasurementInputs, order: LabelConfig, endpoint: LLMClient | None, on_progress: OnProgress
) -> Measurement:
    """Features with labels and their scores. Raises SteeringError if the endpoint cannot be reached at all."""
    wanted = select_features(ground.bundle, order)
    texts = LabelTexts(ground.tokenizer)
    cases = _cases(ground, wanted, texts, on_progress)
    if not cases:
        raise BadBundle("nothing to label: none of these features is active on the corpus")
    found = [_by_words(case, cases[(i + len(cases) // 2) % len(cases)]) for i, case in enumerate(cases)]
    failed = 0
    if endpoint:
        asked = asyncio.run(_by_model(endpoint, cases, texts, on_progress))
        failed = sum(a is None for a in asked)
        found = [a or words for a, words in zip(asked, found, strict=True)]
    scores = [f.label_scores for f in found if f.label_scores]
    figures = {"labelled": len(found), "scored": len(scores), **mean_of(scores)}
    return Measurement(found, figures | ({"failed": failed} if endpoint else {}))


def select_features(bundle: Bundle, order: LabelConfig) -> list[Feature]:
    """The features of a request, each once. Raises UnknownFeature."""
    if not order.features:
        return bundle.features
    catalogue = Catalogue([bundle])
    return list({f.index: f for name in order.features for f in (catalogue.find(name)[1],)}.values())


def llm_client_from_settings(settings: Settings) -> LLMClient | None:
    """Client for the language model of the settings, if configured. Raises SteeringError for an
    incomplete configuration."""
    if not settings.label_url:
        return None
    if not settings.label_model:
        raise SteeringError("TILLER_LABEL_URL is set, but not TILLER_LABEL_MODEL: name the model to ask")
    key = settings.label_key.get_secret_value() if settings.label_key else None
    return LLMClient(settings.label_url, settings.label_model, key)


def _cases(
    ground: MeasurementInputs, wanted: Sequence[Feature], texts: LabelTexts, on_progress: OnProgress
) -> list[Case]:
    sae, hook = ground.bundle.sae.only(torch.tensor([f.row for f in wanted])), ground.bundle.info.hook
    halves = [[row for row in ground.texts if _half(row) == half] for half in (0, 1)]
    if not all(halves):
        raise BadBundle(
            "too little text: labels are made from one half and scored on the other; name more files with --corpus"
        )
    one = lambda n, of: on_progress(n, 2 * of)  # noqa: E731
    other = lambda n, of: on_progress(of + n, 2 * of)  # noqa: E731
    left_out = LeftOut.of_model(ground.tokenizer, ground.bundle.info.typical_norm)
    learn = collect_top_activations(
        ground.model, sae, hook, with_progress(halves[0], one), top=TOP, samples=SAMPLES, left_out=left_out
    )
    held = collect_top_activations(
        ground.model, sae, hook, with_progress(halves[1], other), top=1, samples=HELD, left_out=left_out
    )
    labeller = Labeller.from_windows(texts, learn.anywhere)
    found = []
    for i, feature in enumerate(wanted):
        if learn.maximum[i] > 0:
            places = word_positions(learn, i)
            words = labeller.label(*places, _without_firings(learn, i))
            found.append(Case(feature, words, *places, detection_trial(held, i)))
    return found


def _without_firings(seen: TopActivations, row: int) -> np.ndarray:
    return (seen.anywhere.peaks[seen.anywhere.filled, row] == 0).numpy()


def _half(ids: Sequence[int]) -> int:
    """Half that a text belongs to; equal texts are in the same half."""
    return hashlib.sha256(np.asarray(ids, dtype=np.uint32).tobytes()).digest()[0] & 1


def _by_words(case: Case, other: Case) -> Feature:
    """A feature with its label by words; only the words, if its present label is better."""
    old = case.feature
    fields: dict[str, Any] = {"words": case.words.words}
    if old.label_source in MADE_BY_US:
        scores = None
        if case.trial:
            fires, right = case.trial.by_words(case.words)
            scores = case.trial.scores(fires, right, case.trial.by_words(other.words)[0])
        label = case.words.text(old.top_logits.get("positive", []))
        fields |= {"label": label, "label_source": "contrast", "label_scores": scores, "stale": False}
    return Feature(id=old.id, index=old.index, row=old.row, **fields)


async def _by_model(
    endpoint: LLMClient, cases: Sequence[Case], texts: LabelTexts, on_progress: OnProgress
) -> list[Feature | None]:
    """Each feature as the endpoint's model names and scores it; None if its answers could not be parsed."""

    async def name(case: Case) -> str | None:
        if case.feature.label_source in PEOPLES:
            return case.feature.label
        says = case.feature.top_logits.get("positive", [])
        return await name_feature(endpoint, texts, case.ids, case.activations, says)

    async with endpoint:
        labels = await _gather([name(case) for case in cases], on_progress)
        others = [labels[(i + len(cases) // 2) % len(cases)] for i in range(len(cases))]
        rows = zip(cases, labels, others, strict=True)
        return await _gather([_judge_labels(endpoint, texts, c, label, other) for c, label, other in rows], on_progress)


async def _judge_labels(
    endpoint: LLMClient, texts: LabelTexts, case: Case, label: str | None, other: str | None
) -> Feature | None:
    if label is None:
        return None
    old, scores = case.feature, None
    if case.trial and other:
        try:
            scores = await _score_labels(endpoint, texts, case.trial, label, other)
        except ValueError as error:
            if isinstance(error, SteeringError):
                raise
            return None
    fields: Mapping[str, Any] = {"words": case.words.words, "label_scores": scores}
    if old.label_source not in PEOPLES:
        fields = {**fields, "label": label, "label_source": f"llm:{endpoint.model}", "stale": False}
    return Feature(id=old.id, index=old.index, row=old.row, **fields)


async def _score_labels(
    endpoint: LLMClient, texts: LabelTexts, on: DetectionTrial, label: str, other: str
) -> LabelScores:
    fires, control, right, specificity = await asyncio.gather(
        judge_label(endpoint, texts, label, on.ids),
        judge_label(endpoint, texts, other, on.ids),
        judge_label(endpoint, texts, label, on.marked, on.columns),
        rate_label(endpoint, texts, label, on.marked[on.right], on.columns[on.right]),
    )
    return on.scores(fires, right, control, specificity=specificity)


async def _gather(tasks: Sequence[Any], on_progress: OnProgress) -> list[Any]:
    done = 0

    async def one(task: Any) -> Any:  # noqa: ANN401 - whatever it brings
        nonlocal done
        found = await task
        done += 1
        on_progress(done, len(tasks))
        return found

    return await asyncio.gather(*(one(t) for t in tasks))


def run(work: JobContext) -> dict[str, Any]:
    """Run a `label` job: publishes a revision with the same SAE and new labels."""
    order = LabelConfig.model_validate(dict(work.config))
    endpoint = llm_client_from_settings(work.settings) if order.endpoint else None
    return publish_revision(work, lambda ground, told: label_features(ground, order, endpoint, told))


JOB = (LabelConfig, run)
"""Schema and function of the job type `label`."""
