"""Other people's SAEs, read into ours. Knows files and their layouts; nothing of models or hubs.

Every layout is a row of `FORMATS`: how to recognise it, and how its tensors become a `Loose` SAE: any
activation will do that keeps or drops a pre-activation by its size. `fold.py` does the rest. Where something else
decides, or where what is read is not the stream, the directions are read alone: they can still be added to it.
"""

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steering.errors import BadBundle, SteeringError
from steering.fold import Folded, Loose, fold_directions
from steering.sae import NORMALISED, PARTS, SAE, Scaling

T = TypeVar("T")
Tensors = dict[str, Tensor]
Config = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Imported:
    """An SAE that was read, and what its files say of it."""

    folded: Folded
    format: str
    hook: str | None
    """Where it reads, as `layers.N`; None if the files do not say."""
    k: int | None = None
    """Features per token that it was trained to keep, where its threshold must still be set on text."""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sae(self) -> SAE:
        """The SAE in the served form."""
        return self.folded.sae

    @property
    def unit(self) -> Float[Tensor, " d_sae"]:
        """What published activations are multiplied by to be lengths in the stream, beside a token's own scale.

        NaN where that scale is not the stream's, so that nobody can say.
        """
        return self.folded.unit


@dataclass(frozen=True)
class Format:
    """One layout: its name, the file that shows it, and how to read it."""

    name: str
    recognised: Callable[["Files"], bool]
    read: Callable[["Files"], Imported]


class Files:
    """What lies in a folder (or is one file), opened at most once."""

    def __init__(self, place: Path) -> None:
        if not place.exists():
            raise BadBundle(f"there is nothing at {str(place)!r}")
        self.place = place
        self.folder = place if place.is_dir() else place.parent
        self._held: dict[str, Any] | None = None

    def json(self, name: str) -> Config | None:
        """A JSON file beside the weights; None if there is none."""
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
        """The file of weights: the place itself, or the one that a known layout has."""
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
        """All tensors of the file; plain Python values of a `.pt` become tensors of no dimension where they are numbers."""
        return {n: torch.as_tensor(v) for n, v in self.held.items() if isinstance(v, Tensor | int | float)}

    @property
    def held(self) -> dict[str, Any]:
        """All that the file holds, words included."""
        if self._held is None:
            self._held = _open(self.weights)
        return self._held

    def has(self, *names: str) -> bool:
        """Whether all these tensors are there."""
        return all(n in self.tensors for n in names)

    def take(self, *names: str) -> list[Tensor]:
        """The tensors of these names. Raises BadBundle that lists those that are missing."""
        if missing := [n for n in names if n not in self.tensors]:
            raise BadBundle(
                f"{self.weights.name} lacks {', '.join(missing)}; it holds {', '.join(sorted(self.tensors)[:12])}"
            )
        return [self.tensors[n].float() for n in names]

    def number(self, pattern: str) -> int | None:
        """The number that the path names, such as its layer."""
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


def read(place: Path, *, hook: str | None = None, k: int | None = None) -> Imported:
    """Read an SAE of any known layout from a folder or a file.

    `hook` and `k` fill what the files don't say. Raises BadBundle that says what was expected.
    """
    files = Files(place)
    for known in FORMATS:
        if _really(known.recognised, files, known.name):
            found = _really(known.read, files, known.name)
            _check(found.sae, files.weights.name)
            return replace(found, hook=hook or found.hook, k=_kept(found, k, files.weights.name))
    raise BadBundle(
        f"{files.weights.name} is of no known layout: it holds {', '.join(sorted(files.tensors)[:12])}. "
        f"Known are {', '.join(f.name for f in FORMATS)}"
    )


def _really(read: Callable[[Files], T], files: Files, name: str) -> T:
    """What a layout makes of files; whatever else they make it stumble over is theirs."""
    try:
        return read(files)
    except SteeringError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BadBundle(f"{str(files.place)!r} is not as {name} writes it: {error!r}") from error


