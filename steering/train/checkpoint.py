"""A run on disk: everything that it needs to go on where it was. Knows files; nothing of what is in them."""

from pathlib import Path
from typing import Any

import torch

from steering.errors import SteeringError
from steering.files import atomic_draft


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; whoever reads sees the last whole one, also after a loss of power."""
    with atomic_draft(path, sync=True) as draft:
        torch.save(state, draft)


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote. Raises SteeringError if it is damaged."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise SteeringError(f"the checkpoint {str(path)!r} is damaged: {error}; delete it to begin anew") from error
