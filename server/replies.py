"""A checked request and the reply to it, whole or as the chunks of a stream. Knows the wire's shape; no routes.

The engine makes the text; a request only becomes a `Reply` when nothing about it has to be refused any more.
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import structlog

from server import metrics, tracing
from server.callers import Caller
from server.choice import Choice, Tiller
from server.coherence import judge
from server.engines.engine import Generation, Piece, TokenLogprob
from server.errors import bad_request
from server.feedback_api import own
from server.guard import Easing, Guard
from server.protocol import ChatRequest, CompletionRequest, GenerationRequest, SteeringRequest
from server.rates import NOBODYS, Account
from server.sealing import Seal, alias
from server.store.store import Unavailable
from server.streaming import together
from server.version import VERSION
from steering.chat import EncodedChat

log = structlog.get_logger(__name__)


@dataclass
class Spoken:
    """One choice as it grows."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    finish_reason: str | None = None
    easings: list[Easing] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take one more piece."""
        self.text += piece.text
        self.ids += piece.ids
        self.logprobs += piece.logprobs
        self.tokens, self.cached, self.finish_reason = piece.tokens, piece.cached, piece.finish_reason


@dataclass(frozen=True, eq=False)
class Reply:
    """A checked request, ready to run: what every answer to it has in common."""

    tiller: Tiller
    choice: Choice
    request: GenerationRequest
    prompt: EncodedChat
    generation: Generation
    kind: str
    """`chat.completion` or `text_completion`."""
    id: str
    created: int
    account: Account = NOBODYS

    @property
    def is_chat(self) -> bool:
        """Whether messages were asked, and not raw text."""
        return self.kind == "chat.completion"

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        """The fields that begin every answer."""
        return {
            "id": self.id,
            "object": self.kind + ".chunk" * (chunk and self.is_chat),
            "created": self.created,
            "model": self.choice.model,
            "system_fingerprint": system_fingerprint(self.tiller),
        }

    def usage(self, spoken: list[Spoken]) -> dict[str, Any]:
        """Tokens in, out and together, and how many of the prompt's an earlier turn had computed."""
        prompt, completion = len(self.prompt.ids), sum(s.tokens for s in spoken)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": max(s.cached for s in spoken)},
        }

    async def give(self, spoken: Spoken) -> None:
        """Keep the conversation to learn from if its user has agreed; of a steered reply, only what was asked."""
        user, request = self.choice.caller.person(self.request.user), self.request
        if not user or not isinstance(request, ChatRequest) or spoken.finish_reason == "content_filter":
            return
        reply = [] if self.choice.resolved.spec.features else [{"role": "assistant", "content": spoken.text}]
        settings = self.tiller.settings
        try:
            if not await self.tiller.store.consent(user):
                return
            said = json.dumps([*request.chat(), *reply], ensure_ascii=False)
            await self.tiller.store.keep_text(
                user,
                Seal.of(settings).close(said, user),
                most=settings.live_texts,
                seconds=86_400 * settings.live_days,
            )
        except Unavailable:  # /health tells it; nobody knows now who has agreed, so nothing is kept
            return
        except Exception:  # the reply is said; that it could not be kept harms nobody
            log.exception("a conversation could not be kept")

    async def judged(self, spoken: Spoken) -> dict[str, Any]:
        """How well the reply holds together and where the guard eased it, as far as that was asked for."""
        found: dict[str, Any] = {"eased": [asdict(e) for e in spoken.easings]} if self.guarded else {}
        if self.choice.coherence:
            ids = [*self.prompt.ids, *spoken.ids]
            logprobs = await self.tiller.engine.logprobs_unsteered(ids, len(self.prompt.ids)) if spoken.ids else []
            found["coherence"] = judge(spoken.text, logprobs).model_dump()
            metrics.judged(found["coherence"]["verdict"])
        return found

    @property
    def steered(self) -> bool:
        """Whether anything is steered."""
        return bool(self.choice.resolved.spec.features)

    @property
    def guarded(self) -> bool:
        """Whether somebody looks after the reply; an unsteered one needs nobody."""
        return bool(self.request.steering and self.request.steering.guard and self.steered)

    def called(self, name: str) -> "Reply":
        """The same under the name of its request, by which its place in the queue can be asked for."""
        return replace(self, generation=replace(self.generation, name=name))

    def generate(self, spoken: Spoken, index: int) -> AsyncGenerator[Piece, None]:
        """The pieces of one choice; seeds count up from the one that was given."""
        sampling, begin = self.generation.sampling, self.tiller.admission.generate
        seed = None if sampling.seed is None else sampling.seed + index
        wanted = replace(self.generation, sampling=replace(sampling, seed=seed))
        source = begin
        if self.guarded:
            eased = lambda factor: self.tiller.eased(self.choice, factor).generation(self.prompt, wanted.sampling)  # noqa: E731
            source = Guard(self.tiller.engine, begin, eased, spoken.easings).generate
        watch, verdict = self.tiller.watch, self.choice.verdict
        pieces = watch.generate(wanted, verdict, begin, source) if watch and verdict else source(wanted)
        return metrics.measured(pieces, is_steered=self.steered)


