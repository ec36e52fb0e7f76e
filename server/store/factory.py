"""Store factory: opens the configured store."""

from server.settings import Settings
from server.store.base import BadStore, Store
from server.store.sqlite.store import SqliteStore


def open_store(settings: Settings, *, patient: bool = False) -> Store:
    """Redis if configured, otherwise the SQLite file in the data directory; `patient` callers wait instead of failing.

    Raises BadStore.
    """
    if settings.redis_url is None:
        return SqliteStore(settings.data_dir / "tiller.db")
    try:
        from server.store.redis.store import RedisStore
    except ImportError as error:
        raise BadStore("redis_url is set, but Redis' client is not installed: pip install 'tiller[redis]'") from error
    return RedisStore(settings.redis_url, patient=patient)
