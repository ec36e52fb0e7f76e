"""Merge several async generators into one, in the order in which items arrive."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merge_streams(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T | Exception], None]:
    """What all streams give, as it comes, with the number of its stream; the exception that ended one is the last of it.

    Closing this closes all of them.
    """
    outbox: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_drain(i, stream, outbox)) for i, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            index, item = await outbox.get()
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(
    index: int, stream: AsyncGenerator[T, None], outbox: "asyncio.Queue[tuple[int, T | Exception | None]]"
) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                outbox.put_nowait((index, item))
    except Exception as error:
        outbox.put_nowait((index, error))
    outbox.put_nowait((index, None))
