"""SAE formats: read published SAEs of twelve layouts and convert them to JumpReLU SAEs.

Every layout is a `Format`: a test for its files, and a reader that turns its tensors into a `RawSae`. Any activation
function can be converted that keeps or drops a pre-activation by its size; `steering/formats/fold.py` does the
conversion. Where activations depend on something else, or where the input is not the residual stream, only the
directions are read: they can still be added to the stream.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from steering.errors import BadBundle, SteeringError
from steering.formats.base import ImportedSae
from steering.formats.dictionary_learning import DICTIONARY_LEARNING
from steering.formats.gemma_scope import GEMMA_SCOPE_1, GEMMA_SCOPE_2
from steering.formats.linear_layers import GOODFIRE, TWO_LINEAR_LAYERS
from steering.formats.llama_scope import LLAMA_SCOPE, LLAMA_SCOPE_R1, LLAMASCOPIUM
from steering.formats.openai import OPENAI
from steering.formats.qwen_scope import QWEN_SCOPE
from steering.formats.saelens import SAELENS
from steering.formats.sparsify import SPARSIFY
from steering.formats.weight_files import WeightFiles
from steering.sae import PARTS, SAE

T = TypeVar("T")
log = logging.getLogger(__name__)
FORMATS = (
    SAELENS,
    GEMMA_SCOPE_1,
    GEMMA_SCOPE_2,
    DICTIONARY_LEARNING,
    SPARSIFY,
    OPENAI,
    GOODFIRE,
    LLAMA_SCOPE,
    LLAMA_SCOPE_R1,
    LLAMASCOPIUM,
    QWEN_SCOPE,
    TWO_LINEAR_LAYERS,
)
"""Tried in this order: layouts identified by a configuration file come before those identified by their tensors alone.
"""


def read_sae(place: Path, *, hook: str | None = None, k: int | None = None) -> ImportedSae:
    """Read an SAE of any known layout from a folder or a file.

    `hook` and `k` are used in place of what the files state. Raises BadBundle with what was expected.
    """
    files = WeightFiles(place)
    for known in FORMATS:
        if _call_format(known.recognised, files, known.name):
            found = _call_format(known.read, files, known.name)
            _check(found.sae, files.weights.name)
            if hook and found.hook and hook != found.hook:
                log.warning("the files of %s state the hook point %s; %s is used, as asked", place, found.hook, hook)
            return replace(found, hook=hook or found.hook, k=_top_k_of(found, k, files.weights.name))
    raise BadBundle(
        f"{files.weights.name} is of no known layout: it holds {', '.join(sorted(files.tensors)[:12])}. "
        f"Known are {', '.join(f.name for f in FORMATS)}"
    )


def _call_format(read: Callable[[WeightFiles], T], files: WeightFiles, name: str) -> T:
    """Call a format's function; any error other than SteeringError is an error in the files."""
    try:
        return read(files)
    except SteeringError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BadBundle(f"{str(files.place)!r} is not as {name} writes it: {error!r}") from error


def _top_k_of(found: ImportedSae, k: int | None, name: str) -> int | None:
    """Return the k of a TopK: the argument, else that of its files."""
    if found.k == 0 and not k:
        raise BadBundle(f"{name} is a TopK, and its configuration does not say how many it keeps; give --k")
    if found.k is not None and (k or found.k) > found.sae.d_sae:
        raise BadBundle(f"{name} has {found.sae.d_sae} features; a token cannot keep {k or found.k} of them (k)")
    return found.k if found.k is None else k or found.k


def _check(sae: SAE, name: str) -> None:
    m, d = sae.W_dec.shape
    for part, shape in {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,), "threshold": (m,)}.items():
        if tuple(getattr(sae, part).shape) != shape:
            raise BadBundle(f"{part} of {name} must be {list(shape)}, not {list(getattr(sae, part).shape)}")
    for part in PARTS if sae.reads else ("W_dec",):
        if not torch.isfinite(getattr(sae, part)).all():
            raise BadBundle(f"{part} of {name} holds NaN or infinity")
