"""Settings in Redis."""

import asyncio
import time

from redis.exceptions import RedisError

from server.store.redis.connection import Connection
from server.store.redis.schema import CHANGED, QUIET, SETTINGS


class Settings(Connection):
    """A hash, name → value, and a channel for changes."""

    async def setting(self, key: str) -> str | None:
        """A setting."""
        return await self._ask(self._redis.hget(SETTINGS, key))

    async def first_setting(self, key: str, value: str) -> str:
        """Set a setting unless it exists; returns the stored value."""
        await self._ask(self._redis.hsetnx(SETTINGS, key, value))
        return await self._ask(self._redis.hget(SETTINGS, key))

    async def set_setting(self, key: str, value: str) -> None:
        """Set a setting."""
        await self._ask(self._redis.hset(SETTINGS, key, value))
        if not key.startswith(QUIET):
            await self._ask(self._redis.publish(CHANGED, key))

    async def changed(self, seconds: float) -> None:
        """Wait for a change of a setting or an edit, up to a timeout; while Redis is unavailable, for the timeout."""
        end = time.monotonic() + seconds
        try:
            if self._ear is None:
                ear = self._redis.pubsub(ignore_subscribe_messages=True)
                await ear.subscribe(CHANGED)
                self._ear = ear
                return  # changes before the subscription were missed
            while (left := end - time.monotonic()) > 0:
                if await self._ear.get_message(timeout=left):
                    return
        except (RedisError, OSError, RuntimeError):
            self._ear = None
            await asyncio.sleep(max(0.0, end - time.monotonic()))
