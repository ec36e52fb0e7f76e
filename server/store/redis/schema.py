"""Key layout in Redis: the names of hashes, lists and sorted sets."""

import json

PREFIX = "tiller:"
VERSION = 1
PRESETS, SETTINGS, CONSENTS, SHARES, KEYS = (
    f"{PREFIX}{name}" for name in ("presets", "settings", "consents", "shares", "keys")
)
"""Hashes: place → preset, name → value, user → consent time, id → share, id → key."""
TEXTS, TEXTS_EXPIRE, SHARES_EXPIRE = f"{PREFIX}texts", f"{PREFIX}texts:expire", f"{PREFIX}shares:expire"
"""A hash, id → conversation; sorted sets of expiry times."""
COUNTER, LISTED = f"{PREFIX}counter", f"{PREFIX}listed"
"""Number of the newest conversation; a set of the keys below."""
CHANGED, QUIET = f"{PREFIX}changed", "audit:"
"""Channel for changed settings, and the prefix of settings that change with each reply and are not announced."""
EVERYBODYS = (PRESETS, SETTINGS, CONSENTS, SHARES, SHARES_EXPIRE, KEYS, TEXTS, TEXTS_EXPIRE)


def texts_of(user: str) -> str:
    """A hash: digest → id."""
    return f"{PREFIX}texts:of:{user}"


def votes_of(user: str, model: str) -> str:
    """A list, oldest first."""
    return f"{PREFIX}votes:{json.dumps([user, model])}"


def vectors_of(user: str, model: str) -> str:
    """A hash: name → vector."""
    return f"{PREFIX}vectors:{json.dumps([user, model])}"


def edits_of(bundle: str) -> str:
    """A hash: number → edit."""
    return f"{PREFIX}edits:{json.dumps([bundle])}"


def names_of(key: str) -> list[str]:
    """Names after a listed key's kind: user and model, or a bundle."""
    return json.loads(key[key.index("[") :])


def is_kind(key: str, kind: str) -> bool:
    """Whether a listed key holds votes, vectors or edits, as `kind` says."""
    return key.startswith(f"{PREFIX}{kind}:")
