"""Merge several async generators into one iterator, in the order in which items arrive."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Emit = Callable[[T], None]


class MergedStreams(Generic[T]):
    """Runs one task per source and yields `(index, item)`; an exception ends its source and is its last item.

    Used as `async with MergedStreams(tasks) as merged: async for index, item in merged`. Leaving
    the context cancels every task and waits for it, so no source outlives its consumer.
    """

    def __init__(self, sources: Sequence[Callable[[Emit[T]], Coroutine[Any, Any, None]]]) -> None:
        self._sources = sources
        self._arrived: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue()
        self._running = len(sources)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "MergedStreams[T]":
        self._tasks = [asyncio.create_task(self._run(i, source)) for i, source in enumerate(self._sources)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> "MergedStreams[T]":
        return self

    async def __anext__(self) -> tuple[int, T | Exception]:
        while self._running:
            index, item = await self._arrived.get()
            if item is not None:
                return index, item
            self._running -= 1
        raise StopAsyncIteration

    async def _run(self, index: int, source: Callable[[Emit[T]], Coroutine[Any, Any, None]]) -> None:
        try:
            await source(lambda item: self._arrived.put_nowait((index, item)))
        except Exception as error:
            self._arrived.put_nowait((index, error))
        self._arrived.put_nowait((index, None))


def drained(stream: AsyncGenerator[T, None]) -> Callable[[Emit[T]], Coroutine[Any, Any, None]]:
    """A source that yields all items of a generator, and closes it."""

    async def run(emit: Emit[T]) -> None:
        try:
            async for item in stream:
                emit(item)
        finally:
            await stream.aclose()

    return run
