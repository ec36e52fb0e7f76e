"""The seam for what outlives a restart. Knows presets and settings as values; nothing of HTTP or tensors."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from server.store.models import Key, LiveText, Record, Restored, Share, StoredVote, UserData
from steering.catalogue.feature_edits import FeatureEdit
from steering.spec import Preset, Vector


class Conflict(Exception):
    """Somebody else changed it first: the version on which this change was based is gone."""


class AlreadyExists(Conflict):
    """What is to be written is there already and says something else; `names` are those."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{', '.join(names)}: there already, and not the same")
        self.names = tuple(names)


class BadStore(ValueError):
    """The store cannot be opened; the message says why and what to do."""


class Unavailable(BadStore):
    """It can neither be read nor written now; it may be back in a moment. A write that raises this may have been done."""


def edits_setting(bundle: str) -> str:
    """The setting that is another one after every change of what people say of a bundle's features."""
    return f"edits:{bundle}"


async def store_error(store: "Store", *, patience: float = 1.0) -> str | None:
    """Why a store cannot be used now, so many seconds being given to it; None if it can."""
    try:
        await asyncio.wait_for(store.check(), patience)
    except TimeoutError:
        return f"the store has not answered within {patience:g} s"
    except BadStore as error:
        return str(error)
    return None


class Store(Protocol):
    """Durable state. Every write is atomic: after a crash it is there whole or not at all."""

    name: str

    async def presets(self) -> list[Preset]:
        """All saved presets, in the order of their names."""
        ...

    async def preset(self, preset_id: str, tenant: str = "") -> Preset | None:
        """One saved preset of a tenant."""
        ...

    async def save_preset(self, preset: Preset, *, based_on: int | None = None) -> Preset:
        """Create or replace; returns it with its new version and time. Raises Conflict if `based_on` is not the version held."""
        ...

    async def delete_preset(self, preset_id: str, tenant: str = "") -> bool:
        """Forget a preset; whether there was one."""
        ...

    async def setting(self, key: str) -> str | None:
        """A remembered setting."""
        ...

    async def first_setting(self, key: str, value: str) -> str:
        """Remember a setting unless there is one; what is remembered then."""
        ...

    async def set_setting(self, key: str, value: str) -> None:
        """Remember a setting."""
        ...

    async def changed(self, seconds: float) -> None:
        """Wait until somebody may have changed a setting or an edit, so long at most; where that cannot be heard, so long."""
        ...

    async def consent(self, user: str) -> bool:
        """Whether this user's conversations may be learnt from; nobody's may until they say so."""
        ...

    async def set_consent(self, user: str, agreed: bool) -> None:
        """Remember what they say; with a no, what they gave before is deleted at once."""
        ...

    async def keep_text(self, user: str, messages: str, *, most: int, seconds: float) -> bool:
        """Keep a conversation of a user who agreed, the last `most` of each, none for longer than `seconds`, none twice.

        Whether it was kept.
        """
        ...

    async def live_texts(self, user: str | None = None) -> list[LiveText]:
        """All that is kept, or what is kept of one user, and has not expired, oldest first."""
        ...

    async def consented_texts(self) -> int:
        """How many conversations are kept of all users, and have not expired."""
        ...

    async def forget_texts(self, user: str) -> int:
        """Delete what a user gave; how much there was."""
        ...

    async def add_votes(self, user: str, model: str, kind: str, votes: Sequence[StoredVote], *, most: int) -> None:
        """Remember what was said at once; of each user and model the last `most` votes are kept."""
        ...

    async def votes(self, user: str, model: str) -> list[StoredVote]:
        """What a user has said, oldest first."""
        ...

    async def drop_votes(self, user: str, model: str, *, last: bool) -> int:
        """Forget what was said last, or everything; how many votes that were."""
        ...

    async def feature_edits(self, bundle: str) -> dict[int, FeatureEdit]:
        """What people say of a bundle's features, by number."""
        ...

    async def edit_feature(
        self, bundle: str, number: int, changes: Mapping[str, Any], *, by: str | None
    ) -> FeatureEdit:
        """Change what is said of a feature: `label`, `note`, `starred`; None takes a label or note back.

        The same write changes `edits_setting(bundle)`, by which others see that there is something new; so does `restore`.
        """
        ...

    async def vectors(self, user: str, model: str) -> list[Vector]:
        """A user's vectors for a model, in the order of their names."""
        ...

    async def vector(self, user: str, model: str, name: str) -> Vector | None:
        """One of them; nobody else's."""
        ...

    async def save_vector(self, user: str, model: str, vector: Vector, *, replace: bool, most: int) -> None:
        """Keep a vector. Raises Conflict if there is one of that name and it is not to be replaced, or `most` are kept."""
        ...

    async def delete_vector(self, user: str, model: str, name: str) -> bool:
        """Forget a vector; whether there was one."""
        ...

    async def user_data(self, user: str, model: str) -> UserData:
        """All presets of a model, and what this user has said and made; of features, what they or nobody named has said."""
        ...

    async def restore(
        self, user: str, model: str, kept: UserData, *, replace: bool, votes: int, vectors: int
    ) -> dict[str, Restored]:
        """Write it, all or nothing; what became of `preset:<id>`, `feature:<number>`, `vector:<name>` and `votes`.

        Raises Taken for what is there and says something else, unless it is to be replaced, and Conflict where more than
        `vectors` vectors would be kept. Of votes those are added which are not there; the last `votes` are kept.
        """
        ...

    async def erase(self, person: str, tenant: str, owner: str | None) -> dict[str, int]:
        """Delete all that is kept of a person, and of those who are theirs (`person/…`); how much, by kind.

        With an `owner`, also the presets and shares that are theirs; of what they said of features, only who said it.
        What is deleted is not left on the disk either.
        """
        ...

    async def add_share(self, share: Share, *, most: int) -> None:
        """Keep a share; those that have expired go. Raises Conflict if `most` are kept."""
        ...

    async def share(self, share_id: str) -> Share | None:
        """One that has not expired."""
        ...

    async def delete_share(self, share_id: str) -> bool:
        """Forget a share; whether there was one."""
        ...

    async def keys(self) -> list[Key]:
        """All keys, the oldest first."""
        ...

    async def add_key(self, key: Key) -> None:
        """Keep a key."""
        ...

    async def delete_key(self, key_id: str) -> bool:
        """Forget a key; whether there was one."""
        ...

    async def records(self) -> list[Record]:
        """Everything that is kept, as of one moment."""
        ...

    async def put_records(self, records: Sequence[Record], *, replace: bool) -> None:
        """Have the store hold this and nothing else, all or nothing. Raises Conflict if it is not empty, unless told to replace."""
        ...

    async def check(self) -> None:
        """Raises Unavailable if it cannot be used now, and BadStore if it never can."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
