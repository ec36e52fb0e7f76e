"""Job storage in Redis: huey's storage with the store's errors, or with retries while Redis is unavailable."""

from typing import Any

from huey.storage import EmptyData, RedisStorage
from redis import ConnectionPool, Redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from server.store.redis.connection import place_of, reached


class RedisJobStorage(RedisStorage):
    """One queue in one Redis."""

    def __init__(self, name: str, *, url: str, patient: bool, **more: Any) -> None:  # noqa: ANN401 - huey's own
        """With `patient`, calls wait until Redis is available. Raises BadStore."""
        where = place_of(url)
        retry = Retry(ConstantBackoff(0.5), -1) if patient else Retry(NoBackoff(), 1)
        pool = ConnectionPool.from_url(url, retry=retry, socket_timeout=5, socket_connect_timeout=2)

        class Client(Redis):
            """Raises Unavailable."""

            def execute_command(self, *words: Any, **options: Any) -> Any:  # noqa: ANN401 - redis' own
                with reached(where):
                    return super().execute_command(*words, **options)

        self.redis_client = Client
        super().__init__(name, connection_pool=pool, **more)

    def now(self) -> float:
        """Redis' own clock, in seconds since 1970."""
        seconds, micros = self.conn.time()
        return float(seconds) + float(micros) / 1e6

    def pop_data(self, key: str) -> Any:  # noqa: ANN401 - huey's own
        """Remove and return a value; only the caller that deletes it gets it."""
        held = self.peek_data(key)
        return held if self.conn.hdel(self.result_key, key) else EmptyData
