"""Redis store: all that several servers share."""

from server.store.redis.feature_edits import FeatureEditStore
from server.store.redis.keys import KeyStore
from server.store.redis.presets import PresetStore
from server.store.redis.records import RecordStore
from server.store.redis.settings import SettingStore
from server.store.redis.shares import ShareStore
from server.store.redis.texts import TextStore
from server.store.redis.user_data import UserDataStore
from server.store.redis.vectors import VectorStore
from server.store.redis.votes import VoteStore


class RedisStore(
    PresetStore,
    SettingStore,
    TextStore,
    VoteStore,
    FeatureEditStore,
    VectorStore,
    UserDataStore,
    ShareStore,
    KeyStore,
    RecordStore,
):
    """Safe for any number of processes and machines. Belongs to the event loop that first uses it."""

    name = "redis"
