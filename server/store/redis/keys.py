"""API keys in Redis."""

from server.store.models import Key
from server.store.redis.connection import Connection
from server.store.redis.schema import KEYS


class Keys(Connection):
    """A hash, id → key."""

    async def keys(self) -> list[Key]:
        """All keys, oldest first."""
        bodies = await self._ask(self._redis.hvals(KEYS))
        return sorted(map(Key.model_validate_json, bodies), key=lambda k: (k.created, k.id))

    async def add_key(self, key: Key) -> None:
        """Add a key."""
        await self._ask(self._redis.hset(KEYS, key.id, key.model_dump_json()))

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key; whether it existed."""
        return await self._ask(self._redis.hdel(KEYS, key_id)) > 0
