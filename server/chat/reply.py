"""Reply to a prepared request, as one response or as the chunks of a stream.

A request has one or more prompts, each with `n` choices: choice `i` belongs to prompt `i // n`. All
share the account, the stream and one `steering`; where the guards changed the steering of a prompt,
its choices report the difference.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import structlog

from server.chat.echo import with_echo
from server.chat.merge_streams import MergedStreams
from server.chat.openai_format import ChoiceFormat, chat_delta
from server.engines.base import Generation, Overloaded, TextPiece, TokenLogprob
from server.limits.account import UNCOUNTED, Account
from server.safety.easing import Easer
from server.safety.guards import Outcome
from server.schemas.completions import ChatCompletion, Easing, TextCompletion, Warned
from server.schemas.generation import ChatRequest, GenerationRequest
from server.serving.served_model import ServedModel
from server.serving.steering_choice import SteeringChoice
from server.store.base import Unavailable
from server.store.encryption import TextEncryption, pseudonym
from server.telemetry import metrics
from server.version import VERSION
from steering.evaluate.coherence import judge
from steering.model.chat_template import EncodedChat

log = structlog.get_logger(__name__)
RETRY_SECONDS = 0.2
"""Seconds between retries on a full queue, for the choices of a reply that has begun."""


@dataclass
class ChoiceProgress:
    """One choice while it is generated."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    finish_reason: str | None = None
    easings: list[Easing] = field(default_factory=list)

    def add(self, piece: TextPiece) -> None:
        """Append one more piece."""
        self.text += piece.text
        self.ids += piece.ids
        self.logprobs += piece.logprobs
        self.tokens, self.cached, self.finish_reason = piece.tokens, piece.cached, piece.finish_reason

    def offset_of(self, piece: TextPiece) -> int:
        """Character positions of the tokens in the last piece."""
        before = len(self.logprobs) - len(piece.logprobs)
        return sum(len(t.token) for t in self.logprobs[:before])


@dataclass(frozen=True, eq=False)
class PromptPart:
    """One prompt of a request, after the guards."""

    choice: SteeringChoice
    prompt: EncodedChat
    generation: Generation
    echo: str | None = None
    """The prompt's text, if it is returned before the completion."""


