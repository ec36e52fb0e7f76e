"""Redis store: state shared by several servers, each write in one transaction.

A write reads its inputs under WATCH and writes in MULTI; if another client changed them in between,
it is retried. Whether a confirmed write survives a crash of Redis depends on Redis' settings
(`appendonly`, `appendfsync`).
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError, WatchError

from server.store import write_rules
from server.store.base import BadStore, Conflict, Unavailable, edits_setting
from server.store.models import Key, LiveText, Record, Restored, Share, StoredVote, UserData
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector

T = TypeVar("T")
PREFIX = "tiller:"
VERSION = 1
PRESETS, SETTINGS, CONSENTS, SHARES, KEYS = (
    f"{PREFIX}{name}" for name in ("presets", "settings", "consents", "shares", "keys")
)
"""Hashes: place → preset, name → value, user → consent time, id → share, id → key."""
TEXTS, TEXTS_EXPIRE, SHARES_EXPIRE = f"{PREFIX}texts", f"{PREFIX}texts:expire", f"{PREFIX}shares:expire"
"""A hash, id → conversation; sorted sets of expiry times."""
COUNTER, LISTED = f"{PREFIX}counter", f"{PREFIX}listed"
"""Number of the newest conversation; a set of the keys below."""
CHANGED, QUIET = f"{PREFIX}changed", "audit:"
"""Channel for changed settings, and the prefix of settings that change with each reply and are not announced."""
EVERYBODYS = (PRESETS, SETTINGS, CONSENTS, SHARES, SHARES_EXPIRE, KEYS, TEXTS, TEXTS_EXPIRE)
log = structlog.get_logger(__name__)
Change = Callable[[Pipeline], Awaitable[T]]


def place_of(url: str) -> str:
    """Address of a Redis for messages, without its password. Raises BadStore."""
    try:
        place = parse_url(url)
    except ValueError as error:
        raise BadStore(f"redis_url is not a Redis URL: {error}") from error
    return place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"


@contextmanager
def reached(where: str) -> Iterator[None]:
    """Raises Unavailable for any error of the connection to Redis."""
    try:
        yield
    except RedisError as error:
        raise Unavailable(f"Redis at {where} cannot be used: {error}") from error


def _texts_of(user: str) -> str:
    """A hash: digest → id."""
    return f"{PREFIX}texts:of:{user}"


def _votes_of(user: str, model: str) -> str:
    """A list, oldest first."""
    return f"{PREFIX}votes:{json.dumps([user, model])}"


def _vectors_of(user: str, model: str) -> str:
    """A hash: name → vector."""
    return f"{PREFIX}vectors:{json.dumps([user, model])}"


def _edits_of(bundle: str) -> str:
    """A hash: number → edit."""
    return f"{PREFIX}edits:{json.dumps([bundle])}"


class RedisStore:
    """Safe for any number of processes and machines. Belongs to the event loop that first uses it."""

    name = "redis"

    def __init__(self, url: str, *, patient: bool = False) -> None:
        """With `patient`, calls wait for Redis, instead of raising Unavailable. Raises BadStore."""
        self._patient, self._in_turn = patient, asyncio.Lock()
        retry = Retry(ConstantBackoff(0.5), -1) if patient else Retry(NoBackoff(), 1)
        self._where = place_of(url)
        self._ear: PubSub | None = None
        limits = {"max_connections": 64, "timeout": 5, "socket_timeout": 5, "socket_connect_timeout": 2}
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(url, retry=retry, decode_responses=True, **limits)
        )

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
            body = await _now(pipe.hget(PRESETS, place))
            held = Preset.model_validate_json(body).version if body else 0
            saved = write_rules.saved_preset(held, preset, based_on=based_on)
            pipe.multi()
            pipe.hset(PRESETS, place, saved.model_dump_json())
            return saved

        return await self._change(save, PRESETS)

    async def delete_preset(self, preset_id: str, tenant: str = "") -> bool:
        """Delete a preset; whether it existed."""
        return await self._ask(self._redis.hdel(PRESETS, write_rules.place_of(preset_id, tenant))) > 0

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

    async def consent(self, user: str) -> bool:
        """Whether a user consents to training on their conversations."""
        return bool(await self._ask(self._redis.hexists(CONSENTS, user)))

    async def set_consent(self, user: str, agreed: bool) -> None:
        """Set a user's consent; withdrawing it deletes their texts in the same transaction."""
        if agreed:
            await self._ask(self._redis.hsetnx(CONSENTS, user, repr(time.time())))
        else:
            await self._forget(user, consent=True)

    async def keep_text(self, user: str, messages: str, *, most: int, seconds: float) -> bool:
        """Keep a conversation of a consenting user; the same transaction deletes their oldest and all expired ones."""
        digest, now = write_rules.digest(messages), time.time()

        async def keep(pipe: Pipeline) -> bool:
            if not await _now(pipe.hexists(CONSENTS, user)):
                return False
            gone = await _now(pipe.zrangebyscore(TEXTS_EXPIRE, "-inf", f"({now!r}"))
            old = [t for t in await _now(pipe.hmget(TEXTS, gone)) if t] if gone else []
            held = {d: i for d, i in (await _now(pipe.hgetall(_texts_of(user)))).items() if i not in gone}
            if kept := digest not in held:
                held[digest] = str(await _now(pipe.incr(COUNTER)))
            beyond = sorted(held.items(), key=lambda item: int(item[1]))[:-most]
            pipe.multi()
            for text in map(json.loads, old):
                pipe.hdel(_texts_of(text["user"]), write_rules.digest(text["messages"]))
            if kept:
                text = {"user": user, "messages": messages, "created": now, "expires": now + seconds}
                _put_text(pipe, held[digest], text)
            if beyond:
                pipe.hdel(_texts_of(user), *(d for d, _ in beyond))
            if dropped := [*gone, *(i for _, i in beyond)]:
                pipe.hdel(TEXTS, *dropped)
                pipe.zrem(TEXTS_EXPIRE, *dropped)
            return kept

        return await self._change(keep, CONSENTS, TEXTS_EXPIRE, _texts_of(user))

    async def live_texts(self, user: str | None = None) -> list[LiveText]:
        """All texts, or one user's, that have not expired, oldest first."""
        if user is None:
            rows = await self._ask(self._redis.hgetall(TEXTS))
        else:
            ids = await self._ask(self._redis.hvals(_texts_of(user)))
            found = await self._ask(self._redis.hmget(TEXTS, ids)) if ids else []
            rows = {i: text for i, text in zip(ids, found, strict=True) if text}
        texts = [json.loads(rows[i]) for i in sorted(rows, key=int)]
        now = time.time()
        return [LiveText(t["user"], t["messages"], t["created"]) for t in texts if t["expires"] >= now]

    async def consented_texts(self) -> int:
        """Number of all users' texts that have not expired."""
        return await self._ask(self._redis.zcount(TEXTS_EXPIRE, time.time(), "+inf"))

    async def forget_texts(self, user: str) -> int:
        """Delete a user's texts; returns how many."""
        return await self._forget(user, consent=False)

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Add the votes of one feedback, under one number, and delete the oldest above the limit."""
        key = _votes_of(user, model)

        async def add(pipe: Pipeline) -> None:
            newest = await _now(pipe.lindex(key, -1))
            pipe.multi()
            _push_votes(pipe, key, [(json.loads(newest)["said"] + 1 if newest else 1, kind, v) for v in votes], most)

        await self._change(add, key)

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """A user's votes, oldest first."""
        rows = await self._ask(self._redis.lrange(_votes_of(user, model), 0, -1))
        return [vote for _, _, vote in map(_read_votes, rows)]

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Delete the votes of the last feedback, or all."""
        key = _votes_of(user, model)

        async def drop(pipe: Pipeline) -> int:
            rows = [_read_votes(row) for row in await _now(pipe.lrange(key, 0, -1))]
            stay = sum(said != rows[-1][0] for said, _, _ in rows) if last else 0
            pipe.multi()
            if stay:
                pipe.ltrim(key, 0, stay - 1)
            else:
                _drop(pipe, key)
            return len(rows) - stay

        return await self._change(drop, key)

    async def feature_edits(self, bundle: str) -> dict[int, FeatureEdit]:
        """Edits of a bundle's features, by number."""
        return _edits(await self._ask(self._redis.hgetall(_edits_of(bundle))))

    async def edit_feature(
        self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None
    ) -> FeatureEdit:
        """Edit a feature; an empty edit is deleted."""
        key = _edits_of(bundle)

        async def change(pipe: Pipeline) -> FeatureEdit:
            body = await _now(pipe.hget(key, str(number)))
            edit = write_rules.edited(FeatureEdit.model_validate_json(body) if body else None, changes, by=by)
            pipe.multi()
            if edit.empty:
                pipe.hdel(key, str(number))
            else:
                _put(pipe, key, str(number), edit.model_dump_json())
            _mark_edits(pipe, bundle)
            return edit

        return await self._change(change, key)

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, by name."""
        return _vectors(await self._ask(self._redis.hgetall(_vectors_of(user, model))))

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One vector of this user."""
        body = await self._ask(self._redis.hget(_vectors_of(user, model), name))
        return Vector.model_validate_json(body) if body else None

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Save a vector. Raises Conflict if the name exists and `replace` is not set, or if there
        are `most` already."""
        key = _vectors_of(user, model)

        async def save(pipe: Pipeline) -> None:
            write_rules.check_vector(await _now(pipe.hkeys(key)), user, vector, replace=replace, most=most)
            pipe.multi()
            _put(pipe, key, vector.name, vector.model_dump_json())

        await self._change(save, key)

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Delete a vector; whether it existed."""
        key = _vectors_of(user, model)

        async def delete(pipe: Pipeline) -> bool:
            names = await _now(pipe.hkeys(key))
            pipe.multi()
            if names == [name]:
                _drop(pipe, key)
            else:
                pipe.hdel(key, name)
            return name in names

        return await self._change(delete, key)

    async def user_data(self, user: str, model: str) -> UserData:
        """All presets of a model, and a user's data, as one snapshot."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hvals(PRESETS)
            pipe.hgetall(_edits_of(model))
            pipe.hgetall(_vectors_of(user, model))
            pipe.lrange(_votes_of(user, model), 0, -1)
            bodies, edits, vectors, votes = await self._ask(pipe.execute())
        presets = sorted(map(Preset.model_validate_json, bodies), key=lambda p: p.id)
        return UserData(
            presets=tuple(p for p in presets if p.model == model),
            edits=write_rules.edits_by(_edits(edits), user),
            vectors=tuple(_vectors(vectors)),
            said=tuple(write_rules.group_votes(map(_read_votes, votes))),
        )

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write imported data in one transaction. Raises AlreadyExists and Conflict, and then writes nothing."""
        keys = PRESETS, _edits_of(model), _vectors_of(user, model), _votes_of(user, model)

        async def write(pipe: Pipeline) -> dict[str, Restored]:
            held = [await _now(pipe.hgetall(key)) for key in keys[:3]]
            stored_votes = [_read_votes(row) for row in await _now(pipe.lrange(keys[3], 0, -1))]
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
                    _put(pipe, key, name, body)
            if kept.edits:
                _mark_edits(pipe, model)
            first = stored_votes[-1][0] + 1 if stored_votes else 1
            _push_votes(pipe, keys[3], [(n, s.kind, v) for n, s in enumerate(new, first) for v in s.votes], votes)
            return done

        return await self._change(write, *keys)

    async def erase(self, person: str, tenant: str, owner: str | None) -> dict[str, int]:
        """Delete all data of a user in one transaction, and rewrite Redis' append-only file without it."""
        keys = LISTED, PRESETS, SHARES, TEXTS, CONSENTS

        async def erase(pipe: Pipeline) -> dict[str, int]:
            presets, shares, texts, consents = [await _now(pipe.hgetall(k)) for k in keys[1:]]
            listed = sorted(await _now(pipe.smembers(LISTED)))
            await pipe.watch(*listed) if listed else None
            theirs = [k for k in listed if not _is(k, "edits") and write_rules.is_of(_whose(k)[0], person)]
            votes = sum([await _now(pipe.llen(k)) for k in theirs if _is(k, "votes")])
            vectors = sum([await _now(pipe.hlen(k)) for k in theirs if _is(k, "vectors")])
            edits = {k: _edits(await _now(pipe.hgetall(k))) for k in listed if _is(k, "edits")}
            given = {n: t["user"] for n, t in ((n, json.loads(b)) for n, b in texts.items()) if write_rules.is_of(t["user"], person)}  # fmt: skip
            owned = lambda rows: [k for k, body in rows.items() if owner is not None and write_rules.is_owned(body, tenant, owner)]  # noqa: E731  # fmt: skip
            gone = {PRESETS: owned(presets), SHARES: owned(shares), CONSENTS: [u for u in consents if write_rules.is_of(u, person)], TEXTS: [*given]}  # fmt: skip
            pipe.multi()
            for key in theirs:
                _drop(pipe, key)
            for key, names in gone.items():
                if names:
                    pipe.hdel(key, *names)
            for key, names in ((SHARES_EXPIRE, gone[SHARES]), (TEXTS_EXPIRE, gone[TEXTS])):
                if names:
                    pipe.zrem(key, *names)
            for user in {*given.values()}:
                pipe.delete(_texts_of(user))
            for key, rows in edits.items():
                for number, edit in rows.items():
                    if edit.by and write_rules.is_of(edit.by, person):
                        pipe.hset(key, str(number), edit.model_copy(update={"by": None}).model_dump_json())
            named = {"consents": CONSENTS, "texts": TEXTS, "presets": PRESETS, "shares": SHARES}
            return {kind: len(gone[key]) for kind, key in named.items()} | {"votes": votes, "vectors": vectors}

        gone = await self._change(erase, *keys)
        try:
            await self._redis.bgrewriteaof()
        except RedisError as error:
            log.warning("Redis' append-only file holds erased data until it is rewritten", why=str(error))
        return gone

    async def add_share(self, share: Share, *, most: int) -> None:
        """Save a share; the same transaction deletes expired ones. Raises Conflict if there are `most` already."""

        async def add(pipe: Pipeline) -> None:
            gone = await _now(pipe.zrangebyscore(SHARES_EXPIRE, "-inf", f"({int(time.time())}"))
            write_rules.check_shares(await _now(pipe.zcard(SHARES_EXPIRE)) - len(gone), most=most)
            pipe.multi()
            if gone:
                pipe.hdel(SHARES, *gone)
                pipe.zrem(SHARES_EXPIRE, *gone)
            _put_share(pipe, vars(share))

        await self._change(add, SHARES_EXPIRE)

    async def share(self, share_id: str) -> Share | None:
        """A share that has not expired."""
        body = await self._ask(self._redis.hget(SHARES, share_id))
        found = Share(**json.loads(body)) if body else None
        return found if found and found.expires >= int(time.time()) else None

    async def delete_share(self, share_id: str) -> bool:
        """Delete a share; whether it existed."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hdel(SHARES, share_id)
            pipe.zrem(SHARES_EXPIRE, share_id)
            gone, _ = await self._ask(pipe.execute())
        return gone > 0

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

    async def records(self) -> list[Record]:
        """A snapshot of all records."""

        async def read(pipe: Pipeline) -> list[Record]:
            return await _all_records(pipe)

        return await self._change(read, LISTED, *EVERYBODYS)

    async def put_records(self, records: Sequence[Record], *, replace: bool) -> None:
        """Replace the store's content by these records, in one transaction."""

        async def put(pipe: Pipeline) -> None:
            held = await _all_records(pipe)
            if not replace and any(r.kind != "setting" for r in held):
                raise Conflict("the store is not empty")
            listed = await _now(pipe.smembers(LISTED))
            pipe.multi()
            of_users = {_texts_of(r.value["user"]) for r in held if r.kind == "text"}
            pipe.delete(*EVERYBODYS, COUNTER, LISTED, *listed, *of_users)
            for number, record in enumerate(records, 1):
                _put_record(pipe, number, record)
            pipe.set(COUNTER, len(records))

        await self._change(put, LISTED, *EVERYBODYS)

    async def check(self) -> None:
        """Ping Redis; the first call sets or checks the version of the key layout."""
        await self._ask(self._redis.set(f"{PREFIX}version", VERSION, nx=True))
        found = int(await self._ask(self._redis.get(f"{PREFIX}version")) or VERSION)
        if found > VERSION:
            raise BadStore(f"what is in Redis at {self._where} was written by a newer version of Tiller; update")

    async def close(self) -> None:
        """Close the connections."""
        if self._ear is not None:
            await self._ear.aclose()
        await self._redis.aclose()

    async def _forget(self, user: str, *, consent: bool) -> int:
        async def forget(pipe: Pipeline) -> int:
            ids = await _now(pipe.hvals(_texts_of(user)))
            pipe.multi()
            if consent:
                pipe.hdel(CONSENTS, user)
            if ids:
                pipe.hdel(TEXTS, *ids)
                pipe.zrem(TEXTS_EXPIRE, *ids)
            pipe.delete(_texts_of(user))
            return len(ids)

        return await self._change(forget, _texts_of(user))

    async def _ask(self, asked: Any) -> Any:  # noqa: ANN401 - redis types what a command gives as awaitable or not
        with reached(self._where):
            return await asked

    async def _change(self, work: Change[T], *watched: str) -> T:
        """Run `work`, which reads, then calls `multi` and writes; retry if one of `watched` changes in between."""
        tried = await self._try(work, watched)
        if not tried:
            async with self._in_turn:  # random delay: concurrent writers of one key would collide again and again
                while not (tried := await self._try(work, watched)):
                    pass
        return tried[0]

    async def _try(self, work: Change[T], watched: Sequence[str]) -> tuple[T] | None:
        with reached(self._where):
            async with self._redis.pipeline(transaction=True) as pipe:
                try:
                    await pipe.watch(*watched)
                    result = await work(pipe)
                    await pipe.execute()
                except WatchError as error:
                    if "occurred while watching" not in str(error) or self._patient:
                        return None
                    raise
                return (result,)


