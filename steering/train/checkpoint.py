"""Checkpoints: save and load the state from which a training run resumes."""

from pathlib import Path
from typing import Any

import torch

from steering.errors import SteeringError
from steering.files import atomic_draft


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically; also after a loss of power, the last complete file remains."""
    with atomic_draft(path, sync=True) as draft:
        torch.save(state, draft)


def load(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load what `save` wrote. Raises SteeringError if the file is damaged."""
    try:
        return torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # torch raises many classes for a damaged file
        raise SteeringError(f"the checkpoint {str(path)!r} is damaged: {error}; delete it to start again") from error