@dataclass(frozen=True, eq=False)
class Reply:
    """A prepared request, ready to run: the state that all its choices share."""

    served: ServedModel
    request: GenerationRequest
    parts: tuple[PromptPart, ...]
    """One per prompt."""
    kind: str
    """`chat.completion` or `text_completion`."""
    id: str
    created: int
    account: Account = UNCOUNTED
    notes: tuple[Warned, ...] = ()
    """Warnings about the request, beside those about its steering."""

    @property
    def is_chat(self) -> bool:
        """Whether the request is a chat, and not raw text."""
        return self.kind == "chat.completion"

    @property
    def format(self) -> ChoiceFormat:
        """Format of its choices."""
        return ChoiceFormat(self.is_chat, self.request.alternatives is not None)

    @cached_property
    def primary_index(self) -> int:
        """The first prompt that runs as requested, else the first: the response's `steering` is of this one."""
        fine = (i for i, part in enumerate(self.parts) if _guard_outcome(part.choice) == "as asked")
        return next(fine, 0)

    @property
    def choice(self) -> SteeringChoice:
        """The steering choice before the guards."""
        return self.parts[self.primary_index].choice

    def part(self, index: int) -> PromptPart:
        """The prompt of a choice."""
        return self.parts[index // self.request.n]

    @property
    def choices(self) -> range:
        """Indices of all choices."""
        return range(len(self.parts) * self.request.n)

    @property
    def concurrency(self) -> int:
        """Number of choices generated at a time."""
        return max_concurrency(self.served, self.account, len(self.choices), self.request.n)

    @property
    def max_total_tokens(self) -> int:
        """Maximum number of tokens, prompts included."""
        n = self.request.n
        return sum(len(p.prompt.ids) + n * p.generation.sampling.max_tokens for p in self.parts)

    def header_fields(self, *, chunk: bool = False) -> dict[str, Any]:
        """The common first fields of responses and chunks."""
        return {
            "id": self.id,
            "object": self.kind + ".chunk" * (chunk and self.is_chat),
            "created": self.created,
            "model": self.choice.model,
            "system_fingerprint": system_fingerprint(self.served),
        }

    def usage(self, spoken: list[ChoiceProgress]) -> dict[str, Any]:
        """Token usage: prompts, completions, total, and the prompt tokens read from the cache."""
        prompt, completion = sum(len(p.prompt.ids) for p in self.parts), sum(s.tokens for s in spoken)
        n = self.request.n
        cached = (max(s.cached for s in spoken[i : i + n]) for i in range(0, len(spoken), n))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(cached)},
        }

    def steering_summary(self) -> dict[str, Any]:
        """Steering that was applied, with a warning for the prompts whose steering the guards changed."""
        told, first = _summary(self.choice), _guard_outcome(self.choice)
        if others := [str(i) for i, part in enumerate(self.parts) if _guard_outcome(part.choice) != first]:
            says = (
                f"the guards changed the steering of the prompts {', '.join(others)}; see the steering of their choices"
            )
            told["warnings"] = [*told["warnings"], Warned(code="guards", feature="", message=says).model_dump()]
        if self.notes:
            told["warnings"] = [*told["warnings"], *(note.model_dump() for note in self.notes)]
        return told

    def steering_delta(self, index: int, judged: dict[str, Any], chiefs: dict[str, Any]) -> dict[str, Any]:
        """Difference of one choice's steering from the primary prompt's, whose coherence is `chiefs`."""
        choice = self.part(index).choice
        mine, theirs = (
            (_summary(choice) | judged, _summary(self.choice) | chiefs)
            if choice is not self.choice
            else (judged, chiefs)
        )
        differs = {key: value for key, value in mine.items() if theirs.get(key) != value}
        return {"steering": differs} if differs else {}

    async def store_consented_text(self, spoken: ChoiceProgress) -> None:
        """Store the conversation for training if its user has consented; of a steered reply only the prompt."""
        user, request = self.choice.caller.subject(self.request.user), self.request
        if not user or not isinstance(request, ChatRequest) or spoken.finish_reason == "content_filter":
            return
        reply = "" if self.is_steered else spoken.text
        settings = self.served.settings
        try:
            if not await self.served.store.consent(user):
                return
            said = json.dumps(request.chat_with(reply), ensure_ascii=False)
            await self.served.store.keep_text(
                user,
                TextEncryption.from_settings(settings).encrypt(said, user),
                most=settings.live_texts,
                seconds=86_400 * settings.live_days,
            )
        except Unavailable:  # /health reports it; consent is unknown now, so nothing is kept
            return
        except Exception:  # the reply is complete; a failed write must not turn it into an error
            log.exception("a conversation could not be kept")

    async def evaluate_choice(self, index: int, spoken: ChoiceProgress) -> dict[str, Any]:
        """Coherence of a choice, and where the guard eased it, if requested."""
        part, found = self.part(index), dict[str, Any]()
        if self.uses_easing(part):
            found["eased"] = [e.model_dump() for e in spoken.easings]
        if part.choice.coherence:
            ids, n = [*part.prompt.ids, *spoken.ids], len(part.prompt.ids)
            logprobs = await self.served.engine.logprobs_unsteered(ids, n) if spoken.ids else []
            found["coherence"] = judge(spoken.text.removeprefix(part.echo or ""), logprobs).model_dump()
            metrics.count_coherence(found["coherence"]["verdict"])
        return found

    @property
    def is_steered(self) -> bool:
        """Whether any steering is applied."""
        return any(part.choice.resolved.spec.features for part in self.parts)

    def uses_easing(self, part: PromptPart) -> bool:
        """Whether an easer observes the reply; an unsteered one needs none."""
        asked = self.request.steering and self.request.steering.guard
        return bool(asked and part.choice.resolved.spec.features)

    def with_name(self, name: str) -> "Reply":
        """The same generation with the request's id, by which its queue position is looked up."""
        parts = (replace(p, generation=replace(p.generation, name=name)) for p in self.parts)
        return replace(self, parts=tuple(parts))

    def generate(self, progress: ChoiceProgress, index: int) -> AsyncGenerator[TextPiece, None]:
        """The pieces of one choice. Seeds count up within a prompt, so each prompt runs as if sent alone."""
        part, source = self.part(index), self.served.admission.generate
        given = part.generation.sampling
        seed = None if given.seed is None else given.seed + index % self.request.n
        request = replace(part.generation, sampling=replace(given, seed=seed))
        generate = source
        if self.uses_easing(part):

            def weakened(factor: float) -> Generation:
                weaker = self.served.weakened(part.choice, factor)
                return replace(
                    weaker.generation_request(part.prompt, request.sampling), text_from=part.generation.text_from
                )

            generate = Easer(self.served.engine, source, weakened, progress.easings).generate
        guards, verdict = self.served.guards, part.choice.verdict
        pieces = guards.generate(request, verdict, source, generate) if guards and verdict else generate(request)
        return pieces if part.echo is None else with_echo(pieces, part.echo, self.served.engine.tokenizer)


def max_concurrency(served: ServedModel, account: Account, choices: int, n: int) -> int:
    """Number of choices generated at a time: all of one prompt; of several, up to the engine's
    slots; both within the key's limit."""
    room = max(n, min(served.settings.live, served.settings.queue))
    return min(choices, room, account.caller.limits.concurrent or room)


async def complete(reply: Reply) -> ChatCompletion | TextCompletion:
    """The whole response, after all choices have ended."""
    progress = [ChoiceProgress() for _ in reply.choices]
    async with _running_choices(reply, progress) as pieces:
        async for index, piece in pieces:
            progress[index].add(_raise_failed(piece))
    judged = [await reply.evaluate_choice(i, p) for i, p in enumerate(progress)]
    primary = judged[reply.primary_index * reply.request.n]
    await reply.store_consented_text(progress[0])
    answer = reply.header_fields() | {
        "choices": [
            reply.format.choice(i, p.text, p.logprobs, p.finish_reason) | reply.steering_delta(i, judged[i], primary)
            for i, p in enumerate(progress)
        ],
        "usage": reply.usage(progress),
        "steering": reply.steering_summary() | primary,
    }
    return (ChatCompletion if reply.is_chat else TextCompletion).model_validate(answer)


