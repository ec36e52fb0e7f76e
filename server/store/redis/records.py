"""Backup records in Redis."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.base import Conflict
from server.store.models import Key, Record, Share, StoredVote
from server.store.redis import schema
from server.store.redis.connection import Connection, answer, put_field
from server.store.redis.feature_edits import mark_edits
from server.store.redis.shares import put_share
from server.store.redis.texts import put_text
from server.store.redis.votes import push_votes, read_vote
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector


class Records(Connection):
    """All keys, as records."""

    async def records(self) -> list[Record]:
        """A snapshot of all records."""

        async def read(pipe: Pipeline) -> list[Record]:
            return await _all_records(pipe)

        return await self._change(read, schema.LISTED, *schema.EVERYBODYS)

    async def put_records(self, records: Sequence[Record], *, replace: bool) -> None:
        """Replace the store's content by these records, in one transaction."""

        async def put(pipe: Pipeline) -> None:
            held = await _all_records(pipe)
            if not replace and any(r.kind != "setting" for r in held):
                raise Conflict("the store is not empty")
            listed = await answer(pipe.smembers(schema.LISTED))
            pipe.multi()
            of_users = {schema.texts_of(r.value["user"]) for r in held if r.kind == "text"}
            pipe.delete(*schema.EVERYBODYS, schema.COUNTER, schema.LISTED, *listed, *of_users)
            for number, record in enumerate(records, 1):
                _put_record(pipe, number, record)
            pipe.set(schema.COUNTER, len(records))

        await self._change(put, schema.LISTED, *schema.EVERYBODYS)


async def _all_records(pipe: Pipeline) -> list[Record]:
    presets, settings, consents, shares, texts, keys = [
        await answer(pipe.hgetall(key))
        for key in (schema.PRESETS, schema.SETTINGS, schema.CONSENTS, schema.SHARES, schema.TEXTS, schema.KEYS)
    ]
    found = [Record("preset", json.loads(presets[name])) for name in sorted(presets)]
    found += [Record("setting", {"key": key, "value": settings[key]}) for key in sorted(settings)]
    found += [Record("consent", {"user": user, "since": float(consents[user])}) for user in sorted(consents)]
    found += [Record("text", json.loads(texts[number])) for number in sorted(texts, key=int)]
    listed = sorted(await answer(pipe.smembers(schema.LISTED)))
    await pipe.watch(*listed) if listed else None
    for kind in ("votes", "edits", "vectors"):
        for key in (k for k in listed if schema.is_kind(k, kind)):
            whose = schema.names_of(key)
            rows = await answer(pipe.lrange(key, 0, -1) if kind == "votes" else pipe.hgetall(key))
            found += _records_of(kind, whose, rows)
    found += [Record("share", json.loads(shares[name])) for name in sorted(shares)]
    keys_in_order = sorted(map(json.loads, keys.values()), key=lambda k: (k["created"], k["id"]))
    return found + [Record("key", key) for key in keys_in_order]


def _records_of(kind: str, whose: list[str], rows: Any) -> Iterator[Record]:  # noqa: ANN401 - a list of votes, else a hash
    if kind == "edits":
        for number in sorted(rows, key=int):
            yield Record("edit", {"bundle": whose[0], "number": int(number), "edit": json.loads(rows[number])})
        return
    about = dict(zip(("user", "model"), whose, strict=True))
    if kind == "vectors":
        for name in sorted(rows):
            yield Record("vector", {**about, "vector": json.loads(rows[name])})
        return
    for said in write_rules.group_votes(map(read_vote, rows)):
        yield Record("said", {**about, "kind": said.kind, "votes": [vars(v) for v in said.votes]})


def _put_record(pipe: Pipeline, number: int, record: Record) -> None:
    v = record.value
    match record.kind:
        case "preset":
            preset = Preset.model_validate(v)
            pipe.hset(schema.PRESETS, write_rules.place_of(preset.id, preset.tenant), preset.model_dump_json())
        case "setting":
            pipe.hsetnx(schema.SETTINGS, v["key"], v["value"])
        case "consent":
            pipe.hset(schema.CONSENTS, v["user"], repr(v["since"]))
        case "text":
            put_text(pipe, str(number), v)
        case "said":
            given = [(number, v["kind"], StoredVote(**vote)) for vote in v["votes"]]
            push_votes(pipe, schema.votes_of(v["user"], v["model"]), given, 2**31)
        case "edit":
            put_field(
                pipe,
                schema.edits_of(v["bundle"]),
                str(v["number"]),
                FeatureEdit.model_validate(v["edit"]).model_dump_json(),
            )
            mark_edits(pipe, v["bundle"])
        case "vector":
            vector = Vector.model_validate(v["vector"])
            put_field(pipe, schema.vectors_of(v["user"], v["model"]), vector.name, vector.model_dump_json())
        case "share":
            put_share(pipe, vars(Share(**v)))
        case "key":
            key = Key.model_validate(v)
            pipe.hset(schema.KEYS, key.id, key.model_dump_json())
