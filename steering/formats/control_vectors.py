"""Control vectors as files: llama.cpp's GGUF, which repeng writes as well, and safetensors.

A control vector holds one direction per layer, float32 `[d_in]`, under the name `direction.<layer>`. llama.cpp adds it to
the stream after block `<layer>`, counted from 0, at every token and times the scale on its command line: hook point
`layers.<layer>` here, without a shift. It has no direction for block 0. Pickled files are not opened.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steering.errors import SteeringError
from steering.files import atomic_draft

FileFormat = Literal["gguf", "safetensors"]
ARCHITECTURE = "controlvector"
LARGEST = 64 << 20
"""Bytes of the largest file that is read: 126 directions of width 16,384, which a model of 405 B has, take 8 MB."""
_NAME = re.compile(r"direction\.(\d{1,5})")
_PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})


@dataclass(frozen=True, eq=False)
class ControlVector:
    """One layer's direction of a file, as long as it is added at llama.cpp's scale 1.0."""

    push: Float[Tensor, " d_in"]
    layer: int
    layers: tuple[int, ...]
    """All layers for which the file has a direction; empty where it does not say."""
    model_hint: str = ""
    """Architecture that the file names, such as `llama`."""


def read_control_vector(path: Path, *, layer: int, width: int, chosen: bool = False) -> ControlVector:
    """Return the direction of a layer from a file. Raises SteeringError that names what is wrong, and the way out.

    `chosen` says that the user asked for this layer: then a single tensor that names no layer is taken for it.
    """
    format_, size = format_of(path), path.stat().st_size if path.is_file() else -1
    if size < 0:
        raise SteeringError(f"there is no file {str(path)!r}")
    if size > LARGEST:
        raise SteeringError(
            f"{path.name} has {size >> 20} MB; a control vector has at most {LARGEST >> 20} MB, so this is another kind of file"
        )
    try:
        found, hint = (_read_gguf if format_ == "gguf" else _read_safetensors)(path)
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError, SafetensorError) as error:
        if isinstance(error, SteeringError):
            raise
        raise SteeringError(
            f"{path.name} is damaged or cut short ({str(error) or type(error).__name__}); write or fetch it again"
        ) from error
    rows = found.get(layer, found.get(None) if chosen else None)
    if rows is None:
        raise SteeringError(_missing(path, layer, found))
    _check(rows, width, f"the direction for layer {layer} in {path.name}")
    layers = tuple(sorted(n for n in found if n is not None))
    return ControlVector(torch.from_numpy(rows.astype(np.float32)), layer, layers, hint)


def write_control_vector(
    path: Path, push: Float[Tensor, " d_in"], *, layer: int, model_hint: str, format_: FileFormat
) -> None:
    """Write one layer's direction, as long as it is pushed at scale 1.0; the file appears complete or not at all."""
    if format_ == "gguf" and layer == 0:
        raise SteeringError("llama.cpp adds no control vector after block 0; export it with --format safetensors")
    name, rows = f"direction.{layer}", push.detach().cpu().float().contiguous()
    with atomic_draft(path) as draft:
        if format_ == "safetensors":
            save_file({name: rows}, draft, metadata={"layer": str(layer), "model_hint": model_hint})
            return
        writer = GGUFWriter(draft, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
        writer.add_tensor(name, rows.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def format_of(path: Path) -> FileFormat:
    """Return the format that a suffix names. Raises SteeringError for others, and for pickled files."""
    suffix = path.suffix.lower()
    if suffix in _PICKLED:
        raise SteeringError(
            f"{path.name} is a pickled file, which can run code when it is opened; save the tensor with "
            "safetensors.torch.save_file, or export a GGUF file from repeng"
        )
    if suffix == ".gguf":
        return "gguf"
    if suffix == ".safetensors":
        return "safetensors"
    raise SteeringError(f"{path.name} ends neither with .gguf nor with .safetensors; name the format by the suffix")


class _Reader(GGUFReader):
    """A reader that stops where the file ends: gguf's own goes on with empty values, for as long as a count says."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - gguf's own
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes and should have {end}")
        return super()._get(offset, dtype, count, *args, **kwargs)


def _read_gguf(path: Path) -> tuple[Mapping[int | None, np.ndarray], str]:
    file = _Reader(path)
    kind = _text(file, "general.architecture")
    if kind != ARCHITECTURE:
        raise SteeringError(f"{path.name} is a GGUF file of {kind or 'an unnamed kind'!r}, not a control vector")
    found = dict[int | None, np.ndarray]()
    for tensor in file.tensors:
        name = _NAME.fullmatch(tensor.name)
        if name is None:
            raise SteeringError(f"{path.name} holds {tensor.name!r}, but a control vector has only direction.<layer>")
        if tensor.tensor_type is not GGMLQuantizationType.F32:
            raise SteeringError(
                f"{tensor.name} in {path.name} is of {tensor.tensor_type.name}; llama.cpp's control vectors are F32"
            )
        found[int(name[1])] = np.array(tensor.data)
    return found, _text(file, f"{ARCHITECTURE}.model_hint")


def _text(file: GGUFReader, key: str) -> str:
    field = file.get_field(key)
    value = field.contents() if field else ""
    return value if isinstance(value, str) else ""


def _read_safetensors(path: Path) -> tuple[Mapping[int | None, np.ndarray], str]:
    found = dict[int | None, np.ndarray]()
    with safe_open(path, framework="pt") as file:
        about, names = file.metadata() or {}, list(file.keys())
        said = about.get("layer", "")
        for name in names:
            if match := _NAME.fullmatch(name):
                layer = int(match[1])
            elif len(names) == 1:
                layer = int(said) if said.isdecimal() else None
            else:
                raise SteeringError(
                    f"{path.name} holds {name!r} beside other tensors; name each one direction.<layer>, or keep one"
                )
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point():
                raise SteeringError(f"{name} in {path.name} is of {tensor.dtype}; give it in floating point")
            found[layer] = tensor.float().numpy()
    return found, about.get("model_hint", "")


def _missing(path: Path, layer: int, found: Mapping[int | None, np.ndarray]) -> str:
    if None in found:
        return f"{path.name} does not say for which layer it is; say it with --layer, such as --layer {layer}"
    there = ", ".join(str(n) for n in sorted(n for n in found if n is not None)[:40]) or "none"
    return f"{path.name} has no direction for layer {layer}, which is steered here; it has {there}: choose one with --layer"


def _check(rows: np.ndarray, width: int, what: str) -> None:
    if rows.shape != (width,):
        shape = " × ".join(map(str, rows.shape)) or "a single number"
        raise SteeringError(
            f"{what} has the shape {shape}; this model's stream has a width of {width}: it is another model's"
        )
    if not np.isfinite(rows).all():
        raise SteeringError(f"{what} holds NaN or infinity; write it again from finite numbers")
    if not np.linalg.norm(rows.astype(np.float64)) > 1e-12:
        raise SteeringError(f"{what} is zero, so it points nowhere; choose another layer, or write it again")
