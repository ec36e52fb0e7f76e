"""Vectors in Redis."""

from collections.abc import Mapping

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.redis.connection import Connection, answer, drop_key, put_field
from server.store.redis.schema import vectors_of
from steering.spec import Vector


class Vectors(Connection):
    """A hash for each user and model, name → vector."""

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, by name."""
        return read_vectors(await self._ask(self._redis.hgetall(vectors_of(user, model))))

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One vector of this user."""
        body = await self._ask(self._redis.hget(vectors_of(user, model), name))
        return Vector.model_validate_json(body) if body else None

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Save a vector. Raises Conflict if the name exists and `replace` is not set, or if there
        are `most` already."""
        key = vectors_of(user, model)

        async def save(pipe: Pipeline) -> None:
            write_rules.check_vector(await answer(pipe.hkeys(key)), user, vector, replace=replace, most=most)
            pipe.multi()
            put_field(pipe, key, vector.name, vector.model_dump_json())

        await self._change(save, key)

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Delete a vector; whether it existed."""
        key = vectors_of(user, model)

        async def delete(pipe: Pipeline) -> bool:
            names = await answer(pipe.hkeys(key))
            pipe.multi()
            if names == [name]:
                drop_key(pipe, key)
            else:
                pipe.hdel(key, name)
            return name in names

        return await self._change(delete, key)


def read_vectors(rows: Mapping[str, str]) -> list[Vector]:
    """Vectors of a hash, by name."""
    return [Vector.model_validate_json(rows[name]) for name in sorted(rows)]
