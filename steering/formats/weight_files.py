"""Weight files of a folder: safetensors, npz, pt and JSON, each opened at most once and without running code."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steering.errors import BadBundle

Tensors = dict[str, Tensor]
Config = dict[str, Any]


class WeightFiles:
    """Files of a folder, or one file, opened at most once."""

    def __init__(self, place: Path) -> None:
        if not place.exists():
            raise BadBundle(f"there is nothing at {str(place)!r}")
        self.place = place
        self.folder = place if place.is_dir() else place.parent
        self._held: dict[str, Any] | None = None

    def json(self, name: str) -> Config | None:
        """Return a JSON file beside the weights; None if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BadBundle(f"{str(path)!r} is not readable as JSON: {error}") from error
        if not isinstance(found, dict):
            raise BadBundle(f"{str(path)!r} must hold an object, not {type(found).__name__}")
        return found

    @property
    def weights(self) -> Path:
        """Path of the weights: the given file, or the file of a known layout."""
        if self.place.is_file():
            return self.place
        for pattern in WEIGHT_FILES:
            if found := sorted(self.folder.glob(pattern)):
                if len(found) > 1:
                    names = ", ".join(p.name for p in found[:4])
                    raise BadBundle(f"{str(self.folder)!r} holds {len(found)} files of weights ({names}…); name one")
                return found[0]
        raise BadBundle(f"no weights in {str(self.folder)!r}; looked for {', '.join(WEIGHT_FILES)}")

    @property
    def tensors(self) -> Tensors:
        """Tensors of the file; numbers in a `.pt` become tensors without dimensions."""
        return {n: torch.as_tensor(v) for n, v in self.all_tensors.items() if isinstance(v, Tensor | int | float)}

    @property
    def all_tensors(self) -> dict[str, Any]:
        """All values of the file, strings included."""
        if self._held is None:
            self._held = read_weight_file(self.weights)
        return self._held

    def has(self, *names: str) -> bool:
        """Whether all these tensors exist."""
        return all(n in self.tensors for n in names)

    def take(self, *names: str) -> list[Tensor]:
        """Return the tensors of these names. Raises BadBundle for missing ones, and for integers in place of weights."""
        if missing := [n for n in names if n not in self.tensors]:
            raise BadBundle(
                f"{self.weights.name} lacks {', '.join(missing)}; it holds {', '.join(sorted(self.tensors)[:12])}"
            )
        for n in names:
            if self.tensors[n].ndim and not self.tensors[n].is_floating_point():
                raise BadBundle(
                    f"{n} of {self.weights.name} is of {self.tensors[n].dtype}: quantised weights are not read without their "
                    "scales; give the file in floating point"
                )
        return [self.tensors[n].float() for n in names]

    def number(self, pattern: str) -> int | None:
        """Return a number in the path, such as the layer."""
        found = re.findall(pattern, self.weights.absolute().as_posix())
        return int(found[-1]) if found else None


WEIGHT_FILES = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.npz",
    "params.safetensors",
    "ae.pt",
    "checkpoints/final.safetensors",
    "*.sae.pt",
    "*.pth",
    "*.pt",
)


def read_weight_file(path: Path) -> dict[str, Any]:
    """Return all values of a weight file. Raises BadBundle if it is damaged, or could run code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {n: torch.from_numpy(arrays[n]) for n in arrays.files}
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadBundle(
            f"{str(path)!r} holds more than tensors and is not opened, because it could run code"
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise BadBundle(f"{str(path)!r} is damaged or cut short: {error}") from error
    if not isinstance(held, dict):
        raise BadBundle(f"{str(path)!r} must hold a dictionary of tensors, not {type(held).__name__}")
    if "ae" in held and isinstance(
        held["ae"], dict
    ):  # dictionary_learning's backup of a running training has the same file name
        raise BadBundle(
            f"{path.name} is the backup of an unfinished run (step {held.get('step', '?')}), whose scale "
            "is not folded in; give the file that the finished run wrote"
        )
    return held
