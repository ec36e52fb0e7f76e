"""SQLite store, the default: all that a server keeps, in one file."""

from server.store.sqlite.feature_edits import FeatureEdits
from server.store.sqlite.keys import Keys
from server.store.sqlite.presets import Presets
from server.store.sqlite.records import Records
from server.store.sqlite.settings import Settings
from server.store.sqlite.shares import Shares
from server.store.sqlite.texts import Texts
from server.store.sqlite.user_data import Users
from server.store.sqlite.vectors import Vectors
from server.store.sqlite.votes import Votes


class SqliteStore(Presets, Settings, Texts, Votes, FeatureEdits, Vectors, Users, Shares, Keys, Records):
    """For one server process; further processes may read and write at the same time."""

    name = "sqlite"
