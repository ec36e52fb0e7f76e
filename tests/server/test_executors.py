"""Executors: what nobody waits for is not run, and context variables go along."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

from server.executors import run_in


async def test_what_waits_for_a_thread_when_its_task_is_cancelled_is_never_run():
    busy, ran = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        first = asyncio.create_task(run_in(pool, busy.wait, 60))
        left = [asyncio.create_task(run_in(pool, ran.append, i)) for i in range(8)]
        await asyncio.sleep(0)
        for task in left[:7]:
            task.cancel()
        await asyncio.wait(left[:7])
        busy.set()
        await asyncio.gather(first, left[7])
    assert ran == [7]


async def test_context_variables_go_along():
    name = contextvars.ContextVar("name", default="none")
    name.set("request")
    with ThreadPoolExecutor(1) as pool:
        assert await run_in(pool, name.get) == "request"
