"""Executors: thread pools by kind of work, so that slow work of one kind cannot delay another kind.

`asyncio.to_thread` has one pool for everything, with a few threads more than the machine has cores. What still waits for a
thread when its task is cancelled, as when a client disconnects, is never run.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
CHAT = ThreadPoolExecutor(4, "chat")
"""Renders and tokenizes prompts of chats and completions."""
IMPORTS = ThreadPoolExecutor(1, "imports")
"""Parses imported documents, one at a time: each takes many times its size in memory."""
PARSING = ThreadPoolExecutor(2, "parsing")
"""Parses and validates large request bodies."""
READING = ThreadPoolExecutor(2, "reading")
"""Tokenizes and analyzes texts, and makes the answers of it."""
SEARCH = ThreadPoolExecutor(2, "search")
"""Searches features."""


async def run_in(executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in an executor, with the caller's context variables."""
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor, call)
