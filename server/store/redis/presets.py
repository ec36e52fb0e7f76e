"""Presets in Redis."""

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.redis.connection import Connection, answer
from server.store.redis.schema import PRESETS
from steering.spec import Preset


class Presets(Connection):
    """A hash, place → preset."""

    async def presets(self) -> list[Preset]:
        """All saved presets, by name."""
        bodies = await self._ask(self._redis.hvals(PRESETS))
        return write_rules.sorted_presets(map(Preset.model_validate_json, bodies))

    async def preset(self, preset_id: str, tenant: str = "") -> Preset | None:
        """One saved preset of a tenant."""
        body = await self._ask(self._redis.hget(PRESETS, write_rules.place_of(preset_id, tenant)))
        return Preset.model_validate_json(body) if body else None

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace. Raises Conflict if `based_on` is not the stored version."""

        async def save(pipe: Pipeline) -> Preset:
            place = write_rules.place_of(preset.id, preset.tenant)
            body = await answer(pipe.hget(PRESETS, place))
            held = Preset.model_validate_json(body) if body else None
            saved = write_rules.saved_preset(held, preset, based_on=based_on)
            pipe.multi()
            pipe.hset(PRESETS, place, saved.model_dump_json())
            return saved

        return await self._change(save, PRESETS)

    async def delete_preset(self, preset_id: str, tenant: str = "", *, seen: Preset | None = None) -> bool:
        """Delete a preset, if it still has the owner of the one that was `seen`; whether it existed."""

        async def delete(pipe: Pipeline) -> bool:
            place = write_rules.place_of(preset_id, tenant)
            body = await answer(pipe.hget(PRESETS, place))
            found = bool(body) and not (seen and not write_rules.is_owned(body, seen.tenant, seen.owner))
            pipe.multi()
            if found:
                pipe.hdel(PRESETS, place)
            return found

        return await self._change(delete, PRESETS)