def _open(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {n: torch.from_numpy(arrays[n]) for n in arrays.files}
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadBundle(f"{str(path)!r} holds more than tensors and is not opened, for it could run code") from error
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise BadBundle(f"{str(path)!r} is damaged or cut short: {error}") from error
    if not isinstance(held, dict):
        raise BadBundle(f"{str(path)!r} must hold a dictionary of tensors, not {type(held).__name__}")
    if "ae" in held and isinstance(held["ae"], dict):  # dictionary_learning's crash backup has the name of the result
        raise BadBundle(
            f"{path.name} is the backup of an unfinished run (step {held.get('step', '?')}), whose scale "
            "is not folded in; give the file that the finished run wrote"
        )
    return held


def _kept(found: Imported, k: int | None, name: str) -> int | None:
    """How many features a TopK keeps: as was asked, else as its files say."""
    if found.k == 0 and not k:
        raise BadBundle(f"{name} is a TopK whose cfg.json does not say how many it keeps; give k")
    return found.k if found.k is None else k or found.k


def _check(sae: SAE, name: str) -> None:
    m, d = sae.W_dec.shape
    for part, shape in {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,), "threshold": (m,)}.items():
        if tuple(getattr(sae, part).shape) != shape:
            raise BadBundle(f"{part} of {name} must be {list(shape)}, not {list(getattr(sae, part).shape)}")
    for part in PARTS if sae.reads else ("W_dec",):
        if not torch.isfinite(getattr(sae, part)).all():
            raise BadBundle(f"{part} of {name} holds NaN or infinity")


def _fold(loose: Loose, name: str) -> Folded:
    """Fold, and say which shapes do not fit together instead of failing in the middle of it."""
    m, d = loose.W_dec.shape if loose.W_dec.ndim == 2 else (0, 0)
    wanted = {"W_enc": (d, m), "b_enc": (m,), "b_dec": (d,)}
    for part, shape in wanted.items():
        if tuple(getattr(loose, part).shape) != shape:
            got = list(getattr(loose, part).shape)
            raise BadBundle(f"{part} of {name} must be {list(shape)} beside a decoder of {m} × {d}, not {got}")
    if isinstance(loose.threshold, Tensor) and loose.threshold.ndim and tuple(loose.threshold.shape) != (m,):
        raise BadBundle(f"the threshold of {name} must be one number or {m}, not {list(loose.threshold.shape)}")
    return loose.fold()


# SAELens, version 6 and later


def _is_saelens(files: Files) -> bool:
    config = (
        files.json("cfg.json") or {}
    )  # before version 6 everything lay at the top, and `standard` went without saying
    return files.weights.name == "sae_weights.safetensors" and ("architecture" in config or "hook_name" in config)


def _saelens(files: Files) -> Imported:
    config = files.json("cfg.json") or {}
    kind = config.get("architecture", "standard")
    if kind not in READABLE and kind not in DIRECTIONS_ONLY:
        raise BadBundle(
            f"architecture {kind!r} is not known; known are {', '.join(READABLE)}, and, as directions only, "
            f"{', '.join(DIRECTIONS_ONLY)}"
        )
    about = config.get("metadata") or {"hook_name": config.get("hook_name")}
    place = about.get("hook_name_out") if kind.endswith("transcoder") else _lens_place(about)
    if kind in DIRECTIONS_ONLY or _mlp_out(place):
        return _lens_directions(files, config, about, place)
    scaling = _lens_scaling(config)
    loose = READABLE[kind](files, config, _lens_factor(files))
    k = int(config["k"]) if kind == "topk" and "k" in config else None
    folded = _fold(replace(loose, scaling=scaling), files.weights.name)
    return Imported(folded, "saelens", _lens_hook(about), k, about)


def _lens_directions(files: Files, config: Config, about: Config, place: str | None) -> Imported:
    """Only where features write is taken: something else than their size at the stream decides whether they do."""
    kind, (W_dec,) = config.get("architecture", "standard"), files.take("W_dec")
    factor = _lens_factor(files)
    if config.get("normalize_activations") == "constant_scalar_rescale":
        factor = float(config["activation_normalization_factor"])
    elif not kind.endswith("transcoder") and _lens_scaling(config) != "none":
        factor = math.nan  # its output is multiplied by each token's scale; only a transcoder's is not
    by_length = "topk" in kind and bool(config.get("rescale_acts_by_decoder_norm", True))
    layer = _mlp_out(place)
    hook = f"layers.{layer}" if layer else _lens_hook({"hook_name": place})
    if W_dec.ndim != 2:
        raise BadBundle(f"W_dec of {files.weights.name} must be [d_sae, width], not {list(W_dec.shape)}")
    return Imported(fold_directions(W_dec, scale_out=factor, by_length=by_length), "saelens", hook, about=about)