async def _now(asked: Any) -> Any:  # noqa: ANN401 - until `multi`, a pipeline answers at once, which its types do not say
    return await asked


def _put(pipe: Pipeline, key: str, name: str, body: str) -> None:
    """Write to a hash of one user."""
    pipe.hset(key, name, body)
    if key not in EVERYBODYS:
        pipe.sadd(LISTED, key)


def _whose(key: str) -> list[str]:
    """Names after a listed key's kind: user and model, or a bundle."""
    return json.loads(key[key.index("[") :])


def _is(key: str, kind: str) -> bool:
    return key.startswith(f"{PREFIX}{kind}:")


def _drop(pipe: Pipeline, key: str) -> None:
    pipe.delete(key)
    pipe.srem(LISTED, key)


def _mark_edits(pipe: Pipeline, bundle: str) -> None:
    pipe.hset(SETTINGS, edits_setting(bundle), uuid.uuid4().hex)
    pipe.publish(CHANGED, edits_setting(bundle))


def _push_votes(pipe: Pipeline, key: str, votes: Sequence[write_rules.Given], most: int) -> None:
    if rows := [json.dumps({"said": said, "kind": kind, **vars(vote)}) for said, kind, vote in votes]:
        pipe.rpush(key, *rows)
        pipe.ltrim(key, -most, -1)
        pipe.sadd(LISTED, key)


