"""Text encryption: users' training texts, encrypted at rest.

AES-SIV (RFC 5297): equal texts of one user have equal ciphertexts, so duplicates are found; a text
that was modified, or moved to another user, fails to decrypt.
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
"""Key file in the data directory, used if no key is configured."""


class Unreadable(ValueError):
    """Encrypted with another key, or modified."""


@dataclass(frozen=True)
class TextEncryption:
    """Encryption with one key."""

    secret: str = field(repr=False)

    @staticmethod
    def from_settings(settings: Settings) -> "TextEncryption":
        """The configured key, or the one in the data directory, created on first use.

        Raises BadStore if it can be neither read nor created.
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
        """Encrypt a text."""
        return MARK + base64.b64encode(self._cipher.encrypt(text.encode(), [whose.encode()])).decode()

    def decrypt(self, sealed: str, whose: str) -> str:
        """Decrypt a text; one stored before encryption was introduced is returned as it is. Raises Unreadable."""
        if not sealed.startswith(MARK):
            return sealed
        try:
            raw = base64.b64decode(sealed.removeprefix(MARK), validate=True)
            return self._cipher.decrypt(raw, [whose.encode()]).decode()
        except (InvalidTag, ValueError) as error:
            raise Unreadable("sealed with another key, or changed") from error

    def opened(self, texts: Sequence[LiveText]) -> list[LiveText]:
        """The texts that can be decrypted."""
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
    """Pseudonym of a user: equal names have equal pseudonyms."""
    return hashlib.sha256(b"tiller.person\0" + person.encode()).hexdigest()


def _make(place: Path) -> None:
    """Write a new key file, atomically, for its owner only; of two concurrent processes, the first
    one's key is kept."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=place.parent, prefix=f".{FILE}.")  # readable by its owner only
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