def _lens_scaling(config: Config) -> Scaling:
    if (normal := config.get("normalize_activations")) not in NORMALISED:
        raise BadBundle(f"normalize_activations {normal!r} is not known, or not folded in yet as a finished run does")
    return NORMALISED[normal]


def _lens_factor(files: Files) -> float:
    return float((files.json("activation_scaler.json") or {}).get("scaling_factor") or 1.0)


def _mlp_out(place: str | None) -> str | None:
    """The block whose MLP's output this is: it is summed into the stream after that block, so to push the one is to push the other."""
    found = re.fullmatch(r"blocks\.(\d+)\.(?:hook_mlp_out|mlp\.hook_out)", place or "")
    return found[1] if found else None


def _plain(files: Files, config: Config, scale: float) -> Loose:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    (threshold,) = files.take("threshold") if config.get("architecture") == "jumprelu" else (torch.zeros(()),)
    return Loose(W_enc, b_enc, W_dec, b_dec, threshold, bool(config.get("apply_b_dec_to_input", True)), scale, scale)


def _gated(files: Files, config: Config, scale: float) -> Loose:
    """A gate of the magnitude's own direction is a threshold: xW > −b_gate ⟺ xWeʳ + b_mag > b_mag − eʳ·b_gate."""
    W_enc, gate, magnitude, r, W_dec, b_dec = files.take("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec")
    return Loose(
        W_enc * r.exp(),
        magnitude,
        W_dec,
        b_dec,
        magnitude - r.exp() * gate,
        bool(config.get("apply_b_dec_to_input", True)),
        scale,
        scale,
    )


def _topk(files: Files, config: Config, scale: float) -> Loose:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    threshold = files.tensors.get("topk_threshold", torch.zeros(()))
    subtracts = bool(config.get("apply_b_dec_to_input", True))
    by_length = bool(config.get("rescale_acts_by_decoder_norm", True))
    return Loose(W_enc, b_enc, W_dec, b_dec, threshold, subtracts, scale, scale, by_length)


READABLE: dict[str, Callable[[Files, Config, float], Loose]] = {
    "standard": _plain,
    "jumprelu": _plain,
    "gated": _gated,
    "topk": _topk,
    "batchtopk": _topk,
    "matryoshka_batchtopk": _topk,
}
DIRECTIONS_ONLY = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "abstopk",
    "matching_pursuit",
    "temporal",
)
"""They read another place than they write, keep what is negative, choose one after the other, or look at earlier tokens."""


def _lens_place(about: Config) -> str | None:
    return about.get("hook_name") or about.get("hf_hook_name")


def _lens_hook(about: Config) -> str | None:
    name = str(_lens_place(about) or "")
    if not name:
        return None
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", name):
        layer = int(found[1]) - (found[2] == "pre")
        if layer >= 0:
            return f"layers.{layer}"
    elif found := re.fullmatch(r"(?:(?:model|transformer|gpt_neox)\.)?(?:layers|h)\.(\d+)", name):
        return f"layers.{found[1]}"
    raise BadBundle(f"its place is {name!r}, which is not the stream after a block; only that can be steered")


# Gemma Scope


def _is_gemma_scope_1(files: Files) -> bool:
    return files.weights.suffix == ".npz" and {"w_dec", "threshold"} <= {n.lower() for n in files.tensors}


def _gemma_scope_1(files: Files) -> Imported:
    named = {n.lower(): t.float() for n, t in files.tensors.items()}
    if missing := [n for n in ("w_enc", "b_enc", "b_dec") if n not in named]:
        raise BadBundle(f"{files.weights.name} lacks {', '.join(missing)}")
    loose = Loose(named["w_enc"], named["b_enc"], named["w_dec"], named["b_dec"], named["threshold"])
    if "scaling_factor" in named:
        factor = float(named["scaling_factor"])
        loose = Loose(loose.W_enc, loose.b_enc, loose.W_dec, loose.b_dec, loose.threshold, scale_out=1 / factor)
    return Imported(_fold(loose, files.weights.name), "gemma-scope-1", _after(files, r"layer_(\d+)"))


def _is_gemma_scope_2(files: Files) -> bool:
    return files.weights.suffix == ".safetensors" and files.has("w_enc", "w_dec", "threshold")


