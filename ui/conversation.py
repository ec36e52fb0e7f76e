"""What happens when somebody sends a message: from the browser's form to what the page is told. Knows the API, no components.

The browser is not trusted: every field is checked again here. What it keeps of a conversation is all that there is of
it; nothing is remembered between two messages.
"""

import asyncio
import codecs
import uuid
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiller import AsyncTiller, TillerError
from tiller.models import Chunk

Messages = list[dict[str, str]]
News = dict[str, Any]
Signal = asyncio.Queue[TillerError | None]
REDRAW = 0.04
"""Seconds; tokens that come closer together are told together."""
LOOK = 1.0
"""Seconds of silence after which a reply's place in the queue is asked for, and again."""
ALTERNATIVES = 4
BROKEN = "The reply broke off here: {}"


class Slider(BaseModel):
    """One row of the panel."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=256)
    strength: float = Field(ge=-1000, le=1000, allow_inf_nan=False)
    mode: Literal["add", "clamp", "scale", "ablate"] = "add"


class Sliders(BaseModel):
    """All rows, as the API's `steering`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    features: tuple[Slider, ...] = Field(default=(), max_length=32)
    unit: Literal["dose"] = "dose"
    scale: float = Field(default=1.0, allow_inf_nan=False)
    scope: Literal["assistant", "all", "generated"] = "assistant"


class Turn(BaseModel):
    """An earlier question and what either side replied; None where it was not asked."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: str
    default: str | None = None
    steered: str | None = None


class Form(BaseModel):
    """All that the browser says with a message."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=64)
    message: str = Field(min_length=1)
    history: tuple[Turn, ...] = Field(default=(), max_length=200)
    steering: Sliders | None = None
    system: str = ""
    sampling: dict[str, float | None] = {}
    """What is left empty is the server's choice."""
    compare: bool = True
    """Whether the default model answers, too."""
    user: str | None = Field(default=None, max_length=256)

    def messages(self, side: Literal["default", "steered"]) -> Messages:
        """What one side is asked, after its own history."""
        found: Messages = [{"role": "system", "content": self.system}] if self.system.strip() else []
        for turn in self.history:
            if (said := getattr(turn, side)) is not None:
                found += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": said}]
        return [*found, {"role": "user", "content": self.message}]

    def drawn(self) -> dict[str, Any]:
        """How replies are drawn, whole numbers as such."""
        given = {k: v for k, v in self.sampling.items() if v is not None}
        return {k: int(v) if v == int(v) else v for k, v in given.items()}


@dataclass
class Reply:
    """One side's reply as it grows."""

    text: str = ""
    steering: dict[str, Any] = field(default_factory=dict)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    whole: bool = False
    """Whether its last piece came."""
    before: int | None = None
    """How many are to begin before it, while it waits for room."""
    name: str = field(default_factory=lambda: f"page-{uuid.uuid4().hex}")
    """Of its request."""

    def take(self, chunk: Chunk) -> None:
        """Add one chunk of the stream."""
        self.text += chunk.text
        self.steering |= chunk.raw.get("steering") or {}
        self.whole = self.whole or chunk.finish_reason is not None
        for choice in chunk.raw["choices"]:
            self.tokens += (choice.get("logprobs") or {}).get("content") or ()

    def told(self) -> News:
        """For the page; tokens come with the end, since they weigh more than the text.

        What was done to it is told from the beginning: where the connection breaks there is no end.
        """
        if not self.ended:
            place = {} if self.text else {"before": self.before}
            return {"text": self.text, **self._steered(), **place}
        return {"text": self.text, **self._steered(), "tokens": _pieces(self.tokens), "ended": self.whole}

    def cut(self, why: TillerError) -> News:
        """For the page, when no more will come of any reply; one that was there in whole stays so."""
        self.ended = True
        return self.told() | ({} if self.whole else {"problem": BROKEN.format(why)})

    def _steered(self) -> News:
        return {"steering": self.steering} if self.steering else {}


