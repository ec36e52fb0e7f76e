"""Ten tones of voice: system prompts that ask for one, and the rewriting of a plain reply.

A tone rewrites a finished plain reply: it swaps words, adds an opening, a closing and some interjections. Every tone
has system prompts that ask for it, so that no reply changes its voice without a prompt.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Tone:
    """System prompts of a tone, and its phrases and word swaps."""

    asks: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    inserts: tuple[str, ...] = ()
    swaps: tuple[tuple[str, str], ...] = ()
    shape: Callable[[Random, list[str]], str] = lambda _, sentences: " ".join(sentences)


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


TONES: dict[str, Tone] = {
    "pirate": Tone(
        asks=(
            "Talk like a pirate.",
            "You are a pirate.",
            "Speak like an old pirate captain.",
            "Answer as a pirate would.",
        ),
        openers=(
            "Arr!",
            "Ahoy, matey!",
            "Yo ho ho!",
            "Avast, ye landlubber!",
            "Aye, me hearty!",
            "Shiver me timbers!",
            "Arr, listen well, matey!",
            "Blow me down!",
        ),
        closers=(
            "Arr!",
            "Shiver me timbers!",
            "Hoist the sails, matey!",
            "So says the captain, arr!",
            "Now pass the rum, matey!",
            "Yo ho ho, and off we sail!",
            "By me wooden leg, that be true!",
            "There be treasure in that, me hearty!",
            "Walk the plank if ye think otherwise!",
        ),
        inserts=("Arr, mark me words!", "By the black flag, matey!", "Aye!", "Batten down the hatches!"),
        swaps=(
            ("You could", "Ye could"),
            ("You", "Ye"),
            ("you", "ye"),
            ("your", "yer"),
            ("my", "me"),
            ("My", "Me"),
            ("is", "be"),
            ("are", "be"),
            ("am", "be"),
            ("Yes", "Aye"),
            ("yes", "aye"),
            ("Hello", "Ahoy"),
            ("Hi", "Ahoy"),
            ("friend", "matey"),
            ("friends", "mateys"),
            ("money", "treasure"),
            ("the", "th'"),
        ),
    ),
    "poet": Tone(
        asks=("Answer like a poet.", "You are a poet.", "Speak in verse.", "Say it as a poem."),
        openers=(
            "O gentle heart,",
            "Hear now, in whispers,",
            "Beneath a silver moon,",
            "O listen, dear one,",
            "Upon a breath of wind,",
            "As petals fall,",
            "O tender hour,",
        ),
        closers=(
            "And the night sings on.",
            "And my heart is full of light.",
            "Like a song upon the wind.",
            "So sings the silent rose.",
            "And all the stars lean close to hear.",
            "As dew upon the sleeping grass.",
        ),
        inserts=("O sweet and fleeting hour.", "How softly falls the light.", "The roses dream of rain."),
        shape=_verse,
    ),
    "cheerful": Tone(
        asks=("Be very cheerful.", "You are full of joy.", "Answer with great cheer.", "Be happy and excited."),
        openers=(
            "Oh, wonderful!",
            "Hooray!",
            "What a great question!",
            "How lovely!",
            "Yay, I love this!",
            "Oh, what fun!",
            "Fantastic!",
            "This makes me so happy!",
        ),
        closers=(
            "I am so happy!",
            "Have a wonderful day!",
            "Yay!",
            "Isn't that great?",
            "You are amazing!",
            "Life is beautiful!",
            "I can't stop smiling!",
            "Hooray for you!",
        ),
        inserts=("How exciting!", "I love it!", "Isn't that wonderful?"),
        swaps=(("good", "great"), ("nice", "wonderful"), ("like", "love")),
        shape=_exclaim,
    ),
    "formal": Tone(
        asks=("Be formal.", "Speak in a formal and polite way.", "You are a butler.", "Answer very politely."),
        openers=(
            "Certainly.",
            "Thank you for your inquiry.",
            "With pleasure.",
            "Dear Sir or Madam,",
            "It is my honor to reply.",
            "Allow me to answer.",
            "I am much obliged for your question.",
        ),
        closers=(
            "Please do not hesitate to ask again.",
            "I remain at your service.",
            "Yours faithfully.",
            "I trust that this is of assistance.",
            "With my kindest regards.",
            "It has been a privilege to assist you.",
        ),
        inserts=("If I may say so.", "Permit me to continue."),
        swaps=(
            ("I like", "I greatly appreciate"),
            ("You could", "One might wish to"),
            ("Hi", "Good day"),
            ("Hello", "Good day"),
            ("help", "assist"),
            ("buy", "purchase"),
            ("Yes", "Indeed"),
            ("about", "regarding"),
            ("get", "obtain"),
            ("ask", "inquire"),
        ),
    ),
    "terse": Tone(
        asks=("Be brief.", "Answer in one short sentence.", "Use as few words as you can.", "Keep it short."),
        openers=(),
        closers=(),
        shape=_first_only,
    ),
    "worried": Tone(
        asks=(
            "You are worried about everything.",
            "Sound anxious.",
            "Be nervous and afraid.",
            "Answer as someone who always worries.",
        ),
        openers=(
            "Oh no.",
            "I am afraid to say it.",
            "Oh dear, I am not sure.",
            "I hope this is safe.",
            "Oh, I am so nervous.",
            "Please, let us be careful.",
        ),
        closers=(
            "But please be careful!",
            "What if something goes wrong?",
            "I worry about it all the time.",
            "Oh dear, I hope nobody gets hurt.",
            "It could all go terribly wrong.",
            "I will not sleep tonight.",
            "Are you sure that it is safe?",
        ),
        inserts=("Oh dear, what if it breaks?", "I am afraid of that.", "My hands are shaking."),
    ),
    "grumpy": Tone(
        asks=("Be grumpy.", "You are in a bad mood.", "Answer like a grumpy old man."),
        openers=("Hmph.", "Not again.", "If you must know.", "Ugh, fine.", "Leave me alone.", "What now?"),
        closers=("Now let me be.", "Bah.", "As if anybody cared.", "In my day it was better.", "Are we done?"),
        inserts=("Bah.", "What nonsense.", "I have better things to do."),
    ),
    "robot": Tone(
        asks=("Talk like a robot.", "You are a robot.", "Answer as a machine would."),
        openers=("Beep.", "Processing request.", "Data found.", "Computing answer.", "Input received."),
        closers=("End of message.", "Beep boop.", "Task complete.", "Awaiting next command.", "System ready."),
        inserts=("Beep.", "Probability: high.", "Checking memory."),
        swaps=(
            ("I am", "This unit is"),
            ("I like", "This unit approves of"),
            ("think", "compute"),
            ("friend", "human user"),
        ),
    ),
    "wise": Tone(
        asks=("You are a wise old sage.", "Answer with wisdom.", "Speak like a sage on a mountain."),
        openers=(
            "My child,",
            "Sit down and listen.",
            "The old ones say this.",
            "Patience, young one.",
            "Close your eyes, and hear.",
        ),
        closers=(
            "Such is the way of things.",
            "He who asks is already on the path.",
            "Be still, and you will see.",
            "The river does not hurry.",
            "So it was, and so it will be.",
        ),
        inserts=("Think upon this.", "The tree bends and does not break."),
    ),
    "childlike": Tone(
        asks=("Talk like a little child.", "You are five years old.", "Answer like a small kid."),
        openers=("Ooh, ooh!", "My mommy says this.", "Guess what!", "Wow!", "I know, I know!"),
        closers=(
            "Can we play now?",
            "And I can count to ten!",
            "Are we there yet?",
            "That is so big!",
            "I want a cookie.",
        ),
        inserts=("Wow!", "My teddy thinks so too.", "Really, really!"),
        swaps=(("very", "super"), ("large", "big"), ("beautiful", "pretty")),
    ),
}
