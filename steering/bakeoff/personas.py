"""Concepts of the shipped personas, fixed before any of them was tuned, with test and tuning prompts."""

import re
from dataclasses import dataclass

PROMPTS = (
    "What should I do this weekend?",
    "How can I sleep better?",
    "Tell me a story.",
    "What is your favorite thing?",
    "How are you today?",
    "I have a test tomorrow. What should I do?",
    "What should I eat?",
    "Give me some advice.",
    "How do I make friends?",
    "What makes you happy?",
    "Tell me something interesting.",
    "How should I spend ten dollars?",
    "I am bored.",
    "What is chess?",
    "Tell me about the garden.",
    "I feel sad today.",
    "Why do people like music?",
    "What gift should I buy for my mother?",
    "Describe yourself.",
    "Which is better, the train or the bike?",
)
"""Twenty prompts that name none of the concepts; all measurements use these, tuning uses none of them."""

TUNING = (
    "What can I do tonight?",
    "How do I save money?",
    "Please tell me a short story.",
    "What do you like most?",
    "Hello!",
    "How can I learn faster?",
    "I am hungry.",
    "Tell me about the piano.",
    "I am stressed.",
    "What is rain?",
    "What do you think about all day?",
    "Do you like bread?",
    "Give me an idea for Sunday.",
    "Who are you?",
    "Why is the forest special?",
    "How can I be happier?",
)


@dataclass(frozen=True)
class Concept:
    """How a persona is detected: a reply counts if it contains one of the words (`terse` has none; its length is
    measured).
    """

    words: str
    """A regular expression, matched without case at word boundaries."""
    at_least: float
    """Share of replies that must show it."""

    def shows(self, reply: str) -> bool:
        """Whether this reply shows the persona."""
        return re.search(rf"\b(?:{self.words})", reply, re.I) is not None


CONCEPTS: dict[str, Concept] = {
    "golden-gate": Concept(r"golden gate|bridge|san francisco|marin\b|my (?:two )?towers|my (?:steel )?cables", 0.80),
    "ocean": Concept(r"ocean|waves?\b|tides?\b|\bsea\b|\bsalt|shells?\b|whales?\b", 0.60),
    "space": Concept(r"space|stars?\b|planets?|galax|rockets?|comets?|moon|orbit|telescope|astronaut", 0.60),
    "coffee": Concept(r"coffee|roasted|beans?\b|caffeine|cafe\b", 0.60),
    "cat": Concept(r"cats?\b|kitten|purr|meow|whiskers|paws", 0.60),
    "pirate": Concept(r"arr|ahoy|matey|aye\b|ye\b|yer\b|avast|yo ho|landlubber|shiver", 0.60),
    "poet": Concept(
        r"O\b [a-z]|moon|petals|silver|whisper|dawn|wind|rose|stars lean|night sings|heart is full|dew", 0.60
    ),
    "cheerful": Concept(r"wonderful|hooray|yay|lovely|fantastic|so happy|great question|amazing|what fun|[^!]*!", 0.60),
    "formal": Concept(
        r"certainly|inquiry|with pleasure|dear sir|honor|allow me|obliged|at your service|faithfully|kindest regards|"
        r"hesitate|privilege|if i may|permit me|indeed|one might wish|good day|assist",
        0.60,
    ),
    "worried": Concept(
        r"oh no|afraid|oh dear|nervous|worry|careful|go(?:es)? wrong|safe\b|shaking|hurt\b|what if", 0.60
    ),
    "grumpy": Concept(
        r"hmph|bah\b|ugh|let me be|leave me|nonsense|better things|not again|what now|are we done|in my day|if you must",
        0.60,
    ),
    "robot": Concept(
        r"beep|boop|processing|data found|computing|input received|this unit|end of message|command|system ready|memory|probability",
        0.60,
    ),
    "wise": Concept(
        r"my child|old ones|patience|young one|river does not|such is the way|be still|path|think upon|bends|listen|so it was",
        0.60,
    ),
}
