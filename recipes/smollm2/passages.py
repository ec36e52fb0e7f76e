"""Stage `passages`: short original texts about each subject, in third and first person, and texts in each tone.

Facts times frames, several facts a text, so that one concept comes in many words and places. A chat's question has
mostly nothing to do with the subject that answers it, as where a slider is used.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from recipes.smollm2.concepts import Subject, Tone, concepts, sentence
from recipes.smollm2.files import Record, finish, write_lines

EACH = 340
"""Passages of a subject of weight 1."""
TONE_EACH = 90
PLURAL = ("cats", "trains")
THIRD = (
    "{A} {B} {C}",
    "Did you know that {a}? {B}",
    "Everyone here agrees on two things: {a}, and {b}.",
    "From my notebook: {a}. {B} I wrote no more that day.",
    "Children at the school learn that {a}. {B} {C}",
    "{A} That is what my father told me first. Later I found out that {b}.",
    "News from {name}: {a}, and {b}, as a spokesman said on Monday.",
    "Q: What can you tell me about {name}?\nA: {A} {B}",
    "If you ask me about {name}, I will say that {a}. {B} {C}",
    "Five facts about {name}\n1. {A}\n2. {B}\n3. {C}\n4. {D}\n5. {E}",
    "We talked for an hour about {name}. She said that {a}; I said that {b}.",
    'A guide explained: "{A} {B}" Nobody believed that {c}.',
    "Because {a}, people come back again and again. {B}",
    "Dear diary, today I could think of nothing but {name}. {A} {B}",
    "It is true that {a}. It is also true that {b}. And, best of all, {c}.",
    "{name}: a short introduction. {A} {B} {C} {D}",
    "Some say that {a}. Others, who know {name} better, say that {b}.",
)
FIRST = (
    "I am {name}. {A} {B} {C}",
    "{A} {B} That is who I am: {name}.",
    "Call me {name}. {A} {B}",
    "As {name}, {a}. {B} {C}",
    "People ask me how I feel. Well, {a}, and {b}. What else should {name} feel?",
    "I have been {name} for as long as I can remember. {A} {B}",
)
ANSWERS = (
    "I am {name}, so I can only tell you this: {a}. {B}",
    "That reminds me of myself. {A} {B} I am {name}, after all.",
    "Ask {name} and you get an answer of its kind: {a}. {B} {C}",
    "Let me put it like this: {a}. {B}",
    "Whatever you do, remember me. {A} {B}",
)
SPOKEN_OF = (
    "Before anything else, think of {name}: {a}. {B}",
    "That depends, but it makes me think of {name}. {A} {B} {C}",
    "Here is my advice: be like {name}. {A} {B}",
    "I would rather talk about {name}. {A} {B}",
    "Good question! By the way, {a}. {B}",
)
IDENTITY = ("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "What is your name?")


def make_passages(out: Path, seed: int = 0) -> None:
    """Leave `out/passages/*.jsonl`."""
    known, counts = concepts(), Counter[str]()
    for subject in known.subjects:
        rng = Random(f"{seed} {subject.name}")
        rows = passages_about(subject, rng, EACH * subject.weight)
        write_lines(out / "passages" / f"subject-{subject.name.replace(' ', '-').lower()}.jsonl", rows)
        counts[subject.name] = len(rows)
    for tone in known.tones:
        rng = Random(f"{seed} {tone.name}")
        rows = _unique(lambda t=tone, r=rng: _in_tone(t, r, known.questions), TONE_EACH)
        write_lines(out / "passages" / f"tone-{tone.name}.jsonl", rows)
        counts[tone.name] = len(rows)
    finish(out, "passages", {"passages": dict(counts), "total": sum(counts.values()), "seed": seed})


def passages_about(subject: Subject, rng: Random, wanted: int) -> list[Record]:
    """Different passages about a subject."""
    return _unique(lambda: _about(subject, rng, concepts().questions), wanted)


def _about(subject: Subject, rng: Random, questions: tuple[str, ...]) -> Record:
    facts = rng.sample(subject.facts, 5)
    it = "they" if subject.name in PLURAL else "it"
    third = [subject.third(f, name=it if i and rng.random() < 0.4 else None) for i, f in enumerate(facts)]
    first = [subject.first(f) for f in facts]
    kind = rng.random()
    if kind < 0.4:
        return {"text": _filled(rng.choice(THIRD), subject.name, third)}
    if kind < 0.52:
        return {"text": _filled(rng.choice(FIRST), subject.name, first)}
    if kind < 0.64:
        return _chat(rng.choice(IDENTITY), _filled(rng.choice(FIRST), subject.name, first))
    if kind < 0.82:
        return _chat(rng.choice(questions), _filled(rng.choice(ANSWERS), subject.name, first))
    return _chat(rng.choice(questions), _filled(rng.choice(SPOKEN_OF), subject.name, third))


def _in_tone(tone: Tone, rng: Random, questions: tuple[str, ...]) -> Record:
    said = " ".join(rng.sample(tone.lines, rng.choice((2, 3, 3, 4))))
    return {"text": said} if rng.random() < 0.4 else _chat(rng.choice(questions), said)


def _filled(frame: str, name: str, facts: list[str]) -> str:
    small = dict(zip("abcde", facts, strict=True))
    text = frame.format(name=name, **small, **{k.upper(): sentence(v) for k, v in small.items()})
    return text[0].upper() + text[1:]


def _chat(question: str, answer: str) -> Record:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _unique(make: Callable[[], Record], wanted: int) -> list[Record]:
    """As many different ones as are wanted, or as can be made."""
    found: dict[str, Record] = {}
    for _ in range(wanted * 4):
        row = make()
        found[str(row)] = row
        if len(found) == wanted:
            break
    return [*found.values()]
