"""Engine interface: generates text from token ids and compiled edits.

The server passes token ids, which of them are steered, and validated edits; the engine yields text
as it is generated.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.edits import ResidualEdit, ResolvedIntervention
from steering.model.chat_template import EncodedChat, Message

T = TypeVar("T")
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters under vLLM's names. Temperature 0 is greedy."""

    max_tokens: int = 256
    """0 generates nothing: the prompt is only read, for its log-probabilities."""
    min_tokens: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """Number of alternatives per token; None for no logprobs, 0 for the chosen token only."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, which are scored as they are steered."""


@dataclass(frozen=True, eq=False)
class Generation:
    """One sequence to generate. `steered` marks prompt tokens; `steer_new` says whether new tokens are steered, but for
    those in `unsteered_new`.
    """

    ids: tuple[int, ...]
    steered: tuple[bool, ...]
    steer_new: bool
    edits: dict[str, ResidualEdit] = field(default_factory=dict)
    fingerprint: str = "s_0"
    interventions: dict[str, tuple[ResolvedIntervention, ...]] = field(default_factory=dict)
    """The interventions that the edits were compiled from, for an engine whose workers compile their own."""
    revision: str = ""
    """SAE revision: cached prefixes of one are never used for another."""
    tenant: str = ""
    """Tenant of the request: the queue is fair between tenants, and cached prefixes are never shared."""
    name: str = ""
    """Request id for queue-position lookups; unique per tenant only."""
    unsteered_new: frozenset[int] = frozenset()
    """Ids of new tokens that are not steered: the special ones, or none."""
    marks: str = ""
    """What distinguishes the steered places, where they do not follow from the tokens and the spec alone: an engine whose
    cached prefixes do not know which tokens were steered shares them between requests with the same.
    """
    text_from: int | None = None
    """Index in `ids` from which on the reply continues their text; None if it is a text of its own, such as a message."""
    sampling: Sampling = Sampling()
    authorization: object = None
    """The policy's `Authorization`, which is checked before the engine is called; engines do not read it."""

    def steers(self, token: int) -> bool:
        """Whether a new token is steered."""
        return self.steer_new and token not in self.unsteered_new


@dataclass(frozen=True)
class TokenLogprob:
    """One token with its log-probability under the sampling distribution, before temperature."""

    token: str
    token_id: int
    logprob: float | None
    """None for the first token of a prompt, which no other one predicts."""
    bytes: tuple[int, ...]
    top: tuple["TokenLogprob", ...] = ()


class ScoredToken(NamedTuple):
    """A token of a prompt, its log-probability, and its alternatives with theirs, the likeliest first."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TextPiece:
    """New text. The last piece of a sequence carries its finish reason."""

    text: str
    tokens: int
    """Number of tokens generated up to and including this piece."""
    ids: tuple[int, ...] = ()
    """Tokens since the previous piece."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    cached: int = 0
    """Number of prompt tokens read from the prefix cache."""
    waited: float = 0.0
    """Seconds in the queue, if the engine knows."""
    prompt: tuple[ScoredToken, ...] = ()
    """The prompt's tokens, in the first piece of a sequence that asks for their log-probabilities."""


class Engine(Protocol):
    """Serves a model. Closing the iterator of `generate` frees its slot at once."""

    name: str
    max_model_len: int
    vocab_size: int
    width: int
    """Width of the residual stream."""
    device: torch.device
    """Device on which edits are expected."""
    tokenizer: PreTrainedTokenizerFast

    @property
    def failure(self) -> str | None:
        """Why the engine has failed for good; None while it works."""
        ...

    @property
    def occupancy(self) -> tuple[int, int]:
        """Number of running and of waiting sequences."""
        ...

    def queue_position(self, tenant: str, name: str) -> int | None:
        """Number of sequences ahead of those with this name, at present; None if none of them waits."""
        ...

    def encode_chat(self, messages: list[Message], *, continue_final_message: bool = False) -> EncodedChat:
        """Render a chat up to the start of the assistant's reply, or to the end of its last message. Raises BadChat."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenize raw text, with the beginning-of-text token first."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        ...

    def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full."""
        ...

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""
        ...

    async def record(self, texts: Sequence[Sequence[int]], hook: str) -> list[Tensor]:
        """Unsteered residual stream of each text at a hook point, `[time, d_in]`."""
        ...

    async def with_model(self, work: Callable[[PreTrainedModel], T]) -> T:
        """Call a function with the unsteered model, gradients included, between two steps; running replies wait.

        Raises SteeringError where the model is not in this process.
        """
        ...

    async def add_revision(self, revision: str, folders: Mapping[str, Path]) -> None:
        """Load another revision's SAEs, by hook point, for requests to come; running ones finish on their own."""
        ...

    async def close(self) -> None:
        """Stop; running generations end."""
        ...


class Overloaded(RuntimeError):
    """The queue is full; retry after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the server is busy; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class EngineFailed(RuntimeError):
    """The engine failed on this request; a retry will not help."""
