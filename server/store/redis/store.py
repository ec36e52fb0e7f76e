"""Redis store: all that several servers share."""

from server.store.redis.feature_edits import FeatureEdits
from server.store.redis.keys import Keys
from server.store.redis.presets import Presets
from server.store.redis.records import Records
from server.store.redis.settings import Settings
from server.store.redis.shares import Shares
from server.store.redis.texts import Texts
from server.store.redis.user_data import Users
from server.store.redis.vectors import Vectors
from server.store.redis.votes import Votes


class RedisStore(Presets, Settings, Texts, Votes, FeatureEdits, Vectors, Users, Shares, Keys, Records):
    """Safe for any number of processes and machines. Belongs to the event loop that first uses it."""

    name = "redis"
