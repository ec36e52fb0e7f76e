"""SQLite schema: tables, their version, and the migration of older files."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS presets (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS consents (user TEXT PRIMARY KEY, since REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS live (
  id INTEGER PRIMARY KEY, user TEXT NOT NULL, digest TEXT NOT NULL, messages TEXT NOT NULL,
  created REAL NOT NULL, expires REAL NOT NULL, UNIQUE (user, digest)
) STRICT;
CREATE TABLE IF NOT EXISTS votes (
  id INTEGER PRIMARY KEY, user TEXT NOT NULL, model TEXT NOT NULL, said INTEGER NOT NULL, kind TEXT NOT NULL,
  subject TEXT NOT NULL, dose REAL NOT NULL, liked REAL NOT NULL, weight REAL NOT NULL, created REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS votes_of ON votes (user, model, id);
CREATE TABLE IF NOT EXISTS vectors (
  user TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (user, model, name)
) STRICT;
CREATE TABLE IF NOT EXISTS feature_edits (
  bundle TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (bundle, number)
) STRICT;
CREATE TABLE IF NOT EXISTS shares (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, content TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
  tenant TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, created INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
"""
VERSION = 6
SINCE_5 = tuple(f"ALTER TABLE shares ADD COLUMN {name} TEXT NOT NULL DEFAULT ''" for name in ("tenant", "owner"))
"""Statements that migrate a file from version 5."""
TABLES = ("presets", "settings", "consents", "live", "votes", "vectors", "feature_edits", "shares", "keys")
