"""SQLite store, the default: all that a server keeps, in one file."""

from server.store.sqlite.feature_edits import FeatureEditStore
from server.store.sqlite.keys import KeyStore
from server.store.sqlite.presets import PresetStore
from server.store.sqlite.records import RecordStore
from server.store.sqlite.settings import SettingStore
from server.store.sqlite.shares import ShareStore
from server.store.sqlite.texts import TextStore
from server.store.sqlite.user_data import UserDataStore
from server.store.sqlite.vectors import VectorStore
from server.store.sqlite.votes import VoteStore


class SqliteStore(
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
    """For one server process; further processes may read and write at the same time."""

    name = "sqlite"
