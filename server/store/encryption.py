"""What people give to learn from, unreadable on disk. Knows one key and texts; no store and no route.

AES-SIV (RFC 5297): the same text of the same person is sealed to the same, so that nothing is kept twice; a text that was
changed, or laid under somebody else's name, cannot be opened.
"""

import base64
import hashlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from server.settings import Settings
from server.store.base import BadStore
from server.store.models import LiveText

log = structlog.get_logger(__name__)
MARK = "sealed:1:"
FILE = "text.key"
"""In the data directory, where no key is named."""


class Unreadable(ValueError):
    """Sealed with another key, or changed."""


@dataclass(frozen=True)
class TextEncryption:
    """One key."""

    secret: str = field(repr=False)

    @staticmethod
    def from_settings(settings: Settings) -> "TextEncryption":
        """The key that the settings name, or the one of the data directory, which is made when it is first needed.

        Raises BadStore where it can neither be read nor made.
        """
        if settings.text_key:
            return TextEncryption(settings.text_key.get_secret_value())
        place = settings.data_dir / FILE
        try:
            if not place.exists():
                _make(place)
            return TextEncryption(place.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise BadStore(f"the key for people's texts cannot be read or made: {error}") from error

    def encrypt(self, text: str, whose: str) -> str:
        """Seal a text."""
        return MARK + base64.b64encode(self._cipher.encrypt(text.encode(), [whose.encode()])).decode()

    def decrypt(self, sealed: str, whose: str) -> str:
        """Read a text; one that was kept before there were seals is as it is. Raises Unreadable."""
        if not sealed.startswith(MARK):
            return sealed
        try:
            raw = base64.b64decode(sealed.removeprefix(MARK), validate=True)
            return self._cipher.decrypt(raw, [whose.encode()]).decode()
        except (InvalidTag, ValueError) as error:
            raise Unreadable("sealed with another key, or changed") from error

    def opened(self, texts: Sequence[LiveText]) -> list[LiveText]:
        """Those that can be read."""
        found = []
        for text in texts:
            try:
                found.append(replace(text, messages=self.decrypt(text.messages, text.user)))
            except Unreadable:
                pass
        if len(found) < len(texts):
            log.error("texts cannot be read", n=len(texts) - len(found), why="TILLER_TEXT_KEY is another one")
        return found

    @property
    def _cipher(self) -> AESSIV:
        return AESSIV(hashlib.sha512(b"tiller.texts\0" + self.secret.encode()).digest())


def pseudonym(person: str) -> str:
    """Somebody's name where only an equal one has to be found again."""
    return hashlib.sha256(b"tiller.person\0" + person.encode()).hexdigest()


def _make(place: Path) -> None:
    """Write a new key for its owner's eyes, whole or not at all; of two who make one at once, the first has made it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=place.parent, prefix=f".{FILE}.")  # for its owner's eyes only
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, place)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()
