"""Who asks, and what is theirs. Pure; knows keys and presets as values, no store and no route.

On a server without keys everybody is `ANYONE`: may do everything, and is whoever the request's `user` says. With keys,
a caller is a key's owner; a `user` beside it is somebody of theirs, and never anybody else's.
"""

from dataclasses import dataclass, replace

from server.auth.keys import DEFAULT_LIMITS
from server.errors import ApiError
from server.store.models import ROLES, Key, RateLimits, Role
from steering.spec import Preset

UNLIMITED = RateLimits()


@dataclass(frozen=True)
class Caller:
    """Somebody who asks."""

    role: Role = "admin"
    tenant: str = ""
    owner: str | None = None
    """None where there are no keys."""
    limits: RateLimits = UNLIMITED
    default_preset: str | None = None
    key: str | None = None
    """The key's id."""
    alone: bool = False
    """Whether it is a person at a browser, who speaks for nobody else."""

    @staticmethod
    def from_key(key: Key, *, alone: bool = False) -> "Caller":
        """Whose key it is."""
        limits = key.limits.with_defaults(DEFAULT_LIMITS[key.role])
        return Caller(key.role, key.tenant, key.owner, limits, key.default_preset, key.id, alone)

    def has_role(self, least: Role) -> bool:
        """Whether the role is at least this one."""
        return ROLES.index(self.role) >= ROLES.index(least)

    def subject(self, user: str | None = None) -> str | None:
        """Under which name things are kept of a caller, or of somebody of theirs; names of keys have no slash."""
        if self.owner is None:
            return user or None
        whole = f"{self.tenant}/{self.owner}"
        return f"{whole}/{user}" if user and not self.alone else whole

    def require_subject(self, user: str | None) -> str:
        """The same where somebody has to be named. Raises ApiError."""
        if person := self.subject(user):
            return person
        raise ApiError(400, "say whose: `user`, as their requests carry it", code="invalid_value", param="user")

    def can_see(self, preset: Preset) -> bool:
        """Whether a preset may be read and steered by. What was saved while there were no keys is everybody's."""
        if self.owner is None or preset.owner is None or self.has_role("admin"):
            return True
        shared = preset.visibility == "shared" and preset.tenant in ("", self.tenant)
        return shared or self.owns(preset.tenant, preset.owner)

    def can_change(self, preset: Preset) -> bool:
        """Whether a preset may be replaced and deleted."""
        if self.owner is None:
            return True
        return self.has_role("admin") or self.owns(preset.tenant, preset.owner)

    def owns(self, tenant: str, owner: str | None) -> bool:
        """Whether something is this caller's."""
        return self.owner is not None and (tenant, owner) == (self.tenant, self.owner)


ANYONE = Caller()
"""Whoever can reach a server without keys."""
OPERATOR = replace(ANYONE, owner="operator")
"""Who has the key that the settings name."""
