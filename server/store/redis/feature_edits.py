"""Edits of features in Redis."""

import uuid
from collections.abc import Mapping
from typing import Any

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.base import edits_setting
from server.store.redis.connection import Connection, answer, put_field
from server.store.redis.schema import CHANGED, SETTINGS, edits_of
from steering.catalogue.feature_edits import FeatureEdit


class FeatureEdits(Connection):
    """A hash for each bundle, number → edit."""

    async def feature_edits(self, bundle: str) -> dict[int, FeatureEdit]:
        """Edits of a bundle's features, by number."""
        return read_edits(await self._ask(self._redis.hgetall(edits_of(bundle))))

    async def edit_feature(
        self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None
    ) -> FeatureEdit:
        """Edit a feature; an empty edit is deleted."""
        key = edits_of(bundle)

        async def change(pipe: Pipeline) -> FeatureEdit:
            body = await answer(pipe.hget(key, str(number)))
            edit = write_rules.edited(FeatureEdit.model_validate_json(body) if body else None, changes, by=by)
            pipe.multi()
            if edit.empty:
                pipe.hdel(key, str(number))
            else:
                put_field(pipe, key, str(number), edit.model_dump_json())
            mark_edits(pipe, bundle)
            return edit

        return await self._change(change, key)


def mark_edits(pipe: Pipeline, bundle: str) -> None:
    """Change `edits_setting(bundle)`, and announce it."""
    pipe.hset(SETTINGS, edits_setting(bundle), uuid.uuid4().hex)
    pipe.publish(CHANGED, edits_setting(bundle))


def read_edits(rows: Mapping[str, str]) -> dict[int, FeatureEdit]:
    """Edits of a hash, by number."""
    return {int(number): FeatureEdit.model_validate_json(body) for number, body in rows.items()}
