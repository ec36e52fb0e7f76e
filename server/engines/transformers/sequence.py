"""Sequence: one running generation, its output so far, and the part not yet sent."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from server.engines.base import FinishReason, Generation, TextPiece, TokenLogprob
from server.engines.detokenizer import Detokenizer
from server.engines.token_text import token_text
from server.engines.transformers.mailbox import Listener
from server.engines.transformers.sampler import Sampler


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token strings and end-of-sequence ids of a model."""

    tokenizer: PreTrainedTokenizerFast
    size: int
    eos: frozenset[int]
    max_model_len: int


@dataclass(eq=False)
class Sequence_:
    """A running generation: owned by the engine's thread, except for `cancelled` and the listener."""

    request: Generation
    listener: Listener[TextPiece | Exception]
    text: Detokenizer
    draw: Sampler
    vocabulary: Vocabulary
    slot: int = -1
    """Its row in the steering tables, fixed while it runs."""
    row: int = -1
    """Its row in the cache, which changes when others are evicted."""
    num_computed_tokens: int = 0
    """Number of tokens whose keys and values are in the cache."""
    cached: int = 0
    """Number of them read from the prefix cache."""
    output_ids: list[int] = field(default_factory=list)
    sent: int = 0
    """Number of output tokens already sent."""
    unsaid: str = ""
    """Text of the output tokens not yet sent."""
    unsent: list[TokenLogprob] = field(default_factory=list)
    cancelled: bool = False
    came: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    @property
    def is_prefilling(self) -> bool:
        """Whether part of its prompt is not computed yet."""
        return self.num_computed_tokens < len(self.request.ids)

    @property
    def salt(self) -> str:
        """What keys and values depend on besides the tokens."""
        r = self.request
        return "\0".join((r.tenant, r.revision, r.fingerprint if r.edits else ""))

    def marks(self, start: int, end: int) -> tuple[list[int], list[bool]]:
        """Ids and steered marks of its tokens from `start` to `end`; without edits nothing is steered."""
        r, n = self.request, len(self.request.ids)
        ids = [*r.ids[start:end], *self.output_ids[max(0, start - n) : max(0, end - n)]]
        steered = [*r.steered[start:end], *[r.steer_new] * (max(0, end - n) - max(0, start - n))]
        return ids, steered if r.edits else [False] * len(ids)

    @staticmethod
    def begin(request: Generation, vocabulary: Vocabulary, device: torch.device) -> "Sequence_":
        """A sequence without output."""
        sampling = request.sampling
        text = Detokenizer(vocabulary.tokenizer, sampling.stop, include_stop=sampling.include_stop_str_in_output)
        draw = Sampler.begin(sampling, request.ids, vocabulary.size, device)
        return Sequence_(request, Listener(), text, draw, vocabulary)

    @property
    def blocked(self) -> list[int]:
        """Token ids that may not come next."""
        sampling = self.request.sampling
        young = len(self.output_ids) < sampling.min_tokens
        if not (young or sampling.ignore_eos):
            return []
        return [*self.vocabulary.eos, *(sampling.stop_token_ids if young else ())]

    def emit(self, token: int, logits: Tensor, *, due: bool) -> TextPiece:
        """Append the sampled token and return the piece to send: all pending text if `due`, otherwise often None."""
        self.output_ids.append(token)
        self.draw.count_token(token)
        sampling, count = self.request.sampling, len(self.output_ids)
        if (token in self.vocabulary.eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            return self._send(self.text.flush(), "stop")
        if sampling.logprobs is not None:
            self.unsent.append(self._logprob(token, logits, sampling.logprobs))
        text, stopped = self.text.push(token)
        if stopped:
            return self._send(text, "stop")
        if count >= sampling.max_tokens or len(self.request.ids) + count >= self.vocabulary.max_model_len:
            return self._send(text + self.text.flush(), "length")
        if (text or self.unsaid) and (due or not self.sent):
            return self._send(text)
        self.unsaid += text
        return TextPiece("", count)

    def _send(self, text: str, reason: FinishReason | None = None) -> TextPiece:
        text, self.unsaid = self.unsaid + text, ""
        ids, logprobs = tuple(self.output_ids[self.sent :]), tuple(self.unsent)
        self.sent, self.unsent = len(self.output_ids), []
        return TextPiece(text, len(self.output_ids), ids, logprobs, reason, self.cached, self.waited)

    def _logprob(self, token: int, logits: Tensor, alternatives: int) -> TokenLogprob:
        tokenizer, logprobs = self.vocabulary.tokenizer, torch.log_softmax(logits, -1)
        top = logprobs.topk(alternatives) if alternatives else None
        others = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        return token_text(
            tokenizer, token, float(logprobs[token]), tuple(token_text(tokenizer, i, v) for i, v in others)
        )