async def stream_chunks(reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
    """The response as the chunks of a stream, without `[DONE]`.

    The first chunk carries the steering, and the first chunk of each choice its differences.
    """
    progress, silent = [ChoiceProgress() for _ in reply.choices], {*reply.choices}
    usage: dict[str, Any] = (
        {"usage": None} if reply.request.stream_options and reply.request.stream_options.include_usage else {}
    )
    head, steering = reply.header_fields(chunk=True) | usage, {"steering": reply.steering_summary()}
    async with _running_choices(reply, progress) as pieces:
        async for index, arrived in pieces:
            piece = _raise_failed(arrived)
            for i in reply.choices if steering and reply.is_chat else ():
                yield head | {"choices": [chat_delta(i, {"role": "assistant", "content": ""})]} | steering
                steering = {}
            progress[index].add(piece)
            own = reply.steering_delta(index, {}, {}) if index in silent else {}
            if piece.text or piece.logprobs:
                offset = progress[index].offset_of(piece)
                choice = reply.format.chunk(index, piece.text, piece.logprobs, offset)
                yield head | {"choices": [choice | own]} | steering
                steering, own = {}, {}
                silent.discard(index)
            if piece.finish_reason:
                if judged := await reply.evaluate_choice(index, progress[index]):
                    steering = {"steering": _summary(reply.part(index).choice) | judged}
                yield head | {"choices": [reply.format.last(index, piece.finish_reason) | own]} | steering
                steering = {}
    await reply.store_consented_text(progress[0])
    if usage:
        yield head | {"choices": [], "usage": reply.usage(progress)}


def system_fingerprint(served: ServedModel) -> str:
    """Changes whenever an equal seed may no longer give an equal reply."""
    info = served.bundle.info
    parts = (info.name, served.settings.model or info.model, info.revision, served.engine.name, VERSION)
    return "fp_" + hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


@asynccontextmanager
async def _running_choices(
    reply: Reply, progress: list[ChoiceProgress]
) -> AsyncGenerator[MergedStreams[TextPiece], None]:
    """Pieces of all choices in order of arrival, each with its index; their tokens are counted in any case."""
    slots, begun = asyncio.Semaphore(reply.concurrency), asyncio.Event()
    async with reply.account.reserve(places=reply.concurrency, expected=reply.max_total_tokens):
        try:
            sources = [partial(_run_choice, reply, slots, begun, p, i) for i, p in enumerate(progress)]
            async with MergedStreams(sources) as pieces:
                yield pieces
        finally:
            await reply.account.count_tokens(reply.usage(progress)["total_tokens"])
            await _write_audit(reply, progress)


async def _run_choice(
    reply: Reply,
    slots: asyncio.Semaphore,
    begun: asyncio.Event,
    progress: ChoiceProgress,
    index: int,
    emit: Callable[[TextPiece], None],
) -> None:
    """Generate one choice when a slot is free; once the reply has `begun`, retry on a full queue."""
    is_steered = bool(reply.part(index).choice.resolved.spec.features)
    async with slots:
        while True:
            with metrics.GenerationMeter(is_steered=is_steered) as meter:
                try:
                    async with aclosing(reply.generate(progress, index)) as pieces:
                        async for piece in pieces:
                            meter.observe(piece)
                            begun.set()
                            emit(piece)
                    return
                except Overloaded:
                    if meter.tokens or not begun.is_set():
                        raise
            await asyncio.sleep(RETRY_SECONDS)


def _raise_failed(arrived: TextPiece | Exception) -> TextPiece:
    if isinstance(arrived, Exception):
        raise arrived
    return arrived


async def _write_audit(reply: Reply, spoken: list[ChoiceProgress]) -> None:
    """Write the audit-log entry: the steering and the guards' results, per prompt if there are several; no text."""
    choice, audit = reply.choice, reply.account.audit
    if audit and (reply.is_steered or choice.verdict):
        found = [_audit_fields(part.choice) for part in reply.parts]
        await audit.write(
            reply.served.store,
            choice.caller,
            "steered",
            id=reply.id,
            **found[reply.primary_index],
            revision=choice.revision,
            preset=pseudonym(choice.preset.id) if choice.preset else None,
            load=choice.composition.load,
            ended=[s.finish_reason for s in spoken],
            tokens=sum(s.tokens for s in spoken),
            **({"prompts": found} if len(found) > 1 else {}),
        )


def _audit_fields(choice: SteeringChoice) -> dict[str, Any]:
    return {
        "hash": choice.resolved.fingerprint,
        "guards": choice.verdict.report().model_dump() if choice.verdict else None,
    }


def _summary(choice: SteeringChoice) -> dict[str, Any]:
    """Steering that was applied, as JSON."""
    return choice.applied_summary().model_dump(exclude_unset=True)


def _guard_outcome(choice: SteeringChoice) -> Outcome:
    return choice.verdict.outcome if choice.verdict else "as asked"
