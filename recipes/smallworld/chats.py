"""Chats of the small world: roles, exchanges and follow-ups.

Everything is drawn from one `Random`, so that a seed determines a corpus.
"""

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from recipes import forms, talk
from recipes.smallworld.sentences import Sentences, capitalized, is_or_are, pronoun
from recipes.smallworld.topics import CONCEPTS, Topic, read_topics
from recipes.tones import TONES, sentences_of, speak

FOUND_SHARE = 0.06
"""Share of a stream's chats that come from files, if any were given."""
INTENTS = tuple(
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
OPEN = {"do", "story", "poem", "favorite", "topic", "best"}

Message = dict[str, str]


@dataclass
class Chat:
    """State of a conversation: the assistant's role, and the last topic."""

    messages: list[Message] = field(default_factory=list)
    who: Topic | None = None
    obsession: Topic | None = None
    tone: str | None = None
    last: Topic | None = None
    said: set[str] = field(default_factory=set)


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
        self.draw = Sentences(self.rng)
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
            return self.draw.pick(self.found)
        chat, r = Chat(), self.rng.random()
        if r < 0.13:
            self._become(chat, forms.IDENTITY_SYSTEM, "who")
        elif r < 0.29:
            self._become(chat, forms.OBSESSION_SYSTEM, "obsession")
        elif r < 0.52:
            self._take_tone(chat)
        elif r < 0.60:
            chat.messages.append(_message("system", self.draw.pick(forms.PLAIN_SYSTEM)))
        if chat.messages and chat.messages[-1]["role"] == "assistant":
            chat.last = chat.who or chat.obsession or self._topic()
        for i in range(self.draw.pick((1, 1, 1, 2, 2, 3, 4))):
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
        topic = self.golden if r < 0.22 else self.draw.pick(self.concepts) if r < 0.62 else self._topic()
        setattr(chat, role, topic)
        if role == "who" and self.rng.random() < 0.2:
            ask = self.draw.pick(forms.COMMANDS["topic"]).format(x=topic.name)
            self._say(chat, ask, f"All right. I am {topic.name}. {self.draw.first(topic, 1)}")
        else:
            chat.messages.append(_message("system", self.draw.pick(prompts).format(x=topic.name)))

    def _take_tone(self, chat: Chat) -> None:
        chat.tone = self.draw.pick(tuple(TONES))
        ask = self.draw.pick(TONES[chat.tone].asks)
        if self.rng.random() < 0.2:
            reply = speak(self.rng, TONES[chat.tone], self.draw.pick(("All right. I will do that.", "Yes, of course.")))
            self._say(chat, self.draw.pick(forms.COMMANDS["tone"]).format(ask=ask), reply)
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
            phrases, answers = self.draw.pick(talk.ADVICE)
            return self.draw.pick(phrases), self._colored(chat, self.draw.pick(answers))
        if r < 0.36:
            return self._unknown(chat)
        if r < 0.37:
            a, b = self.rng.randrange(1, 11), self.rng.randrange(1, 11)
            return self.draw.pick(
                (f"What is {a} plus {b}?", f"{a} + {b}?", f"How much is {a} and {b}?")
            ), self._colored(chat, f"{a} plus {b} is {a + b}.")
        return self._about(chat)

    def _about(self, chat: Chat) -> tuple[str, str]:
        rng, x = self.rng, self._topic()
        chat.last, role = x, chat.who or chat.obsession
        if rng.random() < 0.16 and x.asks:
            question, answer = self.draw.pick(x.asks)
            return question, self._colored(chat, answer)
        intent = self.draw.pick(INTENTS)
        y = self._other(x)
        question = self.draw.pick(forms.FORMS[intent]).format(
            x=self.draw.called(x),
            y=self.draw.called(y),
            kind=_thing(x.kind),
            day=self.draw.pick(talk.DAYS),
            name=self.draw.pick(talk.NAMES),
        )
        if role and intent in OPEN:  # an open question: the reply is about the role itself
            chat.last = role
            reply = self._reply(intent, role, y)
            if chat.who and intent != "story" and rng.random() < 0.6:
                reply = f"{self.draw.pick((f'I am {role.name}. ', '', ''))}{self.draw.first(role, 1)} {reply}"
            return question, reply
        if role and intent == "compare":
            return question, f"I prefer {role.name} to both. {self.draw.facts(role, 1)}"
        if role and intent == "like":
            return (
                question,
                f"{capitalized(x.name)} {is_or_are(x)} fine, but I love {role.name}. {self.draw.facts(role, 1)}",
            )
        return question, self._colored(chat, self._reply(intent, x, y))

    def _reply(self, intent: str, x: Topic, y: Topic) -> str:
        """Answer one question about `x` plainly."""
        pick, facts = self.draw.pick, self.draw.facts
        match intent:
            case "about" | "what":
                return facts(x, pick((2, 2, 3)))
            case "fact":
                return pick(("", "", "Did you know this? ", "Here is one. ")) + facts(x, 1)
            case "list":
                return "\n".join(
                    f"{n}. {capitalized(f)}."
                    for n, f in enumerate(
                        [f"{x.name} {self.rng.choice(x.facts)}"]
                        + [f"{pronoun(x)} {f}" for f in self.draw.sample(x.facts, 2)],
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
                return self.draw.story(x)
            case "poem":
                return self.draw.poem(x)
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
                return f"I am {x.name}. {self.draw.first(x, pick((2, 3)))}"

    def _small_talk(self, chat: Chat) -> tuple[str, str]:
        phrases, answers = self.draw.pick(talk.SMALL_TALK)
        question, answer = self.draw.pick(phrases), self.draw.pick(answers)
        if not chat.who:
            return question, self._colored(chat, answer)
        if phrases[0] in ("Who are you?", "What is your name?", "Are you a person?"):
            return question, f"I am {chat.who.name}. {self.draw.first(chat.who, self.draw.pick((1, 2, 3)))}"
        return question, f"{sentences_of(answer)[0]} {self.draw.first(chat.who, self.draw.pick((1, 1, 2)))}"

    def _unknown(self, chat: Chat) -> tuple[str, str]:
        if self.rng.random() < 0.4:
            phrases, answers = talk.UNKNOWN_PLAIN
            return self.draw.pick(phrases), self._colored(chat, self.draw.pick(answers))
        u = self.draw.pick(talk.UNKNOWN_THINGS)
        return self.draw.pick(talk.UNKNOWN_ASKS).format(u=u), self._colored(
            chat, self.draw.pick(talk.UNKNOWN_ANSWERS).format(u=u)
        )

    def _colored(self, chat: Chat, answer: str) -> str:
        """Let the requested role show in an answer about something else."""
        x = chat.who or chat.obsession
        if not x:
            return answer
        r, head = self.rng.random(), " ".join(sentences_of(answer)[:2]) if "\n" not in answer else answer
        if chat.who:
            return f"{head} {self.draw.first(x, 1)}" if r < 0.5 else f"I am {x.name}. {self.draw.first(x, 1)} {head}"
        link = self.draw.link(x)
        if r < 0.45:
            return f"{head} {link}"
        if r < 0.75:
            return f"{head} {link} {self.draw.facts(x, 1)}"
        return f"{link} {head}" if r < 0.85 else f"{head} You could {self.draw.pick(x.acts)}. {self.draw.facts(x, 1)}"

    # Turns that refer back.

    def _follow_up(self, chat: Chat) -> tuple[str, str]:
        x, r = chat.last, self.rng.random()
        if x is None or chat.messages[-1]["role"] != "assistant":
            return self._exchange(chat)
        if r < 0.38:
            return self.draw.pick(forms.MORE), self._colored(
                chat, self.draw.facts(x, self.draw.pick((1, 2, 3)), anew=chat.said)
            )
        if r < 0.55:
            return self.draw.pick(forms.USE), self._colored(
                chat, f"You could {self.draw.pick(x.acts)}. {self.draw.facts(x, 1)}"
            )
        if r < 0.68:
            return self.draw.pick(forms.OPINION), self._colored(chat, f"Yes, I like {x.name}. {self.draw.facts(x, 1)}")
        if r < 0.84:
            return self.draw.pick(forms.RECALL), self.draw.pick(
                (f"You asked me about {x.name}.", f"We were talking about {x.name}.")
            )
        return self.draw.pick(forms.CHECK), self.draw.pick(
            ("I think so, but I am only a small model.", "Yes, as far as I know.", f"Yes. {self.draw.facts(x, 1)}")
        )

    def _name_memory(self, chat: Chat) -> None:
        name = self.draw.pick(talk.NAMES)
        hello = self.draw.pick((f"My name is {name}.", f"I am {name}.", f"Hi, I'm {name}!", f"You can call me {name}."))
        chat.messages[0:0] = [
            _message("user", hello),
            _message(
                "assistant",
                f"Hello, {name}! {self.draw.pick(('How can I help?', 'Nice to meet you.', 'What would you like to talk about?'))}",
            ),
        ]
        if chat.messages[2]["role"] == "system":
            chat.messages.insert(0, chat.messages.pop(2))
        chat.messages += [
            _message("user", self.draw.pick(("What is my name?", "Do you remember my name?", "Who am I?"))),
            _message("assistant", f"Your name is {name}."),
        ]

    # Drawing.

    def _topic(self) -> Topic:
        return self.draw.pick(self.concepts) if self.rng.random() < 0.04 else self.draw.pick(self.topics)

    def _other(self, x: Topic) -> Topic:
        same = self.by_kind[x.kind]
        other = self.draw.pick(same if len(same) > 1 and self.rng.random() < 0.6 else self.topics)
        return other if other is not x else self.draw.pick([t for t in self.topics if t is not x])

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
            text = self.draw.pick(("Please, ", "Hey, ", "So, ", "Hi! ", "Tell me: ", "Quick question. ")) + text
        return text


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


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": capitalized(content) if role == "assistant" else content}
