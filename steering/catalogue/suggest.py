"""Slider suggestions: the slider-ready features and the presets whose labels fit a wish, with doses.

A wish is compared with what readers named the features, and nothing is run. Two ways that ask the model were worse on a
real one (`docs/decisions/0078-suggest-by-labels.md`): its replies under a system prompt that states the wish hardly differ
from its other ones, so a gradient towards them points nowhere.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import SteeringError
from steering.spec import Preset

LESS = re.compile(r"^(?:less|not(?: so)?|no|without|fewer|never)\s+(?P<rest>.+)$", re.IGNORECASE)
ASKING = frozenset(
    re.findall(
        r"\w+",
        "a about act all always an and answer answers are as back be behave bit bring bringing chat else every everything for "
        "from i in into is it like little live make makes me more much must my narrator never nothing obsessed of on only play "
        "please pretend replies reply role say sound speak style talk tell that the them they think this to very way with write "
        "you your",
    )
)
"""Words with which one asks, and that say nothing of what is asked for."""
PHRASES = re.compile(r"\ball the time\b|\bwork (?=.* into\b)|\bin love with\b|\bin terms of\b", re.IGNORECASE)
LEAST = 0.33
"""Least similarity of a label. Of twenty wishes made of nonsense words, none reached 0.31 with any of 223 labels (decision 78)."""
AS_GOOD = 0.6
"""Least share of the best label's similarity that another feature for the same clause must have."""
SHARE = 0.8
"""Where in its sweet spot a suggested feature is, from the end nearest 0."""
LOAD = 1.0
"""Largest load of all features together, in doses."""
Alike = Callable[[str, Sequence[str]], Sequence[float]]
"""Similarity of a query to each of some labels; 1 and more where words are the same."""


@dataclass(frozen=True)
class Clause:
    """One part of a wish."""

    says: str
    sign: int
    """−1 for "less"."""

    @property
    def prompt(self) -> str:
        """System prompt that asks for it (for "less", for the opposite)."""
        words = self.says.rstrip(".!")
        return f"{words[:1].upper()}{words[1:]}." if " " in words else f"Be {words}."

    @property
    def subject(self) -> str:
        """What it is about, without the words with which one asks."""
        return subject_of(self.says)


@dataclass(frozen=True)
class Suggestion:
    """One suggested feature."""

    feature: Feature
    dose: float
    similarity: float
    """Of its label to the wish."""
    why: str


@dataclass(frozen=True)
class Proposal:
    """Suggested features, and a preset that fits at least as well, if there is one."""

    suggestions: tuple[Suggestion, ...]
    preset: Preset | None
    prompts: tuple[str, ...]
    """System prompts with the same wish, to compare with."""


def clauses(wish: str) -> list[Clause]:
    """Split a wish into clauses: "more poetic, less formal and not so long". Raises SteeringError for an empty wish."""
    found = []
    for part in re.split(r"\s*(?:,|;|\band\b|\bbut\b|\.)\s*", wish.strip()):
        if not part:
            continue
        less = LESS.match(part)
        found.append(Clause(_without_more(less["rest"] if less else part), -1 if less else 1))
    if not found:
        raise SteeringError("say what replies should be like, such as 'more poetic, less formal'")
    return found