def _gemma_scope_2(files: Files) -> Imported:
    if "affine_skip_connection" in files.tensors or files.tensors["w_dec"].ndim != 2:
        raise BadBundle(f"{files.weights.name} is a transcoder: it predicts another place than the one it reads")
    config = files.json("config.json") or {}
    if (kind := config.get("architecture", "jump_relu")) not in ("jump_relu", "jumprelu"):
        raise BadBundle(f"architecture {kind!r} is not known for Gemma Scope; expected 'jump_relu'")
    W_enc, b_enc, W_dec, b_dec, threshold = files.take("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
    folded = _fold(Loose(W_enc, b_enc, W_dec, b_dec, threshold), files.weights.name)
    return Imported(folded, "gemma-scope-2", _after(files, r"layer_(\d+)"), about=config)


# Qwen-Scope; dictionary_learning; sparsify; those that keep two linear layers


def _is_qwen_scope(files: Files) -> bool:
    if not files.has("W_enc", "W_dec", "b_dec") or files.weights.suffix != ".pt":
        return False
    d, (rows, _) = files.tensors["b_dec"].shape[0], files.tensors["W_dec"].shape
    return rows == d and (files.weights.name.endswith(".sae.pt") or files.tensors["W_dec"].shape[1] != d)


def _qwen_scope(files: Files) -> Imported:
    W_enc, b_enc, W_dec, b_dec = files.take("W_enc", "b_enc", "W_dec", "b_dec")
    folded = _fold(Loose(W_enc.T, b_enc, W_dec.T, b_dec), files.weights.name)
    k = files.number(r"L0_(\d+)")
    return Imported(folded, "qwen-scope", _after(files, r"layer(\d+)\.sae"), k)


def _is_dictionary_learning(files: Files) -> bool:
    config = files.json("config.json") or {}
    return files.weights.suffix == ".pt" and "dict_class" in (config.get("trainer") or {})


def _dictionary_learning(files: Files) -> Imported:
    trainer = (files.json("config.json") or {})["trainer"]
    kind = trainer["dict_class"]
    reader = DICTIONARIES.get(kind)
    if reader is None:
        raise BadBundle(f"dict_class {kind!r} is not known; known are {', '.join(DICTIONARIES)}")
    if re.search("mlp|att", name := str(trainer.get("submodule_name") or "")):
        raise BadBundle(f"its place is {name!r}, which is not the stream after a block; only that can be steered")
    loose = reader(files)
    layer = trainer.get("layer")
    unset = kind == "AutoEncoderTopK" or (kind.endswith("BatchTopKSAE") and float(files.tensors["threshold"]) < 0)
    k = int(files.tensors["k"]) if unset else None
    hook = f"layers.{layer}" if isinstance(layer, int) else None
    return Imported(_fold(loose, files.weights.name), "dictionary-learning", hook, k, trainer)


def _linear(files: Files, bias: str | None, *, subtracts: bool, threshold: Tensor | float = 0.0) -> Loose:
    W_enc, b_enc, W_dec = files.take("encoder.weight", "encoder.bias", "decoder.weight")
    (b_dec,) = files.take(bias or "decoder.bias")
    return Loose(W_enc.T, b_enc, W_dec.T, b_dec, threshold, subtracts)


def _gated_linear(files: Files) -> Loose:
    W_enc, r, gate, magnitude, W_dec, b_dec = files.take(
        "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight", "decoder_bias"
    )
    return Loose(W_enc.T * r.exp(), magnitude, W_dec.T, b_dec, magnitude - r.exp() * gate, subtracts=True)


def _matrices(files: Files, *, subtracts: bool) -> Loose:
    W_enc, b_enc, W_dec, b_dec, threshold = files.take("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return Loose(W_enc, b_enc, W_dec, b_dec, threshold, subtracts)


DICTIONARIES: dict[str, Callable[[Files], Loose]] = {
    "AutoEncoder": lambda f: _linear(f, "bias", subtracts=True),
    "AutoEncoderNew": lambda f: _linear(f, None, subtracts=False),
    "GatedAutoEncoder": _gated_linear,
    "JumpReluAutoEncoder": lambda f: _matrices(f, subtracts=False),
    "AutoEncoderTopK": lambda f: _linear(f, "b_dec", subtracts=True),
    "BatchTopKSAE": lambda f: _linear(f, "b_dec", subtracts=True, threshold=f.take("threshold")[0]),
    "MatryoshkaBatchTopKSAE": lambda f: _matrices(f, subtracts=True),
}


def _is_sparsify(files: Files) -> bool:
    return files.weights.name == "sae.safetensors" and files.has("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def _sparsify(files: Files) -> Imported:
    config = files.json("cfg.json") or {}
    if config.get("transcode") or "W_skip" in files.tensors:
        raise BadBundle(f"{files.weights.name} is a transcoder: it predicts another place than the one it reads")
    if (kind := config.get("activation", "topk")) != "topk":
        raise BadBundle(f"activation {kind!r} does not decide by size alone; expected 'topk'")
    if config.get("signed"):
        raise BadBundle("a signed TopK keeps negative activations, which a served SAE does not have")
    W_enc, b_enc, W_dec, b_dec = files.take("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    name = files.weights.absolute().parent.name
    if name.startswith("layers.") and not re.fullmatch(r"layers\.\d+", name):
        raise BadBundle(f"it reads {name!r}, which is not the stream after a block; only that can be steered")
    hook = name if name.startswith("layers.") else None
    folded = _fold(Loose(W_enc.T, b_enc, W_dec, b_dec, subtracts=True), files.weights.name)
    return Imported(folded, "sparsify", hook, int(config.get("k", 0)), config)


def _is_openai(files: Files) -> bool:
    return files.has("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")


def _openai(files: Files) -> Imported:
    W_enc, latent, W_dec, pre = files.take("encoder.weight", "latent_bias", "decoder.weight", "pre_bias")
    hook, directions = _openai_place(files)
    kind, told = files.held.get("activation", "ReLU"), files.held.get("activation_state_dict") or {}
    if directions:
        scale = math.nan if kind == "TopK" else 1.0
        return Imported(fold_directions(W_dec.T, scale_out=scale), "openai", hook)
    loose = Loose(W_enc.T, latent, W_dec.T, pre, subtracts=True)
    if kind == "ReLU":
        return Imported(_fold(loose, files.weights.name), "openai", hook)
    if kind != "TopK" or told.get("postact_fn", "ReLU") != "ReLU":
        raise BadBundle(
            f"{files.weights.name} has the activation {kind} {told.get('postact_fn', '')}; known are ReLU and TopK"
        )
    folded = _fold(replace(loose, scaling="spread"), files.weights.name)  # it normalises exactly if it is a TopK
    return Imported(folded, "openai", hook, int(told.get("k", 32)))  # all that are published keep 32


def _openai_place(files: Files) -> tuple[str | None, bool]:
    """Where it reads, if the path says so as the publisher's does, and whether that is not the stream."""
    path = files.weights.absolute().as_posix()
    found = re.search(r"/(mlp_post_act|resid_(?:delta|post)_(?:attn|mlp))(?:_v\d\w*)?/autoencoders/(\d+)\.pt$", path)
    if found is None:
        return None, False
    if found[1] not in ("resid_post_mlp", "resid_delta_mlp"):
        raise BadBundle(f"its place is {found[1]!r}, which is not the stream after a block; only that can be steered")
    return f"layers.{found[2]}", found[1] == "resid_delta_mlp"


def _is_goodfire(files: Files) -> bool:
    return files.has("encoder_linear.weight", "decoder_linear.weight")


def _goodfire(files: Files) -> Imported:
    W_enc, b_enc, W_dec, b_dec = files.take(
        "encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"
    )
    folded = _fold(Loose(W_enc.T, b_enc, W_dec.T, b_dec), files.weights.name)
    return Imported(folded, "goodfire", _after(files, r"-l(\d+)\.pth?"))


# Llama Scope, old and new


def _is_llama_scope(files: Files) -> bool:
    return files.has("encoder.weight", "decoder.weight") and "jump_relu_threshold" in _hyperparams(files)


def _hyperparams(files: Files) -> Config:
    return files.json("hyperparams.json") or files.json("../hyperparams.json") or {}


def _llama_scope(files: Files) -> Imported:
    config = _hyperparams(files)
    W_enc, b_enc, W_dec, b_dec = files.take("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    norms = config.get("dataset_average_activation_norm") or {}
    scaled = config.get("norm_activation", "dataset-wise") == "dataset-wise" and "in" in norms
    into = math.sqrt(len(b_dec)) / float(norms["in"]) if scaled else 1.0
    out = math.sqrt(len(b_dec)) / float(norms.get("out", norms["in"])) if scaled else 1.0
    by_length = bool(config.get("sparsity_include_decoder_norm", True))
    loose = Loose(W_enc.T, b_enc, W_dec.T, b_dec, float(config["jump_relu_threshold"]), False, into, out, by_length)
    point = str(config.get("hook_point_in", ""))
    hook = _lens_hook({"hook_name": point}) if point else _after(files, r"-L(\d+)R-")
    return Imported(_fold(loose, files.weights.name), "llama-scope", hook, about=config)


def _is_llama_scope_r1(files: Files) -> bool:
    return files.has("encoder.weight", "decoder.weight", "log_jumprelu_threshold")


def _llama_scope_r1(files: Files) -> Imported:
    config = files.json("config.json") or {}
    (log,) = files.take("log_jumprelu_threshold")
    loose = _linear(files, None, subtracts=False, threshold=log.exp())
    return Imported(_fold(loose, files.weights.name), "llama-scope-r1", _after(files, r"/L(\d+)R/"), about=config)


def _is_llamascopium(files: Files) -> bool:
    return files.has("W_E", "b_E", "W_D", "b_D")


def _llamascopium(files: Files) -> Imported:
    config = files.json("config.json") or {}
    if "W_E_glu" in files.tensors:
        raise BadBundle(f"{files.weights.name} has a gated encoder (W_E_glu), which does not decide by size alone")
    kind = str(config.get("act_fn", "relu")).lower()
    if kind not in ("relu", "jumprelu", "topk", "batchtopk"):
        raise BadBundle(f"act_fn {kind!r} is not known; known are relu, jumprelu, topk and batchtopk")
    W_enc, b_enc, W_dec, b_dec = files.take("W_E", "b_E", "W_D", "b_D")
    threshold = files.tensors.get("activation_function.log_jumprelu_threshold")
    scale = _dataset_scale(files, config, len(b_dec))
    by_length = bool(config.get("sparsity_include_decoder_norm", True))
    loose = Loose(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        0.0 if threshold is None else threshold.float().exp(),
        False,
        scale,
        scale,
        by_length,
    )
    point = str(config.get("hook_point_in", ""))
    k = int(config["top_k"]) if kind.endswith("topk") and "top_k" in config else None
    folded = _fold(loose, files.weights.name)
    return Imported(folded, "llamascopium", _lens_hook({"hook_name": point}) if point else None, k, config)


def _dataset_scale(files: Files, config: Config, d: int) -> float:
    """√d over the average length of the stream; 1 where it is folded in already (`inference`)."""
    if config.get("norm_activation", "inference") != "dataset-wise":
        return 1.0
    found = [float(t) for n, t in files.tensors.items() if n.startswith("dataset_average_activation_norm.")]
    if not found:
        raise BadBundle(f"{files.weights.name} was trained on a scaled stream but does not say by how much")
    return math.sqrt(d) / found[0]


def _is_two_linear_layers(files: Files) -> bool:
    return files.has("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


def _two_linear_layers(files: Files) -> Imported:
    folded = _fold(_linear(files, None, subtracts=False), files.weights.name)
    return Imported(folded, "two-linear-layers", _after(files, r"[_.-]l(\d+)\D"))


def _after(files: Files, pattern: str) -> str | None:
    layer = files.number(pattern)
    return None if layer is None else f"layers.{layer}"


FORMATS = (
    Format("saelens", _is_saelens, _saelens),
    Format("gemma-scope-1", _is_gemma_scope_1, _gemma_scope_1),
    Format("gemma-scope-2", _is_gemma_scope_2, _gemma_scope_2),
    Format("dictionary-learning", _is_dictionary_learning, _dictionary_learning),
    Format("sparsify", _is_sparsify, _sparsify),
    Format("openai", _is_openai, _openai),
    Format("goodfire", _is_goodfire, _goodfire),
    Format("llama-scope", _is_llama_scope, _llama_scope),
    Format("llama-scope-r1", _is_llama_scope_r1, _llama_scope_r1),
    Format("llamascopium", _is_llamascopium, _llamascopium),
    Format("qwen-scope", _is_qwen_scope, _qwen_scope),
    Format("two-linear-layers", _is_two_linear_layers, _two_linear_layers),
)
"""Tried in this order: the ones that a configuration names come before the ones that only their tensors show."""
