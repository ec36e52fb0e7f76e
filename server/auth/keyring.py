"""Keyring: authenticates API keys and browser sessions against the store and the settings.

Keys are read again once a second, so a deleted key fails on every replica within that time. While
the store is unavailable, the last keys read stay valid: clients keep working.
"""

import asyncio
import hmac
import secrets
import time
from dataclasses import replace

from itsdangerous import BadSignature, URLSafeTimedSerializer

from server.auth.caller import ANYONE, OPERATOR, Caller
from server.auth.keys import hash_secret
from server.settings import LOOPBACK, BadSettings, Settings
from server.store.base import Store, Unavailable
from server.store.models import SESSION, Key

FRESH = 1.0
"""Seconds for which keys are valid without another read."""
PATIENCE = 0.2
"""Seconds that a request waits for another read."""
STRANGERS_PATIENCE = 5.0
"""The same for an unknown key: it may have been created a moment ago."""
SESSION_DAYS = 30


async def check_reachable(settings: Settings, store: Store) -> None:
    """Raises BadSettings for a server that is reachable from other machines without any key."""
    if settings.host not in LOOPBACK and settings.admin_key is None and not await store.keys():
        raise BadSettings(
            f"other machines can reach {settings.host}, and there is no key: create one with `tiller keys new NAME --role admin`, "
            "or set TILLER_ADMIN_KEY"
        )


async def end_sessions(store: Store) -> None:
    """End all browser sessions: sessions are signed with a new secret from now on."""
    await store.set_setting(SESSION, _new_secret())


class Keyring:
    """The keys of one server, as last read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys: dict[str, Key] | None = None
        self._read = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._looks = 0
        self._secret: str | None = None
        """Secret that signs sessions, as last read."""
        key = settings.admin_key
        self._operator = hash_secret(key.get_secret_value()) if key else None

    async def requires_key(self, store: Store) -> bool:
        """Whether requests need a key: if there are any, or if the server is reachable from other machines."""
        return bool(self._operator or await self._all_keys(store) or self._settings.host not in LOOPBACK)

    async def authenticate(self, store: Store, secret: str | None, session: str | None) -> Caller | None:
        """The caller of a secret or of a session cookie; None if unknown. Raises Unavailable."""
        if not await self.requires_key(store):
            return ANYONE
        if secret is not None:
            return await self._find_key(store, hash_secret(secret))
        key_id = await self._read_session(store, session) if session else None
        if key_id is None:
            return None
        if key_id == self._operator:
            return replace(OPERATOR, alone=True)
        key = next((k for k in (await self._all_keys(store)).values() if k.id == key_id), None)
        return Caller.from_key(key, alone=True) if key and key.is_valid() else None

    async def create_session(self, store: Store, secret: str) -> str | None:
        """Session cookie for a secret; None if the secret is unknown."""
        caller = await self._find_key(store, hash_secret(secret))
        if caller is None:
            return None
        return (await self._session_signer(store)).dumps(self._operator if caller is OPERATOR else caller.key)

    async def end_sessions(self, store: Store) -> None:
        """End all browser sessions, here at once and on other replicas within a second; keys stay."""
        await end_sessions(store)
        self._secret = None
        await self.reload(store)

    async def reload(self, store: Store) -> None:
        """Read again what was just changed, without a timeout: results of earlier reads are discarded."""
        self._read = 0.0
        await asyncio.wait({self._refresh(store)})

    async def _find_key(self, store: Store, digest: str) -> Caller | None:
        if self._operator and hmac.compare_digest(digest, self._operator):
            return OPERATOR
        key = (await self._all_keys(store)).get(digest)
        if key is None and self._looking and not self._looking.done():
            await asyncio.wait({self._looking}, timeout=STRANGERS_PATIENCE)
            key = (self._keys or {}).get(digest)
        return Caller.from_key(key) if key and key.is_valid() else None

    async def _all_keys(self, store: Store) -> dict[str, Key]:
        if self._keys is None:
            self._keys = {k.digest: k for k in await store.keys()}
            self._read = time.monotonic()
        elif time.monotonic() - self._read >= FRESH:
            looking = self._looking if self._looking and not self._looking.done() else self._refresh(store)
            await asyncio.wait({looking}, timeout=PATIENCE)  # a slow store does not delay requests
        return self._keys

    def _refresh(self, store: Store) -> asyncio.Task[None]:
        self._looks += 1
        self._looking = asyncio.create_task(self._read_as(self._looks, store))
        return self._looking

    async def _read_as(self, number: int, store: Store) -> None:
        try:
            keys, secret = await store.keys(), await store.setting(SESSION)
        except Unavailable:
            return  # /health reports it
        if number == self._looks:  # otherwise a change happened after this read began, and a later read has it
            self._keys, self._secret, self._read = {k.digest: k for k in keys}, secret, time.monotonic()

    async def _read_session(self, store: Store, session: str) -> str | None:
        try:
            found = (await self._session_signer(store)).loads(session, max_age=86_400 * SESSION_DAYS)
        except BadSignature:
            return None
        return found if isinstance(found, str) else None

    async def _session_signer(self, store: Store) -> URLSafeTimedSerializer:
        await self._all_keys(store)  # which also reads the session secret
        if self._secret is None:
            self._secret = await store.first_setting(SESSION, _new_secret())
        return URLSafeTimedSerializer(self._secret, salt="tiller.session")


def _new_secret() -> str:
    return secrets.token_urlsafe(32)


COOKIE = "tiller_session"
