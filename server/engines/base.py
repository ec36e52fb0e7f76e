"""The seam between the server and whatever runs the model. Knows token ids, edits and text.

An engine knows nothing of JSON, presets or stores. The server hands it token ids, which of them are
steered, and compiled edits that were checked; it gives back text as it comes.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.edits import ResidualEdit, ResolvedIntervention
from steering.model.chat_template import EncodedChat, Message

T = TypeVar("T")
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the names are vLLM's. Temperature 0 is greedy."""

    max_tokens: int = 256
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
    """How many alternatives to report per token; None reports nothing, 0 the chosen token alone."""


@dataclass(frozen=True, eq=False)
class Generation:
    """One sequence to generate. `steered` marks prompt tokens; `steer_new` says whether new ones are."""

    ids: tuple[int, ...]
    steered: tuple[bool, ...]
    steer_new: bool
    edits: dict[str, ResidualEdit] = field(default_factory=dict)
    fingerprint: str = "s_0"
    interventions: dict[str, tuple[ResolvedIntervention, ...]] = field(default_factory=dict)
    """What the edits were compiled from, for an engine whose workers compile their own."""
    revision: str = ""
    """Of the SAE: what was computed with one is never used for another."""
    tenant: str = ""
    """Who asks. People take turns, and nobody is served what was computed for somebody else."""
    name: str = ""
    """By which the one who asks may learn its place among those that wait; another's may be the same."""
    sampling: Sampling = Sampling()
    ticket: str = ""
    """Whoever decided that this may be done has signed it; engines don't look."""


@dataclass(frozen=True)
class TokenLogprob:
    """One token with its log-probability under what was sampled from, before temperature."""

    token: str
    token_id: int
    logprob: float
    bytes: tuple[int, ...]
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class TextPiece:
    """Some new text. The last piece of a sequence carries the reason why it ended."""

    text: str
    tokens: int
    """How many tokens were generated up to and including this piece."""
    ids: tuple[int, ...] = ()
    """The tokens since the piece before."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    cached: int = 0
    """How many of the prompt's tokens did not have to be computed again."""
    waited: float = 0.0
    """Seconds before the engine began with it, if it knows."""


class Engine(Protocol):
    """What serves a model. Closing the iterator of `generate` frees its slot at once."""

    name: str
    max_model_len: int
    vocab_size: int
    width: int
    """Of the residual stream."""
    device: torch.device
    """Where edits are expected."""
    tokenizer: PreTrainedTokenizerFast

    @property
    def failure(self) -> str | None:
        """Why it serves nobody any more; None while it does. It doesn't come back."""
        ...

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many sequences are running and how many wait."""
        ...

    def queue_position(self, tenant: str, name: str) -> int | None:
        """How many sequences are to begin before somebody's of this name, as it looks now; None if none of it waits."""
        ...

    def encode_chat(self, messages: list[Message]) -> EncodedChat:
        """Render a chat up to where the assistant speaks. Raises BadChat."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenize raw text, its beginning-of-text token first."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids, special tokens left out."""
        ...

    def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """Generate one sequence, piece by piece. Raises Overloaded if the queue is full."""
        ...

    async def logprobs_unsteered(self, ids: Sequence[int], start: int) -> list[float]:
        """Log-probability of each of `ids[start:]` under the unsteered model."""
        ...

    async def record(self, texts: Sequence[Sequence[int]], hook: str) -> list[Tensor]:
        """The unsteered residual stream of each text at a hook point, `[time, d_in]`."""
        ...

    async def with_model(self, work: Callable[[PreTrainedModel], T]) -> T:
        """Let a function look at the unsteered model itself, gradients and all, between two steps; others' replies wait.

        Raises SteeringError where the model is not in this process.
        """
        ...

    async def add_revision(self, revision: str, folders: Mapping[str, Path]) -> None:
        """Make another revision's SAEs, by hook point, ready for the requests to come; running ones end on theirs."""
        ...

    async def close(self) -> None:
        """Stop; running generations end."""
        ...


class Overloaded(RuntimeError):
    """The queue is full; try again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the server is busy; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class EngineFailed(RuntimeError):
    """The engine broke on this request; trying the same again will not help."""
