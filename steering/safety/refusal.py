"""Refusal detection: probability that the unsteered model's reply begins with a refusal.

`P₀ = Σ_openers Π_i p(token_i | prompt, tokens before it)`: the probability that an unsteered reply begins with one of
the openers. Whole openers count, not their first tokens: many replies begin with "I". An opener that has another one as
its prefix is part of that one's event and is left out. Above `tau` the turn is not steered, and the model refuses as it
would have without steering.

An opener counts in its usual tokenization; a reply that is tokenized otherwise is not detected.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from steering.errors import SteeringError
from steering.model.chat_template import encode_chat

OPENERS = (
    "I can't",
    "I cannot",
    "I can not",
    "I'm sorry",
    "I am sorry",
    "I'm unable",
    "I am unable",
    "I won't",
    "Sorry,",
)
"""Beginnings of refusals of most English chat models."""
TAU = 0.2

Ids = tuple[int, ...]


@dataclass(frozen=True)
class RefusalDetector:
    """Openers as token ids, none a prefix of another, and the threshold `tau`."""

    openers: tuple[Ids, ...]
    tau: float = TAU

    def __post_init__(self) -> None:
        if not self.openers:
            raise SteeringError(
                'without openers no refusal is detected; give at least one sentence, such as "I can\'t"'
            )
        if not 0 < self.tau < 1:
            raise SteeringError(f"the latch's tau is a probability between 0 and 1, not {self.tau:g}")

    @staticmethod
    def from_sentences(
        tokenizer: PreTrainedTokenizerBase, sentences: Iterable[str] = OPENERS, *, tau: float = TAU
    ) -> "RefusalDetector":
        """Tokenize sentences as the beginning of a reply. Raises SteeringError for an empty one."""
        return RefusalDetector(_without_prefixes(sorted({_reply_ids(tokenizer, s) for s in sentences}, key=len)), tau)

    def probability(self, logprobs: Sequence[Sequence[float]]) -> float:
        """Return P₀ from each opener's log-probabilities, token by token, after the prompt. Raises SteeringError for
        NaN.
        """
        found = sum(math.exp(sum(each)) for each in logprobs)
        if len(logprobs) != len(self.openers) or not math.isfinite(found):
            raise SteeringError("the openers' probabilities are not numbers, so a refusal cannot be detected")
        return min(found, 1.0)

    def holds(self, probability: float) -> bool:
        """Whether a turn is to be left unsteered."""
        return probability > self.tau


def _reply_ids(tokenizer: PreTrainedTokenizerBase, sentence: str) -> Ids:
    """Return the sentence's tokens at the beginning of a reply; some templates add a space before it."""
    if not (sentence := sentence.strip()):
        raise SteeringError("an opener is empty; every reply begins with that")
    if not tokenizer.chat_template:
        return tuple(tokenizer(sentence, add_special_tokens=False)["input_ids"])
    asked = [{"role": "user", "content": "?"}]
    chat = encode_chat(tokenizer, [*asked, {"role": "assistant", "content": sentence}], generate=False)
    start = len(encode_chat(tokenizer, asked).text)
    end = chat.text.find(sentence, start) + len(sentence)
    kept = tuple(i for i, (a, b) in zip(chat.ids, chat.offsets, strict=True) if start <= a < end and b > a)
    return kept or tuple(tokenizer(sentence, add_special_tokens=False)["input_ids"])


def _without_prefixes(sequences: Sequence[Ids]) -> tuple[Ids, ...]:
    """Return the sequences that have no other one as a prefix; sorted by length."""
    kept: list[Ids] = []
    for ids in sequences:
        if not any(ids[: len(k)] == k for k in kept):
            kept.append(ids)
    return tuple(kept)
