"""What a caller can get wrong. Apart from the rest so that no import goes in a circle."""


class SteeringError(ValueError):
    """Something that the caller can fix; the message names the culprit and the way out."""

    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param or self.param


class UnknownFeature(SteeringError):
    """No open bundle has this feature."""

    param = "steering.features"

    def __init__(self, message: str, *, feature: str = "") -> None:
        super().__init__(message)
        self.feature = feature
        """Its id."""


class BadStrength(SteeringError):
    """A strength that is not finite, or more than the policy allows."""

    param = "steering.features"


class BadBundle(SteeringError):
    """A bundle or an SAE on disk that is incomplete, damaged or of the wrong shape."""


class BadChat(SteeringError):
    """Messages that the chat template cannot show without letting a user speak as the assistant."""

    param = "messages"


class UnknownArchitecture(SteeringError):
    """A model whose decoder layers are not found; it is refused rather than served unsteered."""