def _put_text(pipe: Pipeline, number: str, text: Mapping[str, Any]) -> None:
    pipe.hset(TEXTS, number, json.dumps(text, ensure_ascii=False))
    pipe.zadd(TEXTS_EXPIRE, {number: text["expires"]})
    pipe.hset(_texts_of(text["user"]), write_rules.digest(text["messages"]), number)


def _put_share(pipe: Pipeline, share: Mapping[str, Any]) -> None:
    pipe.hset(SHARES, share["id"], json.dumps(share, ensure_ascii=False))
    pipe.zadd(SHARES_EXPIRE, {share["id"]: share["expires"]})


def _read_votes(row: str) -> write_rules.Given:
    vote = json.loads(row)
    return vote.pop("said"), vote.pop("kind"), StoredVote(**vote)


def _edits(rows: Mapping[str, str]) -> dict[int, FeatureEdit]:
    return {int(number): FeatureEdit.model_validate_json(body) for number, body in rows.items()}


def _vectors(rows: Mapping[str, str]) -> list[Vector]:
    return [Vector.model_validate_json(rows[name]) for name in sorted(rows)]


async def _all_records(pipe: Pipeline) -> list[Record]:
    presets, settings, consents, shares, texts, keys = [
        await _now(pipe.hgetall(key)) for key in (PRESETS, SETTINGS, CONSENTS, SHARES, TEXTS, KEYS)
    ]
    found = [Record("preset", json.loads(presets[name])) for name in sorted(presets)]
    found += [Record("setting", {"key": key, "value": settings[key]}) for key in sorted(settings)]
    found += [Record("consent", {"user": user, "since": float(consents[user])}) for user in sorted(consents)]
    found += [Record("text", json.loads(texts[number])) for number in sorted(texts, key=int)]
    listed = sorted(await _now(pipe.smembers(LISTED)))
    await pipe.watch(*listed) if listed else None
    for kind in ("votes", "edits", "vectors"):
        for key in (k for k in listed if k.startswith(f"{PREFIX}{kind}:")):
            whose = _whose(key)
            rows = await _now(pipe.lrange(key, 0, -1) if kind == "votes" else pipe.hgetall(key))
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
    for said in write_rules.group_votes(map(_read_votes, rows)):
        yield Record("said", {**about, "kind": said.kind, "votes": [vars(v) for v in said.votes]})


