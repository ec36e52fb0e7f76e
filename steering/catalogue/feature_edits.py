"""What people say of a feature: its label, a note, a star. Pure values; knows nothing of bundles, tensors or stores.

It is kept beside the bundles, by the feature's number, and laid over what a bundle says. So no update and no
labeller touches it, and taking it back shows what the bundle says by then.
"""

from pydantic import BaseModel, ConfigDict


class FeatureEdit(BaseModel):
    """One feature's, as it was said last. What is None is as in the bundle."""

    model_config = ConfigDict(frozen=True)

    label: str | None = None
    note: str | None = None
    starred: bool = False
    by: str | None = None
    """Who, if they said."""
    at: int = 0
    """When: seconds since 1970."""
    before: "OriginalFields | None" = None
    """What it is laid over, where it is."""

    @property
    def empty(self) -> bool:
        """Whether it says nothing any more."""
        return self.label is None and self.note is None and not self.starred


class OriginalFields(BaseModel):
    """What a bundle says of the same."""

    model_config = ConfigDict(frozen=True)

    label: str
    label_source: str
    stale: bool
    note: str
