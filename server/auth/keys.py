"""API keys: their fields, creation and hashing."""

import hashlib
import secrets
import time

from pydantic import BaseModel, ConfigDict, Field

from server.store.models import Key, RateLimits, Role

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
SECRET = "sk-tiller-"
SHOWN = len(SECRET) + 6
"""Number of characters of a secret that lists show, to tell keys apart."""


DEFAULT_LIMITS: dict[Role, RateLimits] = {
    "viewer": RateLimits(requests=60, tokens=40_000, concurrent=4, specs=60),
    "user": RateLimits(requests=120, tokens=80_000, concurrent=8, specs=240),
    "creator": RateLimits(requests=240, tokens=160_000, concurrent=16, specs=480),
    "researcher": RateLimits(requests=1200, tokens=1_000_000, concurrent=64, specs=5000),
    "admin": RateLimits(),
}
"""Limits by role, for keys without their own."""


class KeyRequest(BaseModel):
    """Request to create a key."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)
    """Display name in lists."""
    role: Role = "user"
    tenant: str = Field(default="", pattern=f"{NAME}|^$")
    """Callers with the same tenant share their presets."""
    owner: str | None = Field(default=None, pattern=NAME)
    """The key's owner; default: the key's name."""
    limits: RateLimits = RateLimits()
    """Replace the limits of the role."""
    default_preset: str | None = None
    """Preset that is applied where a request names none."""
    days: float | None = Field(default=None, gt=0, le=36_500, allow_inf_nan=False)
    """Days until the key expires; default: never."""


def new_key(
    name: str,
    role: Role,
    *,
    tenant: str = "",
    owner: str | None = None,
    limits: RateLimits | None = None,
    default_preset: str | None = None,
    days: float | None = None,
) -> tuple[Key, str]:
    """A new key and its secret, which is not stored. The owner defaults to the name."""
    secret, now = SECRET + secrets.token_urlsafe(32), int(time.time())
    key = Key(
        id=f"key_{secrets.token_hex(8)}",
        name=name,
        prefix=secret[:SHOWN],
        digest=hash_secret(secret),
        role=role,
        tenant=tenant,
        owner=owner or name,
        limits=limits or RateLimits(),
        default_preset=default_preset,
        created=now,
        expires=None if days is None else now + int(86_400 * days),
    )
    return key, secret


def hash_secret(secret: str) -> str:
    """Hash of a secret. It has 256 random bits, so a plain hash cannot be reversed."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
