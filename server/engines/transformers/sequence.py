"""Sequence: one running generation, its output so far, and the part not yet sent."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from server.engines.base import FinishReason, Generation, ScoredToken, TextPiece
from server.engines.detokenizer import Detokenizer
from server.engines.token_text import TokenSpeller
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
    speller: TokenSpeller | None = None
    """Spells the log-probabilities, if they are asked for."""
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
    scored: list[ScoredToken] = field(default_factory=list)
    """Tokens of the prompt with their log-probabilities, not yet sent."""
    unsaid: str = ""
    """Text of the output tokens not yet sent."""
    cancelled: bool = False
    came: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    @property
    def is_prefilling(self) -> bool:
        """Whether part of its prompt is not computed yet."""
        return self.num_computed_tokens < len(self.request.ids)

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of its prompt are asked for: then every position needs its logits."""
        return self.request.sampling.prompt_logprobs is not None

    @property
    def salt(self) -> str:
        """What keys and values depend on besides the tokens."""
        r = self.request
        return "\0".join((r.tenant, r.revision, r.fingerprint if r.edits else ""))

    def marks(self, start: int, end: int) -> tuple[list[int], list[bool]]:
        """Ids and steered marks of its tokens from `start` to `end`; without edits nothing is steered."""
        r, n = self.request, len(self.request.ids)
        ids = [*r.ids[start:end], *self.output_ids[max(0, start - n) : max(0, end - n)]]
        steered = [*r.steered[start:end], *map(r.steers, ids[len(r.ids[start:end]) :])]
        return ids, steered if r.edits else [False] * len(ids)

    @staticmethod
    def begin(request: Generation, vocabulary: Vocabulary, device: torch.device) -> "Sequence_":
        """A sequence without output."""
        sampling = request.sampling
        before = () if request.text_from is None else request.ids[request.text_from :]
        tokenizer, include = vocabulary.tokenizer, sampling.include_stop_str_in_output
        text = Detokenizer(tokenizer, sampling.stop, include_stop=include, before=before)
        draw = Sampler.begin(sampling, request.ids, vocabulary.size, device)
        speller = None if sampling.logprobs is None else TokenSpeller(tokenizer, text.stream)
        return Sequence_(request, Listener(), text, draw, vocabulary, speller)

    @property
    def blocked(self) -> list[int]:
        """Token ids that may not come next."""
        sampling = self.request.sampling
        young = len(self.output_ids) < sampling.min_tokens
        if not (young or sampling.ignore_eos):
            return []
        return [*self.vocabulary.eos, *(sampling.stop_token_ids if young else ())]

    def score(self, start: int, logits: Tensor) -> None:
        """Note the log-probabilities of the prompt's tokens that follow the positions from `start` on, given the logits
        there, `[time, vocab]`.
        """
        ids = self.request.ids[start + 1 : start + 1 + len(logits)]
        if start == 0:
            self.scored.append(ScoredToken(self.request.ids[0], None))
        if not ids:
            return
        logprobs = torch.log_softmax(logits[: len(ids)], -1)
        own = logprobs.gather(1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0].tolist()
        top = logprobs.topk(min(self.request.sampling.prompt_logprobs or 0, logprobs.shape[-1]))
        for token, logprob, indices, values in zip(ids, own, top.indices.tolist(), top.values.tolist(), strict=True):
            self.scored.append(ScoredToken(token, logprob, tuple(zip(indices, values, strict=True))))

    def end_at_prompt(self) -> TextPiece:
        """Return the only piece of a sequence that generates nothing."""
        return self._send("", "length")

    def emit(self, token: int, logits: Tensor, *, due: bool) -> TextPiece:
        """Append the sampled token and return the piece to send: all pending text if `due`, otherwise often None."""
        self.output_ids.append(token)
        self.draw.count_token(token)
        sampling, count = self.request.sampling, len(self.output_ids)
        if (token in self.vocabulary.eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            return self._stop_at(token, logits)
        if self.speller:
            self._note_logprob(self.speller, token, logits)
        text, stopped = self.text.push(token, searching=count >= sampling.min_tokens)
        if stopped:
            self.text.stream.flush()  # tokens of what was cut off keep their log-probabilities
            return self._send(text, "stop")
        if count >= sampling.max_tokens or len(self.request.ids) + count >= self.vocabulary.max_model_len:
            return self._send(text + self.text.flush(), "length")
        if (text or self.unsaid) and (due or not self.sent):
            return self._send(text)
        self.unsaid += text
        return TextPiece("", count)

    def _stop_at(self, token: int, logits: Tensor) -> TextPiece:
        """Return the last piece of a reply that a token has ended, which is no text; where the prompt is scored, it counts
        among the tokens, as in OpenAI's completions.
        """
        text = self.text.flush()
        if self.speller and self.scores_prompt:
            self._note_logprob(self.speller, token, logits)
            self.text.stream.named.append("")
        return self._send(text, "stop")

    def _send(self, text: str, reason: FinishReason | None = None) -> TextPiece:
        text, self.unsaid = self.unsaid + text, ""
        logprobs, end = self.speller.take() if self.speller else (), len(self.output_ids)
        if self.speller and not reason:
            end = self.sent + len(logprobs)  # a token whose text is not settled comes later, with its log-probability
        ids, self.sent = tuple(self.output_ids[self.sent : end]), end
        scored, self.scored = tuple(self.scored), []
        return TextPiece(text, len(self.output_ids), ids, logprobs, reason, self.cached, self.waited, scored)

    def _note_logprob(self, speller: TokenSpeller, token: int, logits: Tensor) -> None:
        logprobs, alternatives = torch.log_softmax(logits, -1), self.request.sampling.logprobs
        top = logprobs.topk(min(alternatives, len(logprobs))) if alternatives else None
        others = zip(top.indices.tolist(), top.values.tolist(), strict=True) if top else ()
        speller.add(token, float(logprobs[token]), others)