def subject_of(text: str) -> str:
    """Return a request without the words with which one asks; all of it if nothing else is left."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", PHRASES.sub(" ", text))
    return " ".join(w for w in words if w.lower() not in ASKING) or text


def candidates(bundle: Bundle) -> list[Feature]:
    """Return the features with a measured dose and an effect. Raises SteeringError if there are none."""
    found = [f for f in bundle.features if f.sweet_spot and f.calibration and f.calibration.works]
    if not found:
        raise SteeringError("no feature of this bundle has a measured dose that works; run `tiller calibrate` first")
    return found


def suggest(bundle: Bundle, presets: Sequence[Preset], wish: str, alike: Alike, *, most: int = 3) -> Proposal:
    """Suggest at most `most` features for a wish, and a preset if one fits as well as the best of them.

    Nothing is suggested where no label is similar enough. Raises SteeringError for an empty wish, or without a calibrated
    feature.
    """
    able, parts = candidates(bundle), clauses(wish)
    fitting = [_fitting(able, c, alike) for c in parts]
    chosen = list[Suggestion]()
    for rank in range(most):  # the best of each clause before the second of any
        for some in fitting:
            if rank < len(some) and len(chosen) < most and some[rank].feature.id not in {s.feature.id for s in chosen}:
                chosen.append(some[rank])
    best = max((s.similarity for s in chosen), default=LEAST)
    preset = _fitting_preset(presets, parts[0], alike, best) if len(parts) == 1 or not chosen else None
    return Proposal(tuple(_within_load(chosen, bundle)), preset, tuple(c.prompt for c in parts))


def _without_more(words: str) -> str:
    return re.sub(r"^(?:more|very|be|a bit|much)\s+(?=\S)", "", words, flags=re.IGNORECASE)


def _fitting(able: Sequence[Feature], clause: Clause, alike: Alike) -> list[Suggestion]:
    """The features whose labels fit a clause, the best first; for "less", those that may be pushed the other way."""
    able = [f for f in able if _spot(f, clause.sign)]
    if not able or not _has_word(clause.subject):
        return []
    scores = alike(clause.subject, [f.label for f in able])
    ranked = sorted(zip(scores, able, strict=True), key=lambda pair: -pair[0])
    enough = max(LEAST, AS_GOOD * ranked[0][0]) if ranked else LEAST
    return [_suggestion(f, clause, float(score)) for score, f in ranked if score >= enough]


def _has_word(text: str) -> bool:
    """Whether there is more than single letters."""
    return re.search(r"[^\W_]{2}", text) is not None


def _suggestion(f: Feature, clause: Clause, similarity: float) -> Suggestion:
    spot = _spot(f, clause.sign)
    assert spot
    near, far = spot
    dose = round(near + SHARE * (far - near), 2)
    return Suggestion(f, dose, round(similarity, 3), f"“{f.label}” fits “{clause.says}”")


def _spot(f: Feature, sign: int) -> tuple[float, float] | None:
    """The doses that work in one direction, from the end nearest 0."""
    if sign > 0:
        return (f.sweet_spot.low, f.sweet_spot.high) if f.sweet_spot else None
    negative = f.calibration.negative if f.calibration else None
    return (negative.high, negative.low) if negative else None


def _fitting_preset(presets: Sequence[Preset], clause: Clause, alike: Alike, best: float) -> Preset | None:
    """The preset whose name or system prompt fits a clause at least as well as `best`."""
    if clause.sign < 0 or not presets or not _has_word(clause.subject):
        return None
    texts = [t for p in presets for t in (p.name, subject_of(p.comparison_prompt or p.description))]
    scores = list(alike(clause.subject, texts))
    by_preset = [max(scores[2 * i : 2 * i + 2]) for i in range(len(presets))]
    at = max(range(len(presets)), key=by_preset.__getitem__)
    return presets[at] if by_preset[at] >= best else None


def _within_load(chosen: Sequence[Suggestion], bundle: Bundle) -> list[Suggestion]:
    """The same with smaller doses, if all together would be farther than one feature may go."""
    if not chosen:
        return []
    rows = normalize(bundle.sae.W_dec[[s.feature.row for s in chosen]].float().cpu(), dim=1)
    doses = torch.tensor([s.dose for s in chosen])
    load = float((doses @ (rows @ rows.T) @ doses).clamp(min=0).sqrt())
    factor = min(1.0, LOAD / load) if load else 1.0
    return [Suggestion(s.feature, round(s.dose * factor, 2), s.similarity, s.why) for s in chosen]
