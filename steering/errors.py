"""Errors a caller can fix. In a module of their own to avoid import cycles."""


class SteeringError(ValueError):
    """Base class: an error that the caller can fix; the message names the culprit and the way out."""

    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param or self.param


class UnknownFeature(SteeringError):
    """A feature that no open bundle has."""

    param = "steering.features"

    def __init__(self, message: str, *, feature: str = "") -> None:
        super().__init__(message)
        self.feature = feature
        """Id of the feature."""


class BadStrength(SteeringError):
    """A strength that is not finite, or is more than the policy allows."""

    param = "steering.features"


class BadPosition(SteeringError):
    """A position that the prompt does not have."""

    param = "steering.positions"


class BadBundle(SteeringError):
    """A bundle or an SAE on disk that is incomplete, damaged or of the wrong shape."""


class BadChat(SteeringError):
    """Messages that the chat template cannot render without letting a user imitate the assistant."""

    param = "messages"


class UnknownArchitecture(SteeringError):
    """A model whose decoder layers are not found; it is refused rather than served unsteered."""


class ModelUnavailable(SteeringError):
    """A packaged model that cannot be fetched, or whose checkpoint is missing or damaged."""
