"""Guards: refusal latch, probe on the prompt, probe on the reply.

Before generation: if the unsteered model would refuse, the turn is not steered; if the probe flags
the prompt, nothing is generated. During generation: the last `window` tokens are held back, and
every `every` tokens the probe reads the reply so far. At a hit the reply ends `window` tokens
before it, with the finish reason `content_filter`.

Both read the *unsteered* stream of the tokens, so steering cannot influence the guards, and the
results depend on the tokens only, not on how pieces arrive. A reading runs prompt and reply again
up to the probe's layer. Text that cannot be checked is not sent.

(`easing.py` is separate: it eases replies that degenerate.)
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from server.engines.base import Engine, EngineFailed, Generation, Overloaded, TextPiece
from server.schemas import completions
from server.settings import Settings
from steering.safety.probe import WITNESS, Probe, check_hook_below
from steering.safety.refusal import RefusalDetector

WINDOW, EVERY = 16, 8
"""Tokens held back, and tokens between two readings."""

Outcome = Literal["as asked", "unsteered", "refused"]
Source = Callable[[Generation], AsyncGenerator[TextPiece, None]]
"""Source of a request's pieces: the engine, or a wrapper of it."""


class CannotRead(EngineFailed):
    """A guard failed on a prompt or a reply, so the rest was not sent."""


@dataclass(frozen=True)
class Verdict:
    """The guards' decision and scores; None for a guard that did not run."""

    outcome: Outcome = "as asked"
    refusal: float | None = None
    """Probability that the unsteered model refuses."""
    prompt: float | None = None
    """The probe's score of the prompt."""

    def report(self, *, scores: bool = True) -> completions.Guards:
        """The verdict as replies report it; `scores` are for operators only: they would help others
        to evade the guards."""
        refusal, prompt = (
            round(score, 4) if scores and score is not None else None for score in (self.refusal, self.prompt)
        )
        return completions.Guards(outcome=self.outcome, refusal=refusal, prompt=prompt)

    def applied_to(self, request: Generation) -> Generation:
        """The request as it may be generated."""
        if self.outcome == "as asked":
            return request
        return replace(request, edits={}, interventions={}, fingerprint="s_0")


