"""Shares in Redis."""

import json
import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.models import Share
from server.store.redis.connection import Connection, answer
from server.store.redis.schema import SHARES, SHARES_EXPIRE


class Shares(Connection):
    """A hash, id → share, and a sorted set of expiry times."""

    async def add_share(self, share: Share, *, most: int) -> None:
        """Save a share; the same transaction deletes expired ones. Raises Conflict if there are `most` already."""

        async def add(pipe: Pipeline) -> None:
            gone = await answer(pipe.zrangebyscore(SHARES_EXPIRE, "-inf", f"({int(time.time())}"))
            write_rules.check_shares(await answer(pipe.zcard(SHARES_EXPIRE)) - len(gone), most=most)
            pipe.multi()
            if gone:
                pipe.hdel(SHARES, *gone)
                pipe.zrem(SHARES_EXPIRE, *gone)
            put_share(pipe, vars(share))

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


def put_share(pipe: Pipeline, share: Mapping[str, Any]) -> None:
    """Write a share, and when it expires."""
    pipe.hset(SHARES, share["id"], json.dumps(share, ensure_ascii=False))
    pipe.zadd(SHARES_EXPIRE, {share["id"]: share["expires"]})
