"""Manual edits of a feature: label, note and star.

They are stored outside the bundles, by feature number, and applied on top of the bundle. So no update and no labeller
changes them, and removing an edit shows what the bundle has by then.
"""

from pydantic import BaseModel, ConfigDict


class FeatureEdit(BaseModel):
    """Latest edit of one feature. A field that is None is as in the bundle."""

    model_config = ConfigDict(frozen=True)

    label: str | None = None
    note: str | None = None
    starred: bool = False
    by: str | None = None
    """Name of the editor, if given."""
    at: int = 0
    """Time in seconds since 1970."""
    before: "OriginalFields | None" = None
    """The bundle's fields under the edit, where it is applied."""

    @property
    def empty(self) -> bool:
        """Whether the edit changes nothing."""
        return self.label is None and self.note is None and not self.starred


class OriginalFields(BaseModel):
    """The bundle's values of the fields that an edit can change."""

    model_config = ConfigDict(frozen=True)

    label: str
    label_source: str
    stale: bool
    note: str
