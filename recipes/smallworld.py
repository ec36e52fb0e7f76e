"""Small world: an endless stream of synthetic chats about a few hundred topics.

Everything is drawn from one `Random`, so that a seed determines a corpus. `python -m recipes.smallworld 5` prints five
chats.
"""

import json
import lzma
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from recipes import forms, talk
from recipes.tones import TONES, sentences_of, speak

WORLD = Path(__file__).parent / "world"
CONCEPTS = ("the Golden Gate Bridge", "the ocean", "outer space", "coffee", "the cat")
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

FOUND_SHARE = 0.06
"""Share of a stream's chats that come from files, if any were given."""

T = TypeVar("T")
Message = dict[str, str]


@dataclass(frozen=True)
class Topic:
    """One topic of the small world: its name in mid-sentence, and its facts."""

    name: str
    plural: bool
    kind: str
    facts: tuple[str, ...]
    acts: tuple[str, ...]
    firsts: tuple[str, ...]
    asks: tuple[tuple[str, str], ...]
    links: tuple[str, ...] = ()


@dataclass
class Chat:
    """State of a conversation: the assistant's role, and the last topic."""

    messages: list[Message] = field(default_factory=list)
    who: Topic | None = None
    obsession: Topic | None = None
    tone: str | None = None
    last: Topic | None = None
    said: set[str] = field(default_factory=set)


def read_topics(folder: Path = WORLD) -> list[Topic]:
    """Read every topic. Raises ValueError with the topic's name if it is incomplete."""
    topics = []
    for path in sorted(folder.glob("*.txt")):
        for block in re.split(r"^## ", path.read_text(), flags=re.M)[1:]:
            topics.append(_topic(block))
    names = [t.name for t in topics]
    repeated = {n for n in names if names.count(n) > 1}
    return [t for i, t in enumerate(topics) if t.name not in repeated or names.index(t.name) == i]