def _put_record(pipe: Pipeline, number: int, record: Record) -> None:
    v = record.value
    match record.kind:
        case "preset":
            preset = Preset.model_validate(v)
            pipe.hset(PRESETS, write_rules.place_of(preset.id, preset.tenant), preset.model_dump_json())
        case "setting":
            pipe.hsetnx(SETTINGS, v["key"], v["value"])
        case "consent":
            pipe.hset(CONSENTS, v["user"], repr(v["since"]))
        case "text":
            _put_text(pipe, str(number), v)
        case "said":
            given = [(number, v["kind"], StoredVote(**vote)) for vote in v["votes"]]
            _push_votes(pipe, _votes_of(v["user"], v["model"]), given, 2**31)
        case "edit":
            _put(
                pipe, _edits_of(v["bundle"]), str(v["number"]), FeatureEdit.model_validate(v["edit"]).model_dump_json()
            )
            _mark_edits(pipe, v["bundle"])
        case "vector":
            vector = Vector.model_validate(v["vector"])
            _put(pipe, _vectors_of(v["user"], v["model"]), vector.name, vector.model_dump_json())
        case "share":
            _put_share(pipe, vars(Share(**v)))
        case "key":
            key = Key.model_validate(v)
            pipe.hset(KEYS, key.id, key.model_dump_json())
