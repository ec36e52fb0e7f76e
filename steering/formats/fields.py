"""Fields of published configurations: read by every spelling, compared where they are stated twice, refused by name.

A field that is absent and one that is null are the same. What is known not to change the function of an SAE is listed
by each layout; of the rest, names that speak of the function are refused, and all others are noted.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from steering.errors import BadBundle
from steering.formats.weight_files import WeightFiles

T = TypeVar("T")
log = logging.getLogger(__name__)

TRAINING = re.compile(
    r"init|loss|(^|_)lrs?(_|$)|grad|penalty|coef|alpha|beta|warm|decay|adam|optim|step|tokens|batch|buffer|wandb"
    r"|log_(to|every|act|opt|freq)|logging|eval|seed|dataset|_path$|_dir$|device|dtype|version|dead|aux|ghost|sampl"
    r"|checkpoint|context|ctx|autocast|compil|window|epoch|train|shuffle|cache|streaming|_bos|noise|bandwidth|anneal|target"
    r"|sparsity|frequency|frac|metric|variance|(model|lm|run|wandb|sae|exp|base|release)_name|^(name|model|base_model)$|url"
    r"|license|^note|neuronpedia|seqpos|^(lp|p|l0|l1|lp_norm|width)$|^(d|n|num)_\w+$|_dim$|_size$|_sizes$|_weights$"
)
"""Names of fields that say how an SAE was trained, measured or named, and not what it computes."""
FUNCTION = re.compile(
    r"(^|_)(act|activation)(_(fn|func|function|type|kwargs|fn_str|fn_kwargs))?$|nonlinear|normali[sz]|(^|_)norm(_|$)"
    r"|scal(e|ing)|whiten|cent(er|re)|threshold|bias|b_dec|b_enc|(^|_)(gate|gated|glu)(_|$)|top_?k|(^|_)k$|skip|transcod"
    r"|(^|_)tied|subtract|temperature|lookup|head_index|rotat|quant|clamp|residual_|affine|hook_point|hook_name|reshape"
)
"""Names of fields that speak of what an SAE computes, or where."""


@dataclass(frozen=True)
class Fields:
    """The fields of one configuration file, or of an object in it."""

    values: Mapping[str, Any]
    file: str
    """Name of the file, as errors give it."""

    @staticmethod
    def of(files: WeightFiles, name: str) -> "Fields":
        """Return the fields of a JSON file beside the weights; none if there is no such file."""
        return Fields(files.json(name) or {}, Path(name).name)

    def inner(self, name: str) -> "Fields":
        """Return the fields of an object in this one; none if it is absent. Raises BadBundle if it is no object."""
        held = self.value(name)
        if held is not None and not isinstance(held, dict):
            raise BadBundle(f"{name} in {self.file} must be an object, not {held!r}")
        return Fields(held or {}, f"{self.file} ({name})")

    def value(self, *spellings: str) -> Any:  # noqa: ANN401 - JSON
        """Return the value of a field with several spellings. Raises BadBundle if two of them differ."""
        return agreed(*((f"{s} in {self.file}", self.values.get(s)) for s in spellings))

    def text(self, *spellings: str, default: str | None = None) -> str | None:
        """Return a string. Raises BadBundle for anything else."""
        found = self.value(*spellings)
        if found is not None and not isinstance(found, str):
            raise BadBundle(f"{spellings[0]} in {self.file} must be a string, not {found!r}")
        return found or default

    def flag(self, *spellings: str, default: bool) -> bool:
        """Return true or false. Raises BadBundle for anything else."""
        found = self.value(*spellings)
        if found is not None and found not in (True, False):
            raise BadBundle(f"{spellings[0]} in {self.file} must be true or false, not {found!r}")
        return default if found is None else bool(found)

    def number(self, *spellings: str) -> float | None:
        """Return a finite number. Raises BadBundle for anything else."""
        found = self.value(*spellings)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise BadBundle(f"{spellings[0]} in {self.file} must be a number, not {found!r}")
        return float(found)

    def k(self, *spellings: str) -> int | None:
        """Return how many features a token keeps, rounded. Raises BadBundle if it is not positive."""
        found = self.number(*(spellings or ("k",)))
        if found is not None and found <= 0:
            raise BadBundle(f"{(spellings or ('k',))[0]} in {self.file} must be positive, not {found:g}")
        return None if found is None else max(1, round(found))

    def choice(self, name: str, choices: Mapping[str, T], default: str, *others: str) -> T:
        """Return what a word stands for, whatever its case. Raises BadBundle that lists the known words."""
        word = self.text(name, *others) or default
        if word.lower() not in choices:
            spelling = next((s for s in (name, *others) if self.values.get(s)), name)
            raise BadBundle(
                f"{spelling} in {self.file} is {word!r}, which is not known; known are {', '.join(choices)}"
            )
        return choices[word.lower()]

    def refuse(self, *names: str, because: str) -> None:
        """Raise BadBundle if one of these fields is set."""
        for name in names:
            if is_set(self.values.get(name)):
                raise BadBundle(f"{name} in {self.file} is {self.values[name]!r}: {because}")

    def check_size(self, name: str, size: int, what: str) -> None:
        """Raise BadBundle if a stated size is not that of the tensors."""
        stated = self.number(name)
        if stated and int(stated) != size:
            raise BadBundle(
                f"{name} in {self.file} is {int(stated)}, but {what} are {size}: the files are not of the same SAE"
            )

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Refuse the fields not in `known` whose names speak of the function; note the rest in the log.

        Raises BadBundle that names the field and the file.
        """
        for name, value in self.values.items():
            factor_of_one = "scal" in name.lower() and value == 1 and not isinstance(value, bool)
            if name in known or not is_set(value) or factor_of_one or TRAINING.search(name.lower()):
                continue
            if FUNCTION.search(name.lower()):
                raise BadBundle(
                    f"{name} in {self.file} is {value!r}, which may change what the SAE computes and is not supported; "
                    "if it does not, remove it from the file"
                )
            log.warning("%s in %s is not known and was ignored", name, self.file)


def is_set(value: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether a value differs from what leaves a field without effect: null, false, 0, "", "none", [] and {}."""
    return bool(value) and str(value).lower() != "none"


def agreed(*stated: tuple[str, T | None]) -> T | None:
    """Return the value that all places state, null aside; each is given as `(name of the place, value)`.

    Raises BadBundle that names two places which contradict each other.
    """
    known = [(place, value) for place, value in stated if value is not None]
    for place, value in known[1:]:
        if value != known[0][1]:
            raise BadBundle(
                f"{known[0][0]} is {known[0][1]!r}, but {place} is {value!r}; correct the one that is wrong"
            )
    return known[0][1] if known else None


COUNTERS = re.compile(r"stats|count|freq|fired|usage|dead|mean_square|last_nonzero|num_|n_|steps?$|ema|tokens|sparsity")
"""Names of tensors that count how often features fired."""


def refuse_unknown_tensors(files: WeightFiles, used: Collection[str], *, prefixes: tuple[str, ...] = ()) -> None:
    """Raise BadBundle that names the tensors which a layout does not use, but for counters and zero biases."""
    for name, tensor in files.tensors.items():
        if name in used or name.startswith(prefixes or ("\0",)) or COUNTERS.search(name):
            continue
        if name.lower().startswith("b_") and not tensor.any():
            continue
        raise BadBundle(
            f"{files.weights.name} holds {name} {list(tensor.shape)}, which this layout does not use; its effect would be "
            "lost. If it has none, save the file without it"
        )