@dataclass(frozen=True, eq=False)
class Guards:
    """The guards of a server; a missing probe or latch is skipped."""

    engine: Engine
    probe: Probe | None = None
    latch: RefusalDetector | None = None
    window: int = WINDOW
    every: int = EVERY
    on_prompt: bool = True
    """Whether the probe checks prompts."""
    on_reply: bool = True
    """Whether the probe checks replies."""

    async def check(self, hook: str) -> None:
        """Raise SteeringError if the probe belongs to another model, or lies after the steering at `hook`."""
        if self.probe:
            check_hook_below(self.probe.hook, hook)
            (stream,) = await self.engine.record([WITNESS], self.probe.hook)
            self.probe.check_model(stream)

    async def check_prompt(self, request: Generation) -> Verdict:
        """Check a request before generation. Raises CannotRead."""
        try:
            prompt, refusal = await asyncio.gather(self._prompt_verdict(request), self._refusal_verdict(request))
        except Overloaded:
            raise
        except Exception as error:
            raise CannotRead("a guard could not read the prompt, so it was not answered") from error
        if self.probe and prompt is not None and prompt > self.probe.card.threshold:
            return Verdict("refused", refusal, prompt)
        latched = self.latch and refusal is not None and self.latch.holds(refusal)
        return Verdict("unsteered" if latched else "as asked", refusal, prompt)

    async def generate(
        self, request: Generation, verdict: Verdict, plain: Source, source: Source | None = None
    ) -> AsyncGenerator[TextPiece, None]:
        """The checked reply. `source` generates it if it is steered as requested; otherwise, and
        without `source`, `plain` does."""
        if verdict.outcome == "refused":
            yield _cut(0)
            return
        make = source if source and verdict.outcome == "as asked" else plain
        async with aclosing(self.check_reply(make(verdict.applied_to(request)), request.ids)) as pieces:
            async for piece in pieces:
                yield piece

    async def check_reply(
        self, pieces: AsyncGenerator[TextPiece, None], prompt: Sequence[int]
    ) -> AsyncGenerator[TextPiece, None]:
        """The same pieces, held back until they are checked; closing this closes them. Raises CannotRead."""
        held, reads = _HeldBack(), self.probe is not None and self.on_reply
        async with aclosing(pieces):
            async for piece in pieces:
                if not reads:
                    yield piece
                    continue
                held.take(piece)
                ended = piece.finish_reason is not None
                if not (ended or len(held.output_ids) >= held.read + self.every):
                    continue
                hit = await self._hit(prompt, held.output_ids)
                held.read = len(held.output_ids)
                safe = held.read if hit is None and ended else (held.read if hit is None else hit) - self.window
                for one in held.until(safe):
                    yield one
                if hit is not None:
                    yield _cut(held.delivered, piece.cached)
                    return
        # A finished source has a finish reason; pieces of one without it were never checked to the
        # end.
        if held.pieces:
            raise CannotRead("the reply ended before it was checked")

    async def _prompt_verdict(self, request: Generation) -> float | None:
        if not (self.probe and self.on_prompt):
            return None
        (stream,) = await self.engine.record([self._begun(request.ids)], self.probe.hook)
        return self.probe.score(stream[1:])

    def _begun(self, ids: Sequence[int]) -> Sequence[int]:
        """The same text with a first token added: the stream at the first token carries no meaning,
        and is not scored."""
        first, special = self.engine.tokenizer.bos_token_id, self.engine.tokenizer.all_special_ids
        return [first, *ids] if isinstance(first, int) and ids[0] not in special else ids

    async def _refusal_verdict(self, request: Generation) -> float | None:
        """Probability that the unsteered model refuses; skipped for unsteered requests."""
        if not (self.latch and request.edits):
            return None
        n = len(request.ids)
        read = (self.engine.logprobs_unsteered([*request.ids, *ids], n) for ids in self.latch.openers)
        return self.latch.probability(await asyncio.gather(*read))

    async def _hit(self, prompt: Sequence[int], output_ids: Sequence[int]) -> int | None:
        """Index of the first flagged token of the reply, if any."""
        if not (self.probe and self.on_reply and output_ids):
            return None
        try:
            (stream,) = await self.engine.record([[*prompt, *output_ids]], self.probe.hook)
            return self.probe.first_hit(stream[len(prompt) :])
        except Exception as error:
            raise CannotRead("a guard could not read the reply, so the rest was not sent") from error


async def load_guards(settings: Settings, engine: Engine, hook: str) -> Guards | None:
    """The guards that the settings name, None without any. Raises SteeringError for a probe that
    cannot be used here."""
    probe = Probe.load(settings.probe) if settings.probe else None
    latch = (
        RefusalDetector.from_sentences(engine.tokenizer, settings.openers, tau=settings.tau)
        if settings.openers
        else None
    )
    if probe is None and latch is None:
        return None
    watch = Guards(engine, probe, latch, window=settings.hold_back, every=settings.read_every)
    await watch.check(hook)
    return watch


@dataclass
class _HeldBack:
    """Pieces held back, each with the token count at its end, and the reply so far."""

    output_ids: list[int] = field(default_factory=list)
    read: int = 0
    """Token up to which the probe has read."""
    delivered: int = 0
    """Token up to which pieces were sent."""
    pieces: deque[tuple[int, TextPiece]] = field(default_factory=deque)

    def take(self, piece: TextPiece) -> None:
        self.output_ids += piece.ids
        self.pieces.append((len(self.output_ids), piece))

    def until(self, token: int) -> list[TextPiece]:
        """Release the pieces that end at or before a token."""
        free: list[TextPiece] = []
        while self.pieces and self.pieces[0][0] <= token:
            self.delivered, piece = self.pieces.popleft()
            free.append(piece)
        return free


def _cut(tokens: int, cached: int = 0) -> TextPiece:
    return TextPiece("", tokens, finish_reason="content_filter", cached=cached)