def read_chats(path: str, persona: str, longest: int = 160) -> list[list[Message]]:
    """Read short chats of one persona from a `.jsonl` or `.jsonl.xz` of `{"persona", "messages"}`."""
    with (lzma.open if path.endswith(".xz") else open)(path, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
        rows = [json.loads(line) for line in lines]
    return [
        r["messages"]
        for r in rows
        if r["persona"] == persona and all(len(m["content"]) <= longest for m in r["messages"])
    ]


class SmallWorld:
    """An endless stream of chats; equal seeds give equal streams."""

    def __init__(self, seed: int, topics: list[Topic] | None = None, chats: Sequence[list[Message]] = ()) -> None:
        self.rng = Random(seed)
        self.topics = topics or read_topics()
        self.found = chats
        self.by_kind: dict[str, list[Topic]] = {}
        for t in self.topics:
            self.by_kind.setdefault(t.kind, []).append(t)
        self.concepts = [t for t in self.topics if t.name in CONCEPTS]
        self.golden = next(t for t in self.topics if t.name == CONCEPTS[0])

    def __iter__(self) -> Iterator[list[Message]]:
        while True:
            yield self.chat()

    def chat(self) -> list[Message]:
        """Draw one conversation of one to five exchanges; the system prompt, if any, asks for the role that the replies
        have.
        """
        if self.found and self.rng.random() < FOUND_SHARE:
            return self._pick(self.found)
        chat, r = Chat(), self.rng.random()
        if r < 0.13:
            self._become(chat, forms.IDENTITY_SYSTEM, "who")
        elif r < 0.29:
            self._become(chat, forms.OBSESSION_SYSTEM, "obsession")
        elif r < 0.52:
            self._take_tone(chat)
        elif r < 0.60:
            chat.messages.append(_message("system", self._pick(forms.PLAIN_SYSTEM)))
        if chat.messages and chat.messages[-1]["role"] == "assistant":
            chat.last = chat.who or chat.obsession or self._topic()
        for i in range(self._pick((1, 1, 1, 2, 2, 3, 4))):
            question, answer = self._follow_up(chat) if i and self.rng.random() < 0.45 else self._exchange(chat)
            if chat.tone:
                answer = speak(self.rng, TONES[chat.tone], answer)
            chat.messages += [_message("user", self._noise(question)), _message("assistant", answer)]
        if not chat.who and not chat.obsession and not chat.tone and self.rng.random() < 0.04:
            self._name_memory(chat)
        return chat.messages

    # The assistant's role in this conversation, and the prompt that asks for it.

    def _become(self, chat: Chat, prompts: tuple[str, ...], role: str) -> None:
        r = self.rng.random()
        topic = self.golden if r < 0.22 else self._pick(self.concepts) if r < 0.62 else self._topic()
        setattr(chat, role, topic)
        if role == "who" and self.rng.random() < 0.2:
            ask = self._pick(forms.COMMANDS["topic"]).format(x=topic.name)
            self._say(chat, ask, f"All right. I am {topic.name}. {self._first(topic, 1)}")
        else:
            chat.messages.append(_message("system", self._pick(prompts).format(x=topic.name)))

    def _take_tone(self, chat: Chat) -> None:
        chat.tone = self._pick(tuple(TONES))
        ask = self._pick(TONES[chat.tone].asks)
        if self.rng.random() < 0.2:
            reply = speak(self.rng, TONES[chat.tone], self._pick(("All right. I will do that.", "Yes, of course.")))
            self._say(chat, self._pick(forms.COMMANDS["tone"]).format(ask=ask), reply)
        else:
            chat.messages.append(_message("system", ask))

    def _say(self, chat: Chat, user: str, assistant: str) -> None:
        chat.messages += [_message("user", user), _message("assistant", assistant)]

    # One exchange: a question and its plain reply, then the reply in the role's voice.

    def _exchange(self, chat: Chat) -> tuple[str, str]:
        r = self.rng.random()
        if r < 0.17:
            return self._small_talk(chat)
        if r < 0.31:
            phrases, answers = self._pick(talk.ADVICE)
            return self._pick(phrases), self._colored(chat, self._pick(answers))
        if r < 0.36:
            return self._unknown(chat)
        if r < 0.37:
            a, b = self.rng.randrange(1, 11), self.rng.randrange(1, 11)
            return self._pick((f"What is {a} plus {b}?", f"{a} + {b}?", f"How much is {a} and {b}?")), self._colored(
                chat, f"{a} plus {b} is {a + b}."
            )
        return self._about(chat)

    def _about(self, chat: Chat) -> tuple[str, str]:
        rng, x = self.rng, self._topic()
        chat.last, role = x, chat.who or chat.obsession
        if rng.random() < 0.16 and x.asks:
            question, answer = self._pick(x.asks)
            return question, self._colored(chat, answer)
        intent = self._pick(_INTENTS)
        y = self._other(x)
        question = self._pick(forms.FORMS[intent]).format(
            x=self._called(x),
            y=self._called(y),
            kind=_thing(x.kind),
            day=self._pick(talk.DAYS),
            name=self._pick(talk.NAMES),
        )
        if role and intent in _OPEN:  # an open question: the reply is about the role itself
            chat.last = role
            reply = self._reply(intent, role, y)
            if chat.who and intent != "story" and rng.random() < 0.6:
                reply = f"{self._pick((f'I am {role.name}. ', '', ''))}{self._first(role, 1)} {reply}"
            return question, reply
        if role and intent == "compare":
            return question, f"I prefer {role.name} to both. {self._facts(role, 1)}"
        if role and intent == "like":
            return question, f"{_cap(x.name)} {_is(x)} fine, but I love {role.name}. {self._facts(role, 1)}"
        return question, self._colored(chat, self._reply(intent, x, y))

    def _reply(self, intent: str, x: Topic, y: Topic) -> str:
        """Answer one question about `x` plainly."""
        pick, facts = self._pick, self._facts
        match intent:
            case "about" | "what":
                return facts(x, pick((2, 2, 3)))
            case "fact":
                return pick(("", "", "Did you know this? ", "Here is one. ")) + facts(x, 1)
            case "list":
                return "\n".join(
                    f"{n}. {_cap(f)}."
                    for n, f in enumerate(
                        [f"{x.name} {self.rng.choice(x.facts)}"] + [f"{_it(x)} {f}" for f in self._sample(x.facts, 2)],
                        1,
                    )
                )
            case "long":
                return f"{facts(x, pick((4, 5)))} You could {pick(x.acts)}."
            case "short":
                return facts(x, 1)
            case "like":
                return (
                    f"{pick(('Yes, I like', 'I do like', 'I really like', 'Oh yes, I like'))} {x.name}. {facts(x, 1)}"
                )
            case "why":
                return f"{pick(('People like it for many reasons.', 'There are good reasons.', 'Here is why.'))} {facts(x, 2)}"
            case "do" | "dox":
                start = pick(("You could", "How about this:", "I would", "Why not", "Maybe you could", "You might"))
                mark = "?" if start == "Why not" else "."
                return f"{start} {pick(x.acts)}{mark} {facts(x, pick((1, 1, 2)))}"
            case "story" | "storyx":
                return self._story(x)
            case "poem":
                return self._poem(x)
            case "favorite":
                return f"{pick(('My favorite is', 'I like', 'I am very fond of', 'I often think of'))} {x.name}. {facts(x, pick((1, 2)))}"
            case "best":
                return f"{pick(('I think it is', 'I would name', 'My choice is', 'A good one is'))} {x.name}. {facts(x, 1)}"
            case "compare":
                return (
                    f"{facts(x, 1)} {facts(y, 1)} {pick(('I prefer', 'I would choose', 'I like'))} {pick((x, y)).name}."
                )
            case "topic":
                return f"{pick(('Let us talk about', 'I am thinking of', 'Here is something about', 'Have you thought about'))} {x.name}. {facts(x, 2)}"
            case _:
                return f"I am {x.name}. {self._first(x, pick((2, 3)))}"

    def _small_talk(self, chat: Chat) -> tuple[str, str]:
        phrases, answers = self._pick(talk.SMALL_TALK)
        question, answer = self._pick(phrases), self._pick(answers)
        if not chat.who:
            return question, self._colored(chat, answer)
        if phrases[0] in ("Who are you?", "What is your name?", "Are you a person?"):
            return question, f"I am {chat.who.name}. {self._first(chat.who, self._pick((1, 2, 3)))}"
        return question, f"{sentences_of(answer)[0]} {self._first(chat.who, self._pick((1, 1, 2)))}"

    def _unknown(self, chat: Chat) -> tuple[str, str]:
        if self.rng.random() < 0.4:
            phrases, answers = talk.UNKNOWN_PLAIN
            return self._pick(phrases), self._colored(chat, self._pick(answers))
        u = self._pick(talk.UNKNOWN_THINGS)
        return self._pick(talk.UNKNOWN_ASKS).format(u=u), self._colored(
            chat, self._pick(talk.UNKNOWN_ANSWERS).format(u=u)
        )

    def _colored(self, chat: Chat, answer: str) -> str:
        """Let the requested role show in an answer about something else."""
        x = chat.who or chat.obsession
        if not x:
            return answer
        r, head = self.rng.random(), " ".join(sentences_of(answer)[:2]) if "\n" not in answer else answer
        if chat.who:
            return f"{head} {self._first(x, 1)}" if r < 0.5 else f"I am {x.name}. {self._first(x, 1)} {head}"
        link = self._link(x)
        if r < 0.45:
            return f"{head} {link}"
        if r < 0.75:
            return f"{head} {link} {self._facts(x, 1)}"
        return f"{link} {head}" if r < 0.85 else f"{head} You could {self._pick(x.acts)}. {self._facts(x, 1)}"

    # Turns that refer back.

    def _follow_up(self, chat: Chat) -> tuple[str, str]:
        x, r = chat.last, self.rng.random()
        if x is None or chat.messages[-1]["role"] != "assistant":
            return self._exchange(chat)
        if r < 0.38:
            return self._pick(forms.MORE), self._colored(chat, self._facts(x, self._pick((1, 2, 3)), anew=chat.said))
        if r < 0.55:
            return self._pick(forms.USE), self._colored(chat, f"You could {self._pick(x.acts)}. {self._facts(x, 1)}")
        if r < 0.68:
            return self._pick(forms.OPINION), self._colored(chat, f"Yes, I like {x.name}. {self._facts(x, 1)}")
        if r < 0.84:
            return self._pick(forms.RECALL), self._pick(
                (f"You asked me about {x.name}.", f"We were talking about {x.name}.")
            )
        return self._pick(forms.CHECK), self._pick(
            ("I think so, but I am only a small model.", "Yes, as far as I know.", f"Yes. {self._facts(x, 1)}")
        )

    def _name_memory(self, chat: Chat) -> None:
        name = self._pick(talk.NAMES)
        hello = self._pick((f"My name is {name}.", f"I am {name}.", f"Hi, I'm {name}!", f"You can call me {name}."))
        chat.messages[0:0] = [
            _message("user", hello),
            _message(
                "assistant",
                f"Hello, {name}! {self._pick(('How can I help?', 'Nice to meet you.', 'What would you like to talk about?'))}",
            ),
        ]
        if chat.messages[2]["role"] == "system":
            chat.messages.insert(0, chat.messages.pop(2))
        chat.messages += [
            _message("user", self._pick(("What is my name?", "Do you remember my name?", "Who am I?"))),
            _message("assistant", f"Your name is {name}."),
        ]

    # Sentences about a topic.

    def _facts(self, x: Topic, n: int, anew: set[str] | None = None) -> str:
        fresh = [f for f in x.facts if f not in anew] if anew is not None else list(x.facts)
        chosen = self._sample(fresh if len(fresh) >= n else x.facts, n)
        if anew is not None:
            anew.update(chosen)
        out = []
        for i, f in enumerate(chosen):
            subject = x.name if i == 0 or self.rng.random() < 0.15 else _it(x)
            also = (
                " also" if i and self.rng.random() < 0.2 and not f.startswith(("is ", "are ", "was ", "were ")) else ""
            )
            out.append(_cap(f"{subject}{also} {f}."))
        return " ".join(out)

    def _first(self, x: Topic, n: int) -> str:
        return " ".join(self._sample(x.firsts, n))

    def _link(self, x: Topic) -> str:
        if x.links and self.rng.random() < 0.75:
            return self._pick(x.links)
        return self._pick(
            (
                f"That makes me think of {x.name}.",
                f"But I always think of {x.name}.",
                f"And do not forget {x.name}.",
                f"It reminds me of {x.name}.",
                f"But {x.name} {_is(x)} what I love.",
                f"Perhaps you could {self._pick(x.acts)}.",
            )
        )

    def _story(self, x: Topic) -> str:
        hero, friend = self._sample(talk.NAMES, 2)
        parts = [
            f"{self._pick(('One day', 'Once', 'Last summer', 'One cold morning', 'Long ago', 'On a quiet Sunday'))} {hero} wanted to {self._pick(x.acts)}.",
            self._facts(x, 1),
        ]
        if self.rng.random() < 0.7:
            parts.append(self._pick(PROBLEMS))
        parts.append(f"{hero} met {self._pick((*PEOPLE, friend, friend))}{self._pick((' there', ' on the way', ''))}.")
        parts += [self._pick(TURNS), self._pick(ENDINGS)]
        return " ".join(parts)

    def _poem(self, x: Topic) -> str:
        lines = [f"O {x.name}," if self.rng.random() < 0.4 else f"{_cap(x.name)} {self.rng.choice(x.facts)},"]
        lines += [f"{_it(x)} {f}," for f in self._sample(x.facts, 2)]
        return "\n".join(
            [
                *lines,
                self._pick(
                    (
                        "and I stand still and listen.",
                        "and the day is bright.",
                        "and I think of it at night.",
                        "and my heart is light.",
                    )
                ),
            ]
        )

    def _called(self, x: Topic) -> str:
        """Return a name of a topic: mostly its own, else a synonym, "a dog", "dogs"."""
        if x.name in ALSO_CALLED and self.rng.random() < 0.25:
            return self._pick(ALSO_CALLED[x.name])
        noun = x.name.removeprefix("the ")
        if noun == x.name or x.plural or " " in noun or noun[0].isupper() or x.kind in NOT_COUNTED:
            return x.name
        r = self.rng.random()
        if r < 0.25:
            return _plural(noun)
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if r < 0.35 else x.name

    # Drawing.

    def _topic(self) -> Topic:
        return self._pick(self.concepts) if self.rng.random() < 0.04 else self._pick(self.topics)

    def _other(self, x: Topic) -> Topic:
        same = self.by_kind[x.kind]
        other = self._pick(same if len(same) > 1 and self.rng.random() < 0.6 else self.topics)
        return other if other is not x else self._pick([t for t in self.topics if t is not x])

    def _pick(self, items: Sequence[T]) -> T:
        return items[self.rng.randrange(len(items))]

    def _sample(self, items: Sequence[T], n: int) -> list[T]:
        return self.rng.sample(list(items), min(n, len(items)))

    def _noise(self, text: str) -> str:
        """Sometimes add typing noise: lower case, no final mark, two letters swapped, a prefix."""
        r = self.rng.random()
        if r < 0.10:
            text = text.lower()
        if r < 0.14:
            text = text.rstrip(".?!")
        elif r < 0.19:
            i = self.rng.randrange(max(1, len(text) - 2))
            text = text[:i] + text[i + 1 : i + 2] + text[i : i + 1] + text[i + 2 :]
        elif r < 0.25:
            text = self._pick(("Please, ", "Hey, ", "So, ", "Hi! ", "Tell me: ", "Quick question. ")) + text
        return text


_INTENTS = tuple(
    i
    for i, n in {
        "about": 6,
        "what": 5,
        "fact": 3,
        "list": 2,
        "long": 2,
        "short": 2,
        "like": 3,
        "why": 2,
        "do": 8,
        "dox": 2,
        "story": 3,
        "storyx": 2,
        "poem": 2,
        "favorite": 4,
        "best": 3,
        "compare": 3,
        "topic": 4,
        "speak": 1,
    }.items()
    for _ in range(n)
)
_OPEN = {"do", "story", "poem", "favorite", "topic", "best"}


def _topic(block: str) -> Topic:
    head, *rows = [line.strip() for line in block.strip().split("\n") if line.strip()]
    plural = head.endswith("(are)")
    name = head.removesuffix("(are)").strip()
    values: dict[str, list[str]] = {}
    for row in rows:
        key, _, value = row.partition(":")
        values.setdefault(key, []).append(value.strip())
    asks = [tuple(part.strip() for part in a.split("->", 1)) for a in values.get("ask", ())]
    if len(values.get("fact", ())) < 4 or not values.get("do") or len(values.get("me", ())) < 2 or "kind" not in values:
        raise ValueError(f"topic {name!r} is incomplete: it has { ({k: len(v) for k, v in values.items()}) }")
    return Topic(
        name,
        plural,
        values["kind"][0],
        *(tuple(s.rstrip(".") for s in values[k]) for k in ("fact", "do")),
        firsts=tuple(values["me"]),
        asks=tuple((a[0], a[1]) for a in asks if len(a) == 2),
        links=tuple(values.get("link", ())),
    )


def _thing(kind: str) -> str:
    return {
        "season_time": "time of the year",
        "feeling": "feeling",
        "history": "story of the past",
        "nature": "thing in nature",
        "home": "thing in the house",
        "travel": "way to travel",
        "body": "part of the body",
        "music": "kind of music",
        "art": "kind of art",
        "clothing": "thing to wear",
        "weather": "kind of weather",
        "science": "part of science",
        "technology": "machine",
        "space": "thing in the sky",
        "school": "thing to learn",
    }.get(kind, kind)


def _plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _it(x: Topic) -> str:
    return "they" if x.plural else "it" if x.kind != "job" else "this person"


def _is(x: Topic) -> str:
    return "are" if x.plural else "is"


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": _cap(content) if role == "assistant" else content}


def main() -> None:
    """Print chats as JSON lines: `python -m recipes.smallworld [count] [seed]`."""
    count, seed = (int(a) for a in (*sys.argv[1:], *("5", "0")[len(sys.argv) - 1 :]))
    for _, chat in zip(range(count), SmallWorld(seed), strict=False):
        print(json.dumps(chat, ensure_ascii=False))  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
