"""Three guards of one reply: the refusal latch, a probe on the prompt, a probe on what is said. Knows an engine; no routes.

Before: if the unsteered model would refuse, the turn is not steered; if the probe reads the prompt as forbidden, nothing is
generated. While it is spoken: the last `window` tokens are always held back, and every `every` tokens the probe reads the
reply so far. At a hit the reply ends `window` tokens before it, with the reason `content_filter`.

Both readings are of the *unsteered* stream of the tokens, so no steering can talk the guards round; and what they find
is a function of the tokens, however the pieces come. A reading computes the prompt and the reply so far again, up to the
probe's layer. What cannot be read is not let out.

(`guard.py` is another thing: it eases a reply that strains.)
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from server.engines.base import Engine, EngineFailed, Generation, Overloaded, TextPiece
from server.settings import Settings
from steering.safety.probe import WITNESS, Probe, check_hook_below
from steering.safety.refusal import RefusalDetector

WINDOW, EVERY = 16, 8
"""Tokens held back, and tokens between two readings."""

Outcome = Literal["as asked", "unsteered", "refused"]
Source = Callable[[Generation], AsyncGenerator[TextPiece, None]]
"""Whoever makes the pieces of a request: the engine, or what stands before it."""


class CannotRead(EngineFailed):
    """A guard could not read a prompt or a reply, so the rest was not let out."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a request, and what the guards read; None where one was not asked."""

    outcome: Outcome = "as asked"
    refusal: float | None = None
    """How likely the unsteered model refuses."""
    prompt: float | None = None
    """The probe's score of the prompt."""

    def to_dict(self, *, scores: bool = True) -> dict[str, str | float | None]:
        """As every reply carries it; `scores` are for those who look after the guards: with them others could climb over."""
        found = {"refusal": self.refusal, "prompt": self.prompt} if scores else {"refusal": None, "prompt": None}
        return {"outcome": self.outcome} | {k: v if v is None else round(v, 4) for k, v in found.items()}

    def applied_to(self, request: Generation) -> Generation:
        """The request as it may be generated."""
        if self.outcome == "as asked":
            return request
        return replace(request, edits={}, interventions={}, fingerprint="s_0")


@dataclass(frozen=True, eq=False)
class Guards:
    """The guards of a server; without a probe or a latch, that one is not asked."""

    engine: Engine
    probe: Probe | None = None
    latch: RefusalDetector | None = None
    window: int = WINDOW
    every: int = EVERY
    on_prompt: bool = True
    """Whether the probe reads prompts."""
    on_reply: bool = True
    """Whether it reads replies."""

    async def check(self, hook: str) -> None:
        """Raise SteeringError if the probe is another model's, or is reached by what is steered at `hook`."""
        if self.probe:
            check_hook_below(self.probe.hook, hook)
            (stream,) = await self.engine.record([WITNESS], self.probe.hook)
            self.probe.check_model(stream)

    async def check_prompt(self, request: Generation) -> Verdict:
        """Judge a request before anything is generated. Raises CannotRead."""
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
        """The reply under guard. `source` makes it where it is steered as asked; else, and without one, `plain` does."""
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
        """The same pieces, held back until they were read; closing this closes them. Raises CannotRead."""
        held, reads = _HeldBack(), self.probe is not None and self.on_reply
        async with aclosing(pieces):
            async for piece in pieces:
                if not reads:
                    yield piece
                    continue
                held.take(piece)
                ended = piece.finish_reason is not None
                if not (ended or len(held.said) >= held.read + self.every):
                    continue
                hit = await self._hit(prompt, held.said)
                held.read = len(held.said)
                safe = held.read if hit is None and ended else (held.read if hit is None else hit) - self.window
                for one in held.until(safe):
                    yield one
                if hit is not None:
                    yield _cut(held.delivered, piece.cached)
                    return
        # Whoever makes the pieces says when it is over; what is left of one that didn't was never read to its end.
        if held.pieces:
            raise CannotRead("the reply broke off before it was read")

    async def _prompt_verdict(self, request: Generation) -> float | None:
        if not (self.probe and self.on_prompt):
            return None
        (stream,) = await self.engine.record([self._begun(request.ids)], self.probe.hook)
        return self.probe.score(stream[1:])

    def _begun(self, ids: Sequence[int]) -> Sequence[int]:
        """The same with a beginning: what the stream holds at a first token isn't its meaning, so that one is not scored."""
        first, special = self.engine.tokenizer.bos_token_id, self.engine.tokenizer.all_special_ids
        return [first, *ids] if isinstance(first, int) and ids[0] not in special else ids

    async def _refusal_verdict(self, request: Generation) -> float | None:
        """How likely the unsteered model refuses; of what is not steered nobody asks."""
        if not (self.latch and request.edits):
            return None
        n = len(request.ids)
        read = (self.engine.logprobs_unsteered([*request.ids, *ids], n) for ids in self.latch.openers)
        return self.latch.probability(await asyncio.gather(*read))

    async def _hit(self, prompt: Sequence[int], said: Sequence[int]) -> int | None:
        """The first token of the reply at which it is forbidden, if it is."""
        if not (self.probe and self.on_reply and said):
            return None
        try:
            (stream,) = await self.engine.record([[*prompt, *said]], self.probe.hook)
            return self.probe.first_hit(stream[len(prompt) :])
        except Exception as error:
            raise CannotRead("a guard could not read the reply, so the rest was not let out") from error


async def load_guards(settings: Settings, engine: Engine, hook: str) -> Guards | None:
    """The guards that the settings name, None if they name none. Raises SteeringError for a probe that cannot read here."""
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
    """The pieces that wait, each with the number of tokens up to its end; and what the reply has been so far."""

    said: list[int] = field(default_factory=list)
    read: int = 0
    """Up to which token the probe has read."""
    delivered: int = 0
    """Up to which token pieces were let out."""
    pieces: deque[tuple[int, TextPiece]] = field(default_factory=deque)

    def take(self, piece: TextPiece) -> None:
        self.said += piece.ids
        self.pieces.append((len(self.said), piece))

    def until(self, token: int) -> list[TextPiece]:
        """Let the pieces out that end at a token or before."""
        free: list[TextPiece] = []
        while self.pieces and self.pieces[0][0] <= token:
            self.delivered, piece = self.pieces.popleft()
            free.append(piece)
        return free


def _cut(tokens: int, cached: int = 0) -> TextPiece:
    return TextPiece("", tokens, finish_reason="content_filter", cached=cached)
