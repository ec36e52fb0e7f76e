"""API keys: what one allows, and how it is told from its secret. Values only; knows no store and no route."""

import hashlib
import secrets
import time
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["viewer", "user", "creator", "researcher", "admin"]
"""Each may do what those before it may, and more: presets; features with a measured dose; any named feature, and
presets of one's own; vectors and measurements; everything."""
ROLES: tuple[Role, ...] = get_args(Role)
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
SESSION = "session_secret"
"""The setting that signs what browsers keep in place of a key."""
SECRET = "sk-tiller-"
SHOWN = len(SECRET) + 6
"""So many characters of a secret tell one key from another in lists."""


class Allowance(BaseModel):
    """How much may be asked for with one key; None is as much as the server can do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int | None = Field(default=None, ge=1)
    """A minute, of those that do something."""
    tokens: int | None = Field(default=None, ge=1)
    """A minute, of prompts and replies together."""
    concurrent: int | None = Field(default=None, ge=1)
    """Replies at a time."""
    specs: int | None = Field(default=None, ge=1)
    """Different steerings an hour: a search for one that breaks the model needs many."""

    def over(self, usual: "Allowance") -> "Allowance":
        """These, with the usual ones where nothing is said."""
        return Allowance(**{**usual.model_dump(), **self.model_dump(exclude_none=True)})


USUAL: dict[Role, Allowance] = {
    "viewer": Allowance(requests=60, tokens=40_000, concurrent=4, specs=60),
    "user": Allowance(requests=120, tokens=80_000, concurrent=8, specs=240),
    "creator": Allowance(requests=240, tokens=160_000, concurrent=16, specs=480),
    "researcher": Allowance(requests=1200, tokens=1_000_000, concurrent=64, specs=5000),
    "admin": Allowance(),
}
"""Where a key says nothing of its own."""


class Key(BaseModel):
    """One key, as it is kept: its secret was shown once and is nowhere."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    prefix: str
    digest: str
    role: Role
    tenant: str = ""
    """Those who share what they make for each other; the empty one is whoever runs the server."""
    owner: str
    """Who it is; two keys of one owner and tenant are the same person's."""
    limits: Allowance = Allowance()
    default_preset: str | None = None
    """What is steered where a request leaves it open; the server's own default if not given."""
    created: int
    expires: int | None = None

    def holds(self, now: float | None = None) -> bool:
        """Whether it can still be used."""
        return self.expires is None or self.expires > (time.time() if now is None else now)


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
    limits: Allowance = Allowance()
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
    limits: Allowance | None = None,
    default_preset: str | None = None,
    days: float | None = None,
) -> tuple[Key, str]:
    """A key and its secret, which nobody can find out again. Its owner is called as it is, if not said otherwise."""
    secret, now = SECRET + secrets.token_urlsafe(32), int(time.time())
    key = Key(
        id=f"key_{secrets.token_hex(8)}",
        name=name,
        prefix=secret[:SHOWN],
        digest=digest_of(secret),
        role=role,
        tenant=tenant,
        owner=owner or name,
        limits=limits or Allowance(),
        default_preset=default_preset,
        created=now,
        expires=None if days is None else now + int(86_400 * days),
    )
    return key, secret


def digest_of(secret: str) -> str:
    """What is kept of a secret. It has 256 random bits, so a plain hash cannot be turned back."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
