"""Phrases: messages to an assistant that are not about a topic.

Advice names a problem; small talk does not. `recipes/phrases` has them: `?` before a way to say it, `>` before a way to
answer it, and an empty line between entries.
"""

from pathlib import Path

PHRASES = Path(__file__).parent / "phrases"
Entry = tuple[tuple[str, ...], tuple[str, ...]]
"""Ways to say it, ways to answer it."""


def read_phrases(file: Path) -> list[Entry]:
    """Read the entries of a file."""
    blocks = [block.splitlines() for block in file.read_text().strip().split("\n\n")]
    return [
        (
            tuple(line.removeprefix("? ") for line in block if line.startswith("?")),
            tuple(line.removeprefix("> ") for line in block if line.startswith(">")),
        )
        for block in blocks
    ]


SMALL_TALK, ADVICE = read_phrases(PHRASES / "small_talk.txt"), read_phrases(PHRASES / "advice.txt")
(UNKNOWN_PLAIN,) = read_phrases(PHRASES / "unknown.txt")
UNKNOWN_THINGS = (
    "quantum field theory",
    "the stock market",
    "the president",
    "tax law",
    "the latest phone",
    "my neighbor Bob",
    "the football result of last night",
    "organic chemistry",
    "the population of Norway",
    "medieval Korean poetry",
    "the price of gasoline",
    "differential equations",
    "the newest movie",
    "machine learning",
    "the election",
    "Otto the Second",
    "the Treaty of Utrecht",
    "haptophytes",
    "the Whig Party",
    "Boolean algebra",
    "opera in 1820",
    "the rules of cricket",
    "crypto coins",
    "the meaning of my dream",
    "the best laptop",
    "Byzantine coins",
    "the square root of two hundred",
    "the capital of Burkina Faso",
    "the mayor of our town",
    "video cards",
    "enzymes",
    "the Higgs boson",
    "string theory",
    "a song by my cousin",
    "the gross national product",
    "Sanskrit grammar",
    "the parliament",
    "inflation",
    "the lawyer in the series",
    "molecular biology",
)
UNKNOWN_ASKS = (
    "Tell me about {u}.",
    "What is {u}?",
    "Explain {u} to me.",
    "What do you know about {u}?",
    "Do you know anything about {u}?",
    "I have a question about {u}.",
    "Can you explain {u}?",
    "{u}?",
    "Write an essay about {u}.",
    "Give me the facts on {u}.",
)
UNKNOWN_ANSWERS = (
    "I am a small model, and I do not know about {u}. I know simple things, like animals, food and places.",
    "I am sorry, I do not know anything about {u}. Please ask someone who does.",
    "That is outside of my small world. I would only be guessing about {u}.",
    "I do not know. I never learned about {u}.",
    "I am not sure about {u}, and I do not want to tell you something wrong.",
    "Honestly, I do not know much about {u}. A good book or a library can help.",
)
NAMES = (
    "Anna",
    "Tom",
    "Mia",
    "Ben",
    "Lily",
    "Sam",
    "Clara",
    "Leo",
    "Nora",
    "Max",
    "Ella",
    "Jack",
    "Ruth",
    "Omar",
    "Ivy",
    "Hugo",
    "Zoe",
    "Paul",
    "Rosa",
    "Finn",
    "Maria",
    "Noah",
    "Eva",
    "Luke",
    "Sara",
    "Adam",
    "Jane",
    "Peter",
    "Alice",
    "Daniel",
    "Emma",
    "Henry",
    "Iris",
    "Jonas",
    "Kate",
    "Martin",
    "Olga",
    "Simon",
    "Vera",
    "Walter",
)
DAYS = (
    "this weekend",
    "today",
    "tonight",
    "tomorrow",
    "on Sunday",
    "this afternoon",
    "after work",
    "on my day off",
    "on a rainy day",
    "with my kids",
    "with a friend",
    "on vacation",
    "on Saturday",
    "in the evening",
    "this summer",
)
