"""Store interface: durable state of the server."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from server.store.models import Key, LiveText, Record, Restored, Share, StoredVote, UserData
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector


class Conflict(Exception):
    """Version conflict: the record has changed since the version that the write was based on."""


class AlreadyExists(Conflict):
    """A record to be written exists with different content; `names` lists all of them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{', '.join(names)}: exists already with different content")
        self.names = tuple(names)


class BadStore(ValueError):
    """The store cannot be opened; the message names the cause and the way out."""


class Unavailable(BadStore):
    """The store is temporarily unavailable. A write that raises this may have been done."""


def edits_setting(bundle: str) -> str:
    """Setting that changes with every edit of a bundle's features."""
    return f"edits:{bundle}"


async def store_error(store: "Store", *, patience: float = 1.0) -> str | None:
    """Why the store is unavailable, after at most `patience` seconds; None if it is available."""
    try:
        await asyncio.wait_for(store.check(), patience)
    except TimeoutError:
        return f"the store has not answered within {patience:g} s"
    except BadStore as error:
        return str(error)
    return None


class Store(Protocol):
    """Durable state. Every write is atomic: after a crash it is complete or absent."""

    name: str

    async def presets(self) -> list[Preset]:
        """All saved presets, by name."""
        ...

    async def preset(self, preset_id: str, tenant: str = "") -> Preset | None:
        """One saved preset of a tenant."""
        ...

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace; returns it with its new version and time. Raises Conflict if
        `based_on` is not the stored version."""
        ...

    async def delete_preset(self, preset_id: str, tenant: str = "", *, seen: Preset | None = None) -> bool:
        """Delete a preset; whether it existed."""
        ...

    async def setting(self, key: str) -> str | None:
        """A setting."""
        ...

    async def first_setting(self, key: str, value: str) -> str:
        """Set a setting unless it exists; returns the stored value."""
        ...

    async def set_setting(self, key: str, value: str) -> None:
        """Set a setting."""
        ...

    async def changed(self, seconds: float) -> None:
        """Wait for a change of a setting or an edit, up to a timeout; a store without notifications
        waits for the timeout."""
        ...

    async def consent(self, user: str) -> bool:
        """Whether a user consents to training on their conversations; False by default."""
        ...

    async def set_consent(self, user: str, agreed: bool) -> None:
        """Set a user's consent; withdrawing it deletes their texts at once."""
        ...

    async def keep_text(self, user: str, messages: str, *, most: int, seconds: float) -> bool:
        """Keep a conversation of a consenting user: the last `most` of each, for at most `seconds`, no duplicates.

        Returns whether it was kept.
        """
        ...

    async def live_texts(self, user: str | None = None) -> list[LiveText]:
        """All texts, or one user's, that have not expired, oldest first."""
        ...

    async def consented_texts(self) -> int:
        """Number of all users' texts that have not expired."""
        ...

    async def forget_texts(self, user: str) -> int:
        """Delete a user's texts; returns how many."""
        ...

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Add the votes of one feedback; the last `most` votes of each user and model are kept."""
        ...

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """A user's votes, oldest first."""
        ...

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Delete the votes of the last feedback, or all; returns how many."""
        ...

    async def feature_edits(self, bundle: str) -> dict[int, FeatureEdit]:
        """Edits of a bundle's features, by number."""
        ...

    async def edit_feature(
        self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None
    ) -> FeatureEdit:
        """Edit a feature's `label`, `note`, `starred`; None removes a label or note.

        The same write changes `edits_setting(bundle)`, which notifies other servers; so does
        `restore`.
        """
        ...

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, by name."""
        ...

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One vector of this user."""
        ...

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Save a vector. Raises Conflict if the name exists and `replace` is not set, or if there
        are `most` already."""
        ...

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Delete a vector; whether it existed."""
        ...

    async def user_data(self, user: str, model: str) -> UserData:
        """All presets of a model, and a user's votes and vectors; edits of features by this user or
        by an anonymous one."""
        ...

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write imported data, all or nothing; returns the result for each `preset:<id>`,
        `feature:<number>`, `vector:<name>` and `votes`.

        Raises AlreadyExists for records with different content, unless they are to be replaced, and
        Conflict for more than `vectors` vectors. Missing votes are added; the last `votes` are
        kept.
        """
        ...

    async def erase(self, person: str, tenant: str, owner: str | None) -> dict[str, int]:
        """Delete all data of a user, and of that user's own users (`person/…`); returns the counts by kind.

        With an `owner`, also the owner's presets and shares; edits of features stay, without the
        name. Deleted data is removed from disk as well.
        """
        ...

    async def add_share(self, share: Share, *, most: int) -> None:
        """Save a share, and delete expired ones. Raises Conflict if there are `most` already."""
        ...

    async def share(self, share_id: str) -> Share | None:
        """A share that has not expired."""
        ...

    async def delete_share(self, share_id: str) -> bool:
        """Delete a share; whether it existed."""
        ...

    async def keys(self) -> list[Key]:
        """All keys, oldest first."""
        ...

    async def add_key(self, key: Key) -> None:
        """Add a key."""
        ...

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key; whether it existed."""
        ...

    async def records(self) -> list[Record]:
        """A snapshot of all records."""
        ...

    async def put_records(self, records: Sequence[Record], *, replace: bool) -> None:
        """Replace the store's content by these records, all or nothing. Raises Conflict if it is
        not empty and `replace` is not set."""
        ...

    async def check(self) -> None:
        """Raises Unavailable if the store is temporarily unavailable, and BadStore for a permanent error."""
        ...

    async def close(self) -> None:
        """Close files and connections."""
        ...
