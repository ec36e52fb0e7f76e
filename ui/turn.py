"""One exchange: the same message to the default and the steered model at once. Knows the API and histories, no components."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ui.api import Api, ApiProblem

History = list[dict[str, str]]


@dataclass(frozen=True)
class Ask:
    """What a person asked, and how."""

    message: str
    steering: dict[str, Any] | None
    system: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    compare: bool = True
    """Whether the default model answers, too."""


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


async def exchange(api: Api, ask: Ask, default: History, steered: History) -> AsyncIterator[tuple[Pane, Pane]]:
    """Yield both panes as they grow. Raises ApiProblem. Closing the iterator ends both generations."""
    model = await api.model()
    panes = [Pane(_asked(default, ask.message) if ask.compare else default, ended=not ask.compare), Pane(_asked(steered, ask.message))]
    news: asyncio.Queue[ApiProblem | None] = asyncio.Queue()

    async def follow(pane: Pane, steering: dict[str, Any] | None) -> None:
        body = {"model": model, "messages": _messages(ask.system, pane.history[:-1]), **ask.sampling}
        body["steering"] = (steering or {}) | {"return": ["applied", "coherence"]}
        try:
            async with aclosing(api.stream(body)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    pane.take(chunk)
                    news.put_nowait(None)
        except ApiProblem as error:
            news.put_nowait(error)
        pane.ended = True
        news.put_nowait(None)

    wanted = ([(panes[0], None)] if ask.compare else []) + [(panes[1], ask.steering)]
    tasks = [asyncio.create_task(follow(*w)) for w in wanted]
    try:
        while not (all(p.ended for p in panes) and news.empty()):
            await _latest(news)
            yield panes[0], panes[1]
            await asyncio.sleep(0.03)  # tokens that come closer together are drawn together
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _latest(news: "asyncio.Queue[ApiProblem | None]") -> None:
    items = [await news.get()]
    while not news.empty():
        items.append(news.get_nowait())
    for item in items:
        if item is not None:
            raise item


def _asked(history: History, message: str) -> History:
    return [*history, {"role": "user", "content": message}, {"role": "assistant", "content": ""}]


def _messages(system: str, history: History) -> History:
    return [*([{"role": "system", "content": system}] if system.strip() else []), *history]