async def talk(api: AsyncTiller, value: object) -> AsyncGenerator[News, None]:
    """Ask both sides and tell how the replies grow; the last word is `done` or `problem`. Closing it ends both replies."""
    form = None
    try:
        form = read(value)
        async with aclosing(_exchange(api, form)) as replies:
            async for news in replies:
                yield {"id": form.id, **news}
    except (TillerError, ValueError) as error:
        yield {"id": form.id if form else _id_of(value), "problem": str(error)}


def read(value: object) -> Form:
    """Check what the browser sent. Raises ValueError with a sentence."""
    try:
        return Form.model_validate(value if isinstance(value, dict) else {})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ValueError(
            f"the message cannot be read: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        ) from error


async def _exchange(api: AsyncTiller, form: Form) -> AsyncGenerator[News, None]:
    about = {"model": await api.model(), **form.drawn(), "logprobs": True, "top_logprobs": ALTERNATIVES}
    if form.user:
        about["user"] = form.user
    steering = {**(form.steering.model_dump() if form.steering else {}), "return": ["applied", "coherence"]}
    replies = {"steered": Reply()} | ({"default": Reply()} if form.compare else {})
    signal: Signal = asyncio.Queue()
    jobs = [_follow(api, {**about, "messages": form.messages("steered"), "steering": steering}, replies["steered"], signal)]  # fmt: skip
    if form.compare:
        jobs.append(_follow(api, {**about, "messages": form.messages("default")}, replies["default"], signal))
    jobs += [_queued(api, reply, signal) for reply in replies.values()]
    async with aclosing(_growing(jobs, replies, signal)) as all_news:
        async for news in all_news:
            yield news


async def _growing(
    jobs: Sequence[Coroutine[Any, Any, None]], replies: dict[str, Reply], signal: Signal
) -> AsyncGenerator[News, None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        while not (all(r.ended for r in replies.values()) and signal.empty()):
            try:
                await _latest(signal)
            except TillerError as error:
                if not any(r.text for r in replies.values()):
                    raise  # nothing was said: it is a refusal
                yield {side: reply.cut(error) for side, reply in replies.items()} | {"done": True}
                return
            done = all(r.ended for r in replies.values())
            yield {side: reply.told() for side, reply in replies.items()} | ({"done": True} if done else {})
            await asyncio.sleep(REDRAW)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(api: AsyncTiller, body: dict[str, Any], reply: Reply, signal: Signal) -> None:
    try:
        named = api.sending(**{"X-Request-Id": reply.name})
        async with aclosing(named.stream(**body)) as chunks:
            async for chunk in chunks:
                reply.take(chunk)
                signal.put_nowait(None)
        if not reply.whole:
            signal.put_nowait(TillerError("the server ended the stream before the reply was whole"))
    except TillerError as error:
        signal.put_nowait(error)
    finally:
        reply.ended = True
        signal.put_nowait(None)


async def _queued(api: AsyncTiller, reply: Reply, signal: Signal) -> None:
    """Learn how many are to begin before a reply, until it has begun itself."""
    await asyncio.sleep(LOOK)
    while not (reply.text or reply.ended):
        was, reply.before = reply.before, await _before(api, reply)
        if reply.before != was:
            signal.put_nowait(None)
            if reply.before is None:
                return
        await asyncio.sleep(LOOK)


async def _before(api: AsyncTiller, reply: Reply) -> int | None:
    try:
        return (await api.place(reply.name)).before
    except TillerError:  # it does not wait, or not where this was asked
        return None


async def _latest(signal: Signal) -> None:
    items = [await signal.get()]
    while not signal.empty():
        items.append(signal.get_nowait())
    for item in items:
        if item is not None:
            raise item


def _pieces(tokens: Sequence[dict[str, Any]]) -> list[News]:
    """Tokens with their probabilities; a character that several of them make is the last one's, so that all join to the text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found = []
    for i, token in enumerate(tokens):
        said = token.get("bytes")
        text = token["token"] if said is None else decoder.decode(bytes(said), final=i == len(tokens) - 1)
        top = [(t["token"], round(t["logprob"], 3)) for t in token.get("top_logprobs") or ()]
        found.append({"token": text, "logprob": round(token["logprob"], 3), "top": top})
    return found


def _id_of(value: object) -> str:
    return str(value.get("id", ""))[:64] if isinstance(value, dict) else ""
