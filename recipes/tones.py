"""Ten tones of voice: system prompts that ask for one, and the rewriting of a plain reply.

A tone rewrites a finished plain reply: it swaps words, adds an opening, a closing and some interjections. Every tone
has system prompts that ask for it, so that no reply changes its voice without a prompt.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

PHRASES = Path(__file__).parent / "phrases" / "tones.toml"


@dataclass(frozen=True)
class Tone:
    """System prompts of a tone, and its phrases and word swaps."""

    asks: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...]
    inserts: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    shape: Callable[[Random, list[str]], str]


def speak(rng: Random, tone: Tone, reply: str) -> str:
    """Return `reply` in the tone `tone`."""
    sentences = [_swap(s, tone.swaps) for s in sentences_of(reply)]
    if tone.inserts and len(sentences) > 1 and rng.random() < 0.5:
        sentences.insert(rng.randrange(1, len(sentences)), rng.choice(tone.inserts))
    if tone.openers:
        sentences.insert(0, rng.choice(tone.openers))
    if tone.closers and rng.random() < 0.8:
        sentences.append(rng.choice(tone.closers))
    return tone.shape(rng, sentences)


def sentences_of(text: str) -> list[str]:
    """Split plain prose into its sentences, each with its mark."""
    return [s.strip() for s in re.findall(r"[^.!?\n]+[.!?]?", text) if s.strip()]


def _swap(sentence: str, swaps: tuple[tuple[str, str], ...]) -> str:
    for old, new in swaps:
        sentence = re.sub(rf"\b{old}\b", new, sentence)
    return sentence


def _prose(_: Random, sentences: list[str]) -> str:
    return " ".join(sentences)


def _verse(rng: Random, sentences: list[str]) -> str:
    starts = ("", "", "O, ", "And ", "Soft as the dawn, ", "In silver light, ", "Like a slow dream, ")
    lines = [sentences[0]]
    for s in sentences[1:]:
        body = s.rstrip(".!?")
        start = rng.choice(starts)
        lines.append(
            (start + body[0].lower() + body[1:] if start and not body.startswith("I ") else start + body)
            + rng.choice((",", ",", ";"))
        )
    lines[-1] = lines[-1].rstrip(",;.") + "."
    return "\n".join(lines)


def _exclaim(_: Random, sentences: list[str]) -> str:
    return " ".join(re.sub(r"\.$", "!", s) for s in sentences)


def _first_only(_: Random, sentences: list[str]) -> str:
    words = sentences[0].rstrip(".!?").split(", ")[0]
    return words + "."


SHAPES = {"prose": _prose, "verse": _verse, "exclaim": _exclaim, "first": _first_only}
TONES = {
    name: Tone(
        asks=tuple(tone["asks"]),
        openers=tuple(tone.get("openers", ())),
        closers=tuple(tone.get("closers", ())),
        inserts=tuple(tone.get("inserts", ())),
        swaps=tuple((old, new) for old, new in tone.get("swaps", ())),
        shape=SHAPES[tone.get("shape", "prose")],
    )
    for name, tone in tomllib.loads(PHRASES.read_text()).items()
}
