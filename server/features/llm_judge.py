"""LLM judge: prompts a language model to name a feature and to score its name.

Texts are one per line. Marked parts are between « and ».
"""

from collections.abc import Sequence

import numpy as np

from server.features.llm_client import LLMClient, numbers_in
from steering.interpret.word_labels import LabelTexts

SHOWN = 24
"""Number of examples shown for a name."""
AT_ONCE = 16
"""Number of texts per question."""
RATED = 10
NAME = (
    "A feature inside a language model is active on the marked parts of the texts below, which stand between « and ». "
    "The strongest come first. Say in at most twelve words what the marked parts have in common, as exactly as the texts "
    "allow. Answer with those words alone."
)
FIRES = (
    "A feature inside a language model is described like this: {label}\n"
    "Which of the numbered texts below would it be active in? Answer with a JSON list of their numbers alone, such as "
    "[2, 5]; [] if none."
)
RIGHT = (
    "A feature inside a language model is described like this: {label}\n"
    "In each numbered text below one part is marked with « and ». For which texts is the description true of just that "
    "part? Answer with a JSON list of their numbers alone, such as [2, 5]; [] if none."
)
RATE = (
    "A feature inside a language model is described like this: {label}\n"
    "In each numbered text below the part on which it was active is marked with « and ». Rate each text: 0, the "
    "description is irrelevant throughout the text; 1, it is related to the text, but vaguely or not near the marked part; "
    "2, it is loosely related to the marked part, or closely to what is near it; 3, it cleanly identifies the marked part. "
    "Answer with a JSON list of one rating for each text alone, in their order."
)


async def name_feature(
    endpoint: LLMClient, texts: LabelTexts, ids: np.ndarray, activations: np.ndarray, says: Sequence[str]
) -> str | None:
    """A name for a feature, from its examples; None if the answer has none. Raises SteeringError."""
    order = np.argsort(-activations.max(1), kind="stable")[:SHOWN]
    lines = "\n".join(_line(texts, ids[i], activations[i] > 0) for i in order)
    raised = f"\nIt also makes these words likelier: {', '.join(t.strip() for t in says)}" if says else ""
    answer = await endpoint.ask(NAME, lines + raised, max_tokens=60)
    words = answer.strip().splitlines()[0].strip(" \"'.“”") if answer.strip() else ""
    return words[:200] or None


async def judge_label(
    endpoint: LLMClient, texts: LabelTexts, label: str, ids: np.ndarray, columns: np.ndarray | None = None
) -> np.ndarray:
    """A model's predictions from a label: in which texts the feature is active, or for which the marked token is right.

    Raises SteeringError if the endpoint fails, ValueError if an answer cannot be parsed.
    """
    active = np.zeros(len(ids), dtype=bool)
    for start in range(0, len(ids), AT_ONCE):
        some = range(start, min(start + AT_ONCE, len(ids)))
        lines = _numbered(texts, ids, columns, some)
        question = (FIRES if columns is None else RIGHT).format(label=label)
        for number in numbers_in(await endpoint.ask(question, lines)):
            if not 1 <= number <= len(some):
                raise ValueError(f"there is no text {number} of {len(some)}")
            active[start + number - 1] = True
    return active


async def rate_label(
    endpoint: LLMClient, texts: LabelTexts, label: str, ids: np.ndarray, columns: np.ndarray
) -> float | None:
    """Mean of a model's ratings, 0 … 3, by the rubric of Scaling Monosemanticity. Raises as `judge_label`."""
    some = range(min(RATED, len(ids)))
    if not some:
        return None
    ratings = numbers_in(await endpoint.ask(RATE.format(label=label), _numbered(texts, ids, columns, some)))
    if len(ratings) != len(some) or not all(0 <= r <= 3 for r in ratings):
        raise ValueError(f"{len(some)} ratings from 0 to 3 were asked for, not {list(ratings)}")
    return round(sum(ratings) / len(ratings), 3)


def _numbered(texts: LabelTexts, ids: np.ndarray, columns: np.ndarray | None, some: range) -> str:
    marks = np.zeros(ids.shape, dtype=bool)
    if columns is not None:
        marks[np.arange(len(ids)), columns] = True
    return "\n".join(f"{n}. {_line(texts, ids[i], marks[i])}" for n, i in enumerate(some, 1))


def _line(texts: LabelTexts, ids: np.ndarray, marked: np.ndarray) -> str:
    parts, inside = [], False
    for token, mark in zip(ids.tolist(), marked.tolist(), strict=True):
        if mark != inside:
            parts.append("«" if mark else "»")
        parts.append(texts.raw(token))
        inside = mark
    return "".join(parts + ["»"] * inside).replace("\n", "↵")