async def chat_reply(tiller: Tiller, body: ChatRequest, account: Account = NOBODYS) -> Reply:
    """Check a chat. Raises ApiError and SteeringError."""
    choice = await _chosen(tiller, body, account)
    messages = body.chat()
    if choice.preset and choice.preset.system_prompt and all(m["role"] != "system" for m in messages):
        messages = [{"role": "system", "content": choice.preset.system_prompt}, *messages]
    prompt = await asyncio.to_thread(tiller.engine.encode_chat, messages)
    return await _reply(tiller, choice, body, prompt, "chat.completion", "messages", account)


async def text_reply(tiller: Tiller, body: CompletionRequest, account: Account = NOBODYS) -> Reply:
    """Check raw text that is to be continued. It has no roles, so the scope `assistant` means `generated`."""
    choice = await _chosen(tiller, body, account)
    ids = await asyncio.to_thread(tiller.engine.encode, body.prompt)
    if not ids:
        raise bad_request("the prompt is empty and this model has no token to begin with", param="prompt")
    mask = (False,) * (len(ids) - 1) + (True,)
    return await _reply(tiller, choice, body, EncodedChat(ids, mask, body.prompt), "text_completion", "prompt", account)


async def whole(reply: Reply) -> dict[str, Any]:
    """The reply when all of it is said."""
    spoken = [Spoken() for _ in range(reply.request.n)]
    async with aclosing(_pieces(reply, spoken)) as pieces:
        async for index, piece in pieces:
            spoken[index].add(piece)
    steering = reply.choice.echo() | await reply.judged(spoken[0])
    await reply.give(spoken[0])
    return reply.head() | {
        "choices": [_choice(reply, i, s) for i, s in enumerate(spoken)],
        "usage": reply.usage(spoken),
        "steering": steering,
    }


async def chunks(reply: Reply) -> AsyncGenerator[dict[str, Any], None]:
    """The reply as the chunks of a stream, `[DONE]` left out."""
    spoken = [Spoken() for _ in range(reply.request.n)]
    usage: dict[str, Any] = (
        {"usage": None} if reply.request.stream_options and reply.request.stream_options.include_usage else {}
    )
    head, begun = reply.head(chunk=True) | usage, False
    async with aclosing(_pieces(reply, spoken)) as pieces:
        async for index, piece in pieces:
            if not begun:
                for i in range(reply.request.n if reply.is_chat else 0):
                    yield (
                        head
                        | {"choices": [_delta(i, {"role": "assistant", "content": ""})]}
                        | ({"steering": reply.choice.echo()} if i == 0 else {})
                    )
            spoken[index].add(piece)
            extra = {} if begun or reply.is_chat else {"steering": reply.choice.echo()}
            begun = True
            if piece.text or piece.logprobs:
                yield head | {"choices": [_chunk_choice(reply, index, piece, spoken[index])]} | extra
                extra = {}
            if piece.finish_reason:
                judged = await reply.judged(spoken[index])
                last = (
                    _delta(index, {}, piece.finish_reason)
                    if reply.is_chat
                    else _text_choice(index, "", None, piece.finish_reason)
                )
                yield head | {"choices": [last]} | ({"steering": reply.choice.echo() | judged} if judged else extra)
    await reply.give(spoken[0])
    if usage:
        yield head | {"choices": [], "usage": reply.usage(spoken)}


def system_fingerprint(tiller: Tiller) -> str:
    """Changes whenever an equal seed may no longer give an equal reply."""
    info = tiller.bundle.info
    parts = (info.name, tiller.settings.model or info.model, info.revision, tiller.engine.name, VERSION)
    return "fp_" + hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


async def _chosen(tiller: Tiller, body: GenerationRequest, account: Account) -> Choice:
    """What is steered, checked, and counted among the caller's steerings."""
    asked = await _with_own_defaults(tiller, body, account.caller)
    with tracing.span("policy"):
        choice = await tiller.choose(body.model, asked, user=body.user, caller=account.caller)
    await account.steers(choice.resolved.fingerprint)
    return choice


async def _with_own_defaults(tiller: Tiller, body: GenerationRequest, caller: Caller) -> SteeringRequest | None:
    """The steering that is asked for, with what its user came to like where it leaves that open."""
    asked = body.steering
    if asked is None or not asked.personal:
        return asked
    person = caller.person(body.user)
    if not person:
        raise bad_request("steering.personal takes a user's own defaults; say whose with `user`", param="user")
    _, _, preset = body.model.partition("@")
    return await own(tiller, caller, person, asked.model_copy(update={"preset": asked.preset or preset or None}))


