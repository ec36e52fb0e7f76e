"""Votes in Redis."""

import json
from collections.abc import Sequence

from redis.asyncio.client import Pipeline

from server.store import write_rules
from server.store.models import StoredVote
from server.store.redis.connection import Connection, answer, drop_key
from server.store.redis.schema import LISTED, votes_of


class Votes(Connection):
    """A list for each user and model, oldest first."""

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Add the votes of one feedback, under one number, and delete the oldest above the limit."""
        key = votes_of(user, model)

        async def add(pipe: Pipeline) -> None:
            newest = await answer(pipe.lindex(key, -1))
            pipe.multi()
            push_votes(pipe, key, [(json.loads(newest)["said"] + 1 if newest else 1, kind, v) for v in votes], most)

        await self._change(add, key)

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """A user's votes, oldest first."""
        rows = await self._ask(self._redis.lrange(votes_of(user, model), 0, -1))
        return [vote for _, _, vote in map(read_vote, rows)]

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Delete the votes of the last feedback, or all."""
        key = votes_of(user, model)

        async def drop(pipe: Pipeline) -> int:
            rows = [read_vote(row) for row in await answer(pipe.lrange(key, 0, -1))]
            stay = sum(said != rows[-1][0] for said, _, _ in rows) if last else 0
            pipe.multi()
            if stay:
                pipe.ltrim(key, 0, stay - 1)
            else:
                drop_key(pipe, key)
            return len(rows) - stay

        return await self._change(drop, key)


def push_votes(pipe: Pipeline, key: str, votes: Sequence[write_rules.Given], most: int) -> None:
    """Append votes, and delete the oldest above the limit."""
    if rows := [json.dumps({"said": said, "kind": kind, **vars(vote)}) for said, kind, vote in votes]:
        pipe.rpush(key, *rows)
        pipe.ltrim(key, -most, -1)
        pipe.sadd(LISTED, key)


def read_vote(row: str) -> write_rules.Given:
    """A vote as it was pushed."""
    vote = json.loads(row)
    return vote.pop("said"), vote.pop("kind"), StoredVote(**vote)
