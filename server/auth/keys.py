"""API keys: what one allows, and how it is told from its secret. Values only; knows no store and no route."""

import hashlib
import secrets
import time

from pydantic import BaseModel, ConfigDict, Field

from server.store.models import Key, RateLimits, Role

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
SECRET = "sk-tiller-"
SHOWN = len(SECRET) + 6
"""So many characters of a secret tell one key from another in lists."""


DEFAULT_LIMITS: dict[Role, RateLimits] = {
    "viewer": RateLimits(requests=60, tokens=40_000, concurrent=4, specs=60),
    "user": RateLimits(requests=120, tokens=80_000, concurrent=8, specs=240),
    "creator": RateLimits(requests=240, tokens=160_000, concurrent=16, specs=480),
    "researcher": RateLimits(requests=1200, tokens=1_000_000, concurrent=64, specs=5000),
    "admin": RateLimits(),
}
"""Where a key says nothing of its own."""


class KeyRequest(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)
    """What it is called in lists."""
    role: Role = "user"
    tenant: str = Field(default="", pattern=f"{NAME}|^$")
    """Those who share what they make for each other."""
    owner: str | None = Field(default=None, pattern=NAME)
    """Whose it is; its own name if not given."""
    limits: RateLimits = RateLimits()
    """In place of those that its role has."""
    default_preset: str | None = None
    """What is steered where a request leaves it open."""
    days: float | None = Field(default=None, gt=0, le=36_500, allow_inf_nan=False)
    """For how long it can be used; for good if not given."""


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
    """A key and its secret, which nobody can find out again. Its owner is called as it is, if not said otherwise."""
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
    """What is kept of a secret. It has 256 random bits, so a plain hash cannot be turned back."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
