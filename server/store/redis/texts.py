"""Consents and consented texts in Redis."""

import json
import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.models import LiveText
from server.store.redis.connection import Connection, answer
from server.store.redis.schema import CONSENTS, COUNTER, TEXTS, TEXTS_EXPIRE, texts_of


class Texts(Connection):
    """A hash of all texts, a sorted set of their expiry times, and a hash a user, digest → id."""

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
            if not await answer(pipe.hexists(CONSENTS, user)):
                return False
            gone = await answer(pipe.zrangebyscore(TEXTS_EXPIRE, "-inf", f"({now!r}"))
            old = [t for t in await answer(pipe.hmget(TEXTS, gone)) if t] if gone else []
            held = {d: i for d, i in (await answer(pipe.hgetall(texts_of(user)))).items() if i not in gone}
            if kept := digest not in held:
                held[digest] = str(await answer(pipe.incr(COUNTER)))
            beyond = sorted(held.items(), key=lambda item: int(item[1]))[:-most]
            pipe.multi()
            for text in map(json.loads, old):
                pipe.hdel(texts_of(text["user"]), write_rules.digest(text["messages"]))
            if kept:
                text = {"user": user, "messages": messages, "created": now, "expires": now + seconds}
                put_text(pipe, held[digest], text)
            if beyond:
                pipe.hdel(texts_of(user), *(d for d, _ in beyond))
            if dropped := [*gone, *(i for _, i in beyond)]:
                pipe.hdel(TEXTS, *dropped)
                pipe.zrem(TEXTS_EXPIRE, *dropped)
            return kept

        return await self._change(keep, CONSENTS, TEXTS_EXPIRE, texts_of(user))

    async def live_texts(self, user: str | None = None) -> list[LiveText]:
        """All texts, or one user's, that have not expired, oldest first."""
        if user is None:
            rows = await self._ask(self._redis.hgetall(TEXTS))
        else:
            ids = await self._ask(self._redis.hvals(texts_of(user)))
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

    async def _forget(self, user: str, *, consent: bool) -> int:
        async def forget(pipe: Pipeline) -> int:
            ids = await answer(pipe.hvals(texts_of(user)))
            pipe.multi()
            if consent:
                pipe.hdel(CONSENTS, user)
            if ids:
                pipe.hdel(TEXTS, *ids)
                pipe.zrem(TEXTS_EXPIRE, *ids)
            pipe.delete(texts_of(user))
            return len(ids)

        return await self._change(forget, texts_of(user))


def put_text(pipe: Pipeline, number: str, text: Mapping[str, Any]) -> None:
    """Write a text, when it expires, and that it is its user's."""
    pipe.hset(TEXTS, number, json.dumps(text, ensure_ascii=False))
    pipe.zadd(TEXTS_EXPIRE, {number: text["expires"]})
    pipe.hset(texts_of(text["user"]), write_rules.digest(text["messages"]), number)
