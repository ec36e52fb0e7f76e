"""Caller: the key's owner, tenant and role, and what belongs to them.

On a server without keys every caller is `ANYONE`: all is permitted, and the subject is the
request's `user`. With keys, the caller is the key's owner; a `user` names an end user of that
owner, and never another owner.
"""

from dataclasses import dataclass, replace

from server.auth.keys import DEFAULT_LIMITS
from server.errors import ApiError
from server.store.models import ROLES, Key, RateLimits, Role
from steering.spec import Preset

UNLIMITED = RateLimits()


@dataclass(frozen=True)
class Caller:
    """The authenticated caller of a request."""

    role: Role = "admin"
    tenant: str = ""
    owner: str | None = None
    """None on a server without keys."""
    limits: RateLimits = UNLIMITED
    default_preset: str | None = None
    key: str | None = None
    """The key's id."""
    alone: bool = False
    """Whether it is a person with a browser session, who may not name another user."""

    @staticmethod
    def from_key(key: Key, *, alone: bool = False) -> "Caller":
        """The caller of a key."""
        limits = key.limits.with_defaults(DEFAULT_LIMITS[key.role])
        return Caller(key.role, key.tenant, key.owner, limits, key.default_preset, key.id, alone)

    def has_role(self, least: Role) -> bool:
        """Whether the role is at least this one."""
        return ROLES.index(self.role) >= ROLES.index(least)

    def subject(self, user: str | None = None) -> str | None:
        """Storage name of the caller, or of one of the caller's users; names of keys have no slash."""
        if self.owner is None:
            return user or None
        name = f"{self.tenant}/{self.owner}"
        return f"{name}/{user}" if user and not self.alone else name

    def require_subject(self, user: str | None) -> str:
        """The same where a subject is required. Raises ApiError."""
        if person := self.subject(user):
            return person
        raise ApiError(400, "`user` is required, as in the requests of that user", code="invalid_value", param="user")

    def can_see(self, preset: Preset) -> bool:
        """Whether the caller may read a preset and steer with it. Presets saved without keys are visible to all."""
        if self.owner is None or preset.owner is None or self.has_role("admin"):
            return True
        shared = preset.visibility == "shared" and preset.tenant in ("", self.tenant)
        return shared or self.owns(preset.tenant, preset.owner)

    def can_change(self, preset: Preset) -> bool:
        """Whether the caller may replace and delete a preset."""
        if self.owner is None:
            return True
        return self.has_role("admin") or self.owns(preset.tenant, preset.owner)

    def owns(self, tenant: str, owner: str | None) -> bool:
        """Whether a record belongs to the caller."""
        return self.owner is not None and (tenant, owner) == (self.tenant, self.owner)


ANYONE = Caller()
"""Any caller of a server without keys."""
OPERATOR = replace(ANYONE, owner="operator")
"""The caller with the admin key of the settings."""
