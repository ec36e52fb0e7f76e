"""All data of one user in Redis: export, import and erasure."""

import json
from collections.abc import Mapping

import structlog
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from server.store import write_rules
from server.store.models import Restored, UserData
from server.store.redis.connection import Connection, answer, drop_key, put_field
from server.store.redis.feature_edits import mark_edits, read_edits
from server.store.redis.schema import (
    CONSENTS,
    LISTED,
    PRESETS,
    SHARES,
    SHARES_EXPIRE,
    TEXTS,
    TEXTS_EXPIRE,
    edits_of,
    is_kind,
    names_of,
    texts_of,
    vectors_of,
    votes_of,
)
from server.store.redis.vectors import read_vectors
from server.store.redis.votes import push_votes, read_vote
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset

log = structlog.get_logger(__name__)


class Users(Connection):
    """What spans several keys, each in one transaction."""

    async def user_data(self, user: str, model: str) -> UserData:
        """All presets of a model, and a user's data, as one snapshot."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hvals(PRESETS)
            pipe.hgetall(edits_of(model))
            pipe.hgetall(vectors_of(user, model))
            pipe.lrange(votes_of(user, model), 0, -1)
            bodies, edits, vectors, votes = await self._ask(pipe.execute())
        presets = sorted(map(Preset.model_validate_json, bodies), key=lambda p: p.id)
        return UserData(
            presets=tuple(p for p in presets if p.model == model),
            edits=write_rules.edits_by(read_edits(edits), user),
            vectors=tuple(read_vectors(vectors)),
            said=tuple(write_rules.group_votes(map(read_vote, votes))),
        )

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write imported data in one transaction. Raises AlreadyExists and Conflict, and then writes nothing."""
        keys = PRESETS, edits_of(model), vectors_of(user, model), votes_of(user, model)

        async def write(pipe: Pipeline) -> dict[str, Restored]:
            held = [await answer(pipe.hgetall(key)) for key in keys[:3]]
            stored_votes = [read_vote(row) for row in await answer(pipe.lrange(keys[3], 0, -1))]
            put: list[dict[str, str]] = [{}, {}, {}]
            done: dict[str, Restored] = {}
            for p in kept.presets:
                place = write_rules.place_of(p.id, p.tenant)
                before = held[0].get(place)
                now, done[f"preset:{p.id}"] = write_rules.restored_preset(
                    Preset.model_validate_json(before) if before else None, p
                )
                put[0][place] = now.model_dump_json()
            for number, edit in kept.edits.items():
                put[1][str(number)] = body = edit.model_dump_json()
                done[f"feature:{number}"] = write_rules.restored(held[1].get(str(number)), body)
            for v in kept.vectors:
                put[2][v.name] = body = v.model_dump_json()
                done[f"vector:{v.name}"] = write_rules.restored(held[2].get(v.name), body)
            write_rules.check_restored(done, replace=replace)
            write_rules.check_vectors(len({*held[2], *put[2]}), user, most=vectors)
            new = write_rules.missing_votes(kept.said, write_rules.group_votes(stored_votes))
            if kept.said:
                done["votes"] = "created" if new else "unchanged"
            pipe.multi()
            for key, bodies in zip(keys, put, strict=False):
                for name, body in bodies.items():
                    put_field(pipe, key, name, body)
            if kept.edits:
                mark_edits(pipe, model)
            first = stored_votes[-1][0] + 1 if stored_votes else 1
            push_votes(pipe, keys[3], [(n, s.kind, v) for n, s in enumerate(new, first) for v in s.votes], votes)
            return done

        return await self._change(write, *keys)

    async def erase(self, person: str, tenant: str, owner: str | None) -> dict[str, int]:
        """Delete all data of a user in one transaction, and rewrite Redis' append-only file without it."""
        keys = LISTED, PRESETS, SHARES, TEXTS, CONSENTS

        async def erase(pipe: Pipeline) -> dict[str, int]:
            presets, shares, texts, consents = [await answer(pipe.hgetall(k)) for k in keys[1:]]
            listed = sorted(await answer(pipe.smembers(LISTED)))
            await pipe.watch(*listed) if listed else None
            theirs = [k for k in listed if not is_kind(k, "edits") and write_rules.is_of(names_of(k)[0], person)]
            votes = sum([await answer(pipe.llen(k)) for k in theirs if is_kind(k, "votes")])
            vectors = sum([await answer(pipe.hlen(k)) for k in theirs if is_kind(k, "vectors")])
            edits = {k: read_edits(await answer(pipe.hgetall(k))) for k in listed if is_kind(k, "edits")}
            users = {number: json.loads(body)["user"] for number, body in texts.items()}
            given = {number: user for number, user in users.items() if write_rules.is_of(user, person)}
            gone = {
                PRESETS: _owned(presets, tenant, owner),
                SHARES: _owned(shares, tenant, owner),
                CONSENTS: [user for user in consents if write_rules.is_of(user, person)],
                TEXTS: [*given],
            }
            pipe.multi()
            for key in theirs:
                drop_key(pipe, key)
            for key, names in gone.items():
                if names:
                    pipe.hdel(key, *names)
            for key, names in ((SHARES_EXPIRE, gone[SHARES]), (TEXTS_EXPIRE, gone[TEXTS])):
                if names:
                    pipe.zrem(key, *names)
            for user in {*given.values()}:
                pipe.delete(texts_of(user))
            for key, rows in edits.items():
                _unsign_edits(pipe, key, rows, person)
            named = {"consents": CONSENTS, "texts": TEXTS, "presets": PRESETS, "shares": SHARES}
            return {kind: len(gone[key]) for kind, key in named.items()} | {"votes": votes, "vectors": vectors}

        gone = await self._change(erase, *keys)
        try:
            await self._redis.bgrewriteaof()
        except RedisError as error:
            log.warning("Redis' append-only file holds erased data until it is rewritten", why=str(error))
        return gone


def _owned(rows: Mapping[str, str], tenant: str, owner: str | None) -> list[str]:
    return [name for name, body in rows.items() if owner is not None and write_rules.is_owned(body, tenant, owner)]


def _unsign_edits(pipe: Pipeline, key: str, edits: Mapping[int, FeatureEdit], person: str) -> None:
    """Take a person's name from the edits of a bundle."""
    for number, edit in edits.items():
        if edit.by and write_rules.is_of(edit.by, person):
            pipe.hset(key, str(number), edit.model_copy(update={"by": None}).model_dump_json())
