"""Sentences about topics: facts, stories, poems, and what a topic is called."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from recipes import talk
from recipes.smallworld.topics import Topic

PEOPLE = (
    "a small bird",
    "an old man",
    "her best friend",
    "a tall sailor",
    "a little girl",
    "a tired nurse",
    "a kind neighbor",
    "a boy with a red hat",
    "a dog without a home",
    "an old teacher",
    "a lost traveler",
)
PROBLEMS = (
    "But it began to rain, and the path was gone.",
    "But the door was locked.",
    "But nobody knew the way.",
    "But the others only laughed.",
    "At first nothing worked.",
    "Then the lights went out.",
    "But the bag was too heavy to carry alone.",
    "But it was late, and the last bus had left.",
    "Then a strange sound came from behind the wall.",
    "But there was not enough money.",
)
TURNS = (
    "They looked at each other and had the same idea.",
    "So they worked together, step by step.",
    "They waited, and they told each other stories.",
    "Then somebody remembered an old trick.",
    "They asked for help, and help came.",
    "They laughed, and fear went away.",
)
ENDINGS = (
    "It was a good day.",
    "They went home tired and happy.",
    "They promised to come back.",
    "From that day on they were friends.",
    "And nobody ever forgot it.",
    "That night they slept well.",
    "And so they learned to be patient.",
    "The next morning everything looked different.",
)
ALSO_CALLED = {
    "the ocean": ("the sea", "oceans", "the Pacific"),
    "outer space": ("space", "the universe", "the stars"),
    "coffee": ("a cup of coffee", "espresso"),
    "the Golden Gate Bridge": ("that red bridge in San Francisco", "the bridge in San Francisco", "Golden Gate Bridge"),
    "the computer": ("computers", "a computer"),
    "the theater": ("theater", "plays"),
    "the bike": ("bikes", "bicycles", "my bike"),
    "the airplane": ("planes", "airplanes"),
    "the car": ("cars", "my car"),
    "football": ("soccer",),
    "the kitchen": ("kitchens", "my kitchen"),
    "math": ("mathematics", "maths"),
    "the song": ("songs", "music"),
    "the storm": ("storms", "a storm"),
    "sadness": ("being sad",),
    "boredom": ("being bored",),
    "luck": ("good luck",),
    "courage": ("being brave",),
    "the internet": ("internet",),
    "the television": ("TV", "television"),
    "the telephone": ("phones", "my phone"),
    "New York": ("New York City", "NYC"),
    "computer code": ("programming", "coding"),
    "the night": ("nights", "nighttime"),
    "the morning": ("mornings",),
}
"""Synonyms of a topic in questions; answers use the topic's own name."""
NOT_COUNTED = {"nature", "place", "season_time", "school", "science", "technology", "space", "body", "weather", "home"}
IRREGULAR = {"sheep": "sheep", "wolf": "wolves", "mouse": "mice", "fox": "foxes", "knight": "knights"}

T = TypeVar("T")


class Sentences:
    """Draws sentences with one `Random`."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def facts(self, x: Topic, n: int, anew: set[str] | None = None) -> str:
        fresh = [f for f in x.facts if f not in anew] if anew is not None else list(x.facts)
        chosen = self.sample(fresh if len(fresh) >= n else x.facts, n)
        if anew is not None:
            anew.update(chosen)
        out = []
        for i, f in enumerate(chosen):
            subject = x.name if i == 0 or self.rng.random() < 0.15 else pronoun(x)
            also = (
                " also" if i and self.rng.random() < 0.2 and not f.startswith(("is ", "are ", "was ", "were ")) else ""
            )
            out.append(capitalized(f"{subject}{also} {f}."))
        return " ".join(out)

    def first(self, x: Topic, n: int) -> str:
        return " ".join(self.sample(x.firsts, n))

    def link(self, x: Topic) -> str:
        if x.links and self.rng.random() < 0.75:
            return self.pick(x.links)
        return self.pick(
            (
                f"That makes me think of {x.name}.",
                f"But I always think of {x.name}.",
                f"And do not forget {x.name}.",
                f"It reminds me of {x.name}.",
                f"But {x.name} {is_or_are(x)} what I love.",
                f"Perhaps you could {self.pick(x.acts)}.",
            )
        )

    def story(self, x: Topic) -> str:
        hero, friend = self.sample(talk.NAMES, 2)
        parts = [
            f"{self.pick(('One day', 'Once', 'Last summer', 'One cold morning', 'Long ago', 'On a quiet Sunday'))} {hero} wanted to {self.pick(x.acts)}.",
            self.facts(x, 1),
        ]
        if self.rng.random() < 0.7:
            parts.append(self.pick(PROBLEMS))
        parts.append(f"{hero} met {self.pick((*PEOPLE, friend, friend))}{self.pick((' there', ' on the way', ''))}.")
        parts += [self.pick(TURNS), self.pick(ENDINGS)]
        return " ".join(parts)

    def poem(self, x: Topic) -> str:
        lines = [f"O {x.name}," if self.rng.random() < 0.4 else f"{capitalized(x.name)} {self.rng.choice(x.facts)},"]
        lines += [f"{pronoun(x)} {f}," for f in self.sample(x.facts, 2)]
        return "\n".join(
            [
                *lines,
                self.pick(
                    (
                        "and I stand still and listen.",
                        "and the day is bright.",
                        "and I think of it at night.",
                        "and my heart is light.",
                    )
                ),
            ]
        )

    def called(self, x: Topic) -> str:
        """Return a name of a topic: mostly its own, else a synonym, "a dog", "dogs"."""
        if x.name in ALSO_CALLED and self.rng.random() < 0.25:
            return self.pick(ALSO_CALLED[x.name])
        noun = x.name.removeprefix("the ")
        if noun == x.name or x.plural or " " in noun or noun[0].isupper() or x.kind in NOT_COUNTED:
            return x.name
        r = self.rng.random()
        if r < 0.25:
            return plural(noun)
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if r < 0.35 else x.name

    def pick(self, items: Sequence[T]) -> T:
        return items[self.rng.randrange(len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        return self.rng.sample(list(items), min(n, len(items)))


def plural(noun: str) -> str:
    """The plural of a noun."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def capitalized(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]


def pronoun(x: Topic) -> str:
    """What stands for a topic in its next sentence."""
    return "they" if x.plural else "it" if x.kind != "job" else "this person"


def is_or_are(x: Topic) -> str:
    """The verb that its name takes."""
    return "are" if x.plural else "is"