async def _reply(
    tiller: Tiller,
    choice: Choice,
    body: GenerationRequest,
    prompt: EncodedChat,
    kind: str,
    param: str,
    account: Account,
) -> Reply:
    used, room, asked = len(prompt.ids), tiller.engine.max_model_len - len(prompt.ids), body.asked_max_tokens
    if room <= 0 or (asked or 0) > room:
        wanted = f"{used} tokens" + (f" and max_tokens asks for {asked}" if asked else "")
        raise bad_request(
            f"the context holds {tiller.engine.max_model_len} tokens; the {param} take {wanted}: shorten the {param} or lower max_tokens",
            param=param if room <= 0 else "max_tokens",
            code="context_length_exceeded",
        )
    for name, ids in (("logit_bias", body.logit_bias or ()), ("stop_token_ids", body.stop_token_ids or ())):
        if outside := [i for i in ids if not 0 <= i < tiller.engine.vocab_size]:
            raise bad_request(
                f"token {outside[0]} is not in the vocabulary of {tiller.engine.vocab_size} tokens", param=name
            )
    sampling = body.sampling(choice.preset, asked or room)
    choice = await tiller.judged(choice, choice.generation(prompt, sampling))
    generation = choice.generation(prompt, sampling)
    spec = choice.resolved.spec
    metrics.asked((f.mode for f in spec.features), spec.scope, prompt=used, n_features=len(spec.features))
    prefix = "chatcmpl-" if kind == "chat.completion" else "cmpl-"
    reply_id = prefix + uuid.uuid4().hex[:24]
    return Reply(tiller, choice, body, prompt, generation, kind, reply_id, int(time.time()), account)


async def _pieces(reply: Reply, spoken: list[Spoken]) -> AsyncGenerator[tuple[int, Piece], None]:
    """All choices' pieces as they come, each with its index; however that ends, its tokens are counted."""
    n, longest = len(spoken), reply.generation.sampling.max_tokens
    async with reply.account.replying(places=n, expected=len(reply.generation.ids) + n * longest):
        try:
            async with aclosing(together([reply.generate(s, i) for i, s in enumerate(spoken)])) as pieces:
                async for index, piece in pieces:
                    if isinstance(piece, Exception):
                        raise piece
                    yield index, piece
        finally:
            await reply.account.spent(reply.usage(spoken)["total_tokens"])
            await _note(reply, spoken)


async def _note(reply: Reply, spoken: list[Spoken]) -> None:
    """What was steered and what the guards found; none of what was said."""
    choice, audit = reply.choice, reply.account.audit
    if audit and (reply.steered or choice.verdict):
        await audit.note(
            reply.tiller.store,
            choice.caller,
            "steered",
            id=reply.id,
            hash=choice.resolved.fingerprint,
            revision=choice.revision,
            preset=alias(choice.preset.id) if choice.preset else None,
            load=choice.composition.load,
            guards=choice.verdict.told() if choice.verdict else None,
            ended=[s.finish_reason for s in spoken],
            tokens=sum(s.tokens for s in spoken),
        )


def _choice(reply: Reply, index: int, spoken: Spoken) -> dict[str, Any]:
    logprobs = _logprobs(reply, spoken.logprobs)
    if not reply.is_chat:
        return _text_choice(index, spoken.text, logprobs, spoken.finish_reason)
    message = {"role": "assistant", "content": spoken.text, "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": spoken.finish_reason}


def _chunk_choice(reply: Reply, index: int, piece: Piece, said: Spoken) -> dict[str, Any]:
    before = said.logprobs[: len(said.logprobs) - len(piece.logprobs)]
    logprobs = _logprobs(reply, list(piece.logprobs), sum(len(t.token) for t in before))
    if not reply.is_chat:
        return _text_choice(index, piece.text, logprobs, None)
    return _delta(index, {"content": piece.text}) | {"logprobs": logprobs}


def _delta(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _text_choice(index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _logprobs(reply: Reply, tokens: list[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
    if reply.request.alternatives is None:
        return None
    if reply.is_chat:
        return {"content": [_token(t) | {"top_logprobs": [_token(o) for o in t.top]} for t in tokens], "refusal": None}
    starts = accumulate((len(t.token) for t in tokens), initial=offset)
    return {
        "tokens": [t.token for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": [{o.token: o.logprob for o in t.top} for t in tokens],
        "text_offset": [start for start, _ in zip(starts, tokens, strict=False)],
    }


def _token(t: TokenLogprob) -> dict[str, Any]:
    return {"token": t.token, "logprob": t.logprob, "bytes": list(t.bytes)}
