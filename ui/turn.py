"""One exchange: the same message to the default and the steered model at once. Knows the API and histories, no components."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ui.api import Api, ApiProblem

History = list[dict[str, str]]
News = asyncio.Queue[ApiProblem | None]
REDRAW = 0.04  # seconds; tokens that come closer together are drawn together


@dataclass(frozen=True)
class Ask:
    """What a person asked, and how."""

    message: str
    steering: dict[str, Any] | None
    system: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    compare: bool = True
    """Whether the default model answers, too."""

    def after(self, history: History) -> History:
        """The messages of a request that asks this after `history`."""
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return [*system, *history, {"role": "user", "content": self.message}]


@dataclass
class Pane:
    """One side of the comparison as its reply grows."""

    history: History
    steering: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def take(self, chunk: dict[str, Any]) -> None:
        """Add one chunk of the stream."""
        self.steering |= chunk.get("steering") or {}
        for choice in chunk["choices"]:
            self.history[-1]["content"] += choice["delta"].get("content") or ""


def asked(history: History, message: str) -> History:
    """The history with a question whose reply is still empty."""
    return [*history, {"role": "user", "content": message}, {"role": "assistant", "content": ""}]


async def exchange(api: Api, ask: Ask, default: History, steered: History) -> AsyncGenerator[tuple[Pane, Pane], None]:
    """Yield both panes as they grow. Raises ApiProblem. Closing the generator ends both replies."""
    about = {"model": await api.model(), **ask.sampling}
    left, right = Pane(default, ended=True), Pane(asked(steered, ask.message))
    steering = {**(ask.steering or {}), "return": ["applied", "coherence"]}
    news: News = asyncio.Queue()
    jobs = [_follow(api, {**about, "messages": ask.after(steered), "steering": steering}, right, news)]
    if ask.compare:
        left = Pane(asked(default, ask.message))
        jobs.append(_follow(api, {**about, "messages": ask.after(default)}, left, news))
    async with aclosing(_growing(jobs, (left, right), news)) as panes:
        async for both in panes:
            yield both


async def _growing(
    jobs: Sequence[Coroutine[Any, Any, None]],
    panes: tuple[Pane, Pane],
    news: News,
) -> AsyncGenerator[tuple[Pane, Pane], None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        while not (all(p.ended for p in panes) and news.empty()):
            await _latest(news)
            yield panes
            await asyncio.sleep(REDRAW)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(api: Api, body: dict[str, Any], pane: Pane, news: News) -> None:
    try:
        async with aclosing(api.stream(body)) as chunks:
            async for chunk in chunks:
                pane.take(chunk)
                news.put_nowait(None)
    except ApiProblem as error:
        news.put_nowait(error)
    finally:
        pane.ended = True
        news.put_nowait(None)


async def _latest(news: News) -> None:
    items = [await news.get()]
    while not news.empty():
        items.append(news.get_nowait())
    for item in items:
        if item is not None:
            raise item
