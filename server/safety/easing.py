"""Easing: lowers the strengths of a reply that degenerates while it is generated.

Every few tokens the reply so far is checked for repetition, for tokens that are unlikely under the
unsteered model, and for high entropy. If a check fails, generation continues from the present text
with half the strengths: for the engine a new request with a longer prompt, so the prefix cache
stays a function of tokens and spec, and both engines behave alike. Checks are at fixed token counts
and do not depend on how pieces arrive: a seed gives the same reply under any load. The reply
reports where it was eased and why.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from server.engines.base import Engine, Generation, TextPiece
from server.schemas.completions import Easing
from steering.evaluate.coherence import judge

FIRST, EVERY = 24, 16
"""Tokens before the first check, and between two checks."""
WINDOW = 64
"""Number of last tokens that a check reads."""
EASE, MOST = 0.5, 3
"""Factor on the strengths, and maximum number of easings."""
NOISE = 4.5
"""Limit on the steered model's own entropy, as sampled, in nats per token: above it, the model is guessing."""
PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Decoded form of an incomplete character; the engine holds it back until it is complete."""

Eased = Callable[[float], Generation]
"""The same request with its strengths multiplied."""


@dataclass
class Easer:
    """Eases one reply; `easings` lists what it did."""

    engine: Engine
    begin: Callable[[Generation], AsyncGenerator[TextPiece, None]]
    """Starts a generation: the engine's method, or a wrapper of it."""
    eased: Eased
    easings: list[Easing] = field(default_factory=list)

    async def generate(self, request: Generation) -> AsyncGenerator[TextPiece, None]:
        """The reply's pieces as the engine's, eased where a check fails."""
        with_logprobs = request.sampling.logprobs is not None
        output_ids: list[int] = []
        mine: list[float] = []
        running, look, why, ended = request, FIRST, "", False
        while not ended:
            wanted = running if with_logprobs else replace(running, sampling=replace(running.sampling, logprobs=0))
            async with aclosing(self._checks_due(wanted, output_ids, look)) as pieces:
                async for piece, whole in pieces:
                    output_ids += piece.ids
                    mine += [t.logprob for t in piece.logprobs if t.logprob is not None]
                    yield replace(piece, tokens=len(output_ids), logprobs=piece.logprobs if with_logprobs else ())
                    ended = piece.finish_reason is not None
                    why = (
                        await self._degeneration_reason(request, output_ids, mine)
                        if whole and self._may_ease(output_ids, ended)
                        else ""
                    )
                    if why:
                        break
            if why:
                factor, look = EASE ** (len(self.easings) + 1), len(output_ids) + FIRST
                self.easings.append(Easing(at=len(output_ids), factor=factor, why=why))
                running = self._continue_with(request, factor, output_ids)

    async def _checks_due(
        self, request: Generation, output_ids: Sequence[int], look: int
    ) -> AsyncGenerator[tuple[TextPiece, bool], None]:
        """The engine's pieces, split where a check is due; with each, whether it ends there."""
        at, begun = len(output_ids), len(output_ids)
        async with aclosing(self.begin(request)) as stream:
            async for piece in stream:
                rest: TextPiece | None = piece
                while rest is not None:
                    before = [*output_ids]  # tokens consumed so far
                    now, rest, whole = self._cut(before, rest, look - at)
                    if at == begun and begun:
                        now = replace(now, text=self._gap(before, now) + now.text)
                    at += len(now.ids)
                    while look <= at:
                        look += EVERY
                    yield now, whole

    def _cut(self, output_ids: Sequence[int], piece: TextPiece, n: int) -> tuple[TextPiece, TextPiece | None, bool]:
        """The piece up to its n-th token, the rest, and whether all text is out at that point.

        It is not where the split would be inside a character, or where the engine holds back a
        possible stop string.
        """
        if not 0 < n <= len(piece.ids):
            return piece, None, False
        text = self._text(output_ids, piece.ids[:n])
        if n == len(piece.ids):
            return piece, None, text == piece.text
        if text is None or not piece.text.startswith(text):
            return piece, None, False
        first = replace(piece, text=text, ids=piece.ids[:n], logprobs=piece.logprobs[:n], finish_reason=None)
        left = replace(piece, text=piece.text[len(text) :], ids=piece.ids[n:], logprobs=piece.logprobs[n:], prompt=())
        return first, left, True

    def _text(self, output_ids: Sequence[int], ids: Sequence[int]) -> str | None:
        """Text that these tokens add; None inside a character."""
        before, after = (
            self.engine.decode(output_ids).rstrip(PARTIAL_CHARACTER),
            self.engine.decode([*output_ids, *ids]),
        )
        return None if after.endswith(PARTIAL_CHARACTER) else after[len(before) :]

    def _gap(self, output_ids: Sequence[int], piece: TextPiece) -> str:
        """Leading space of the piece when decoded after the previous text; some tokenizers drop it at the start."""
        return " " if self._text(output_ids, piece.ids) == f" {piece.text}" else ""

    def _may_ease(self, output_ids: Sequence[int], ended: bool) -> bool:
        return not ended and len(self.easings) < MOST and len(output_ids) >= FIRST

    def _continue_with(self, request: Generation, factor: float, output_ids: Sequence[int]) -> Generation:
        eased, sampling = self.eased(factor), request.sampling
        seed = None if sampling.seed is None else sampling.seed + len(output_ids)
        left, least = sampling.max_tokens - len(output_ids), max(0, sampling.min_tokens - len(output_ids))
        return replace(
            eased,
            ids=(*request.ids, *output_ids),
            steered=(*request.steered, *(request.steers(i) for i in output_ids)),
            tenant=request.tenant,
            sampling=replace(sampling, max_tokens=left, min_tokens=least, seed=seed, prompt_logprobs=None),
        )

    async def _degeneration_reason(self, request: Generation, output_ids: Sequence[int], mine: Sequence[float]) -> str:
        """Reason to ease the reply; empty if every check passes."""
        start = len(request.ids) + max(0, len(output_ids) - WINDOW)
        likely = await self.engine.logprobs_unsteered([*request.ids, *output_ids], start)
        found = judge(self.engine.decode(output_ids[-WINDOW:]), likely)
        if found.verdict != "ok":
            return f"repetition {found.repetition:.2f}, {found.mean_logprob_unsteered:.1f} nats a token unsteered"
        guessing = -sum(mine[-WINDOW:]) / max(1, len(mine[-WINDOW:]))
        return f"{guessing:.1f} nats a token: it is guessing" if guessing > NOISE else ""
