"""dictionary_learning: one reader for each of its dictionary classes."""

import re
from collections.abc import Callable

import torch

from steering.errors import BadBundle
from steering.formats.base import Format, ImportedSae, imported, linear
from steering.formats.fields import Fields, agreed, refuse_unknown_tensors
from steering.formats.fold import RawSae
from steering.formats.hook_points import HookPoint, Statement, agreed_point, unsteerable
from steering.formats.model_preparation import check_served
from steering.formats.weight_files import WeightFiles

READ = {"trainer_class", "dict_class", "activation_dim", "dict_size", "k", "layer", "lm_name", "submodule_name"}
HARMLESS = {
    "threshold_beta",
    "threshold_start_step",
    "top_k_aux",
    "group_fractions",
    "group_weights",
    "group_sizes",
    "p_start",
    "p_end",
}
MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
TRAINED_BY = {
    "StandardTrainer": "AutoEncoder",
    "StandardTrainerAprilUpdate": "AutoEncoderNew",
    "PAnnealTrainer": "AutoEncoder",
    "GatedSAETrainer": "GatedAutoEncoder",
    "GatedAnnealTrainer": "GatedAutoEncoder",
    "JumpReluTrainer": "JumpReluAutoEncoder",
    "TrainerTopK": "AutoEncoderTopK",
    "TopKTrainer": "AutoEncoderTopK",
    "BatchTopKTrainer": "BatchTopKSAE",
    "MatryoshkaBatchTopKTrainer": "MatryoshkaBatchTopKSAE",
    "MatroyshkaBatchTopKTrainer": "MatryoshkaBatchTopKSAE",
}
"""The class that each trainer makes, for configurations that name only the trainer."""


def _is_dictionary_learning(files: WeightFiles) -> bool:
    trainer = _config(files).values.get("trainer")
    return (
        files.weights.suffix == ".pt"
        and isinstance(trainer, dict)
        and bool({"dict_class", "trainer_class"} & {*trainer})
    )


def _dictionary_learning(files: WeightFiles) -> ImportedSae:
    config = _config(files)
    trainer, buffer = config.inner("trainer"), config.inner("buffer")
    kind = _dictionary_class(trainer)
    trainer.refuse_unknown(READ | HARMLESS)
    check_served("lm_name in config.json", trainer.value("lm_name"))
    point = _point(files, trainer, buffer)
    used, read = DICTIONARIES[kind]
    refuse_unknown_tensors(files, (*used, "k", "threshold", "group_sizes"))
    raw = read(files)
    trainer.check_size("activation_dim", len(raw.b_dec), "columns of the decoder")
    trainer.check_size("dict_size", len(raw.b_enc), "features")
    calibrates = kind == "AutoEncoderTopK" or (kind.endswith("BatchTopKSAE") and not _has_threshold(files))
    k = _k(files, trainer) if calibrates else None
    return imported(files, "dictionary-learning", point, raw, k=k, about=dict(trainer.values))


def _config(files: WeightFiles) -> Fields:
    """Return the configuration beside the weights, or in the folder above: checkpoints have a folder of their own."""
    beside = Fields.of(files, "config.json")
    return beside if "trainer" in beside.values else Fields.of(files, "../config.json")


def _dictionary_class(trainer: Fields) -> str:
    """Return the class, which early versions leave to the trainer's name. Raises BadBundle that lists the known ones."""
    kind, by = trainer.text("dict_class"), trainer.text("trainer_class")
    found = (kind or TRAINED_BY.get(by or "") or "").replace("Matroyshka", "Matryoshka")  # as early versions spelt it
    if found not in DICTIONARIES:
        name, value = ("dict_class", kind) if kind else ("trainer_class", by)
        raise BadBundle(f"{name} {value!r} in {trainer.file} is not known; known are {', '.join(DICTIONARIES)}")
    return found


def _k(files: WeightFiles, trainer: Fields) -> int:
    """Return k of the tensors or of the configuration; 0 if neither states it."""
    held = files.tensors.get("k")
    stated = None if held is None else Fields({"k": float(held)}, files.weights.name).k()
    return agreed((f"k in {files.weights.name}", stated), (f"k in {trainer.file}", trainer.k())) or 0


def _has_threshold(files: WeightFiles) -> bool:
    """Whether training has set the threshold: it begins with −1."""
    held = files.tensors.get("threshold")
    return held is not None and float(held) >= 0


def _point(files: WeightFiles, trainer: Fields, buffer: Fields) -> HookPoint | None:
    """Return the hook point of the layer, the submodule's name, the buffer's side of it, and the folder's name.

    `resid_pre_layer_8` and the input of submodule 8 are the stream after block 7. Raises BadBundle for other submodules,
    and where two of these contradict each other.
    """
    reads_input = buffer.choice("io", {"out": False, "in": True, "in_and_out": None}, "out")
    if reads_input is None:
        raise BadBundle(f"io in {buffer.file} is 'in_and_out': a transcoder, whose output is at another hook point")
    folder = re.findall(r"(?<=/)(?:resid|mlp|att)\w*?layer_?\d+(?=/|$)", files.folder.absolute().as_posix())
    names = {
        f"submodule_name in {trainer.file}": trainer.text("submodule_name") or "",
        "the path": (folder or [""])[-1],
    }
    stated = [s for place, name in names.items() for s in _named(place, name, reads_input=reads_input)]
    before = reads_input or any("resid_pre" in name for name in names.values())
    layer = trainer.values.get("layer")
    if isinstance(layer, int | str) and not isinstance(layer, bool):
        stated.append(Statement(f"layer in {trainer.file}", str(layer), HookPoint(int(layer) - before)))
    elif layer is not None:
        raise BadBundle(f"layer in {trainer.file} is {layer!r}; an SAE reads one layer")
    if stated and stated[0].point.layer < 0:
        raise unsteerable(stated[0].place, stated[0].name)
    return agreed_point(stated)


def _named(place: str, name: str, *, reads_input: bool) -> list[Statement]:
    """Return what a name such as `resid_post_layer_8` states; nothing without a number."""
    if re.search("mlp|att|embed", name):
        raise unsteerable(place, name)
    found = re.search(r"(?:resid\w*?layer_?|layers\.|h\.)(\d+)$", name)
    before = reads_input or "resid_pre" in name
    return [Statement(place, name, HookPoint(int(found[1]) - before))] if found else []


def _gated_linear(files: WeightFiles) -> RawSae:
    W_enc, r, gate, magnitude, W_dec, b_dec = files.take(*GATED)
    return RawSae(W_enc.T * r.exp(), magnitude, W_dec.T, b_dec, magnitude - r.exp() * gate, subtracts=True)


def _matrices(files: WeightFiles, *, subtracts: bool) -> RawSae:
    W_enc, b_enc, W_dec, b_dec = files.take(*MATRICES)
    return RawSae(W_enc, b_enc, W_dec, b_dec, _threshold(files), subtracts)


def _threshold(files: WeightFiles) -> torch.Tensor:
    return files.tensors.get("threshold", torch.zeros(()))


def _jumprelu(files: WeightFiles) -> RawSae:
    files.take("threshold")
    return _matrices(files, subtracts=False)


GATED = ("encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight", "decoder_bias")
DICTIONARIES: dict[str, tuple[tuple[str, ...], Callable[[WeightFiles], RawSae]]] = {
    "AutoEncoder": ((*LINEAR, "bias"), lambda f: linear(f, "bias", subtracts=True)),
    "AutoEncoderNew": ((*LINEAR, "decoder.bias"), lambda f: linear(f, None, subtracts=False)),
    "GatedAutoEncoder": (GATED, _gated_linear),
    "JumpReluAutoEncoder": (MATRICES, _jumprelu),
    "AutoEncoderTopK": ((*LINEAR, "b_dec"), lambda f: linear(f, "b_dec", subtracts=True)),
    "BatchTopKSAE": ((*LINEAR, "b_dec"), lambda f: linear(f, "b_dec", subtracts=True, threshold=_threshold(f))),
    "MatryoshkaBatchTopKSAE": (MATRICES, lambda f: _matrices(f, subtracts=True)),
}
"""The tensors that each class uses, and its reader."""


DICTIONARY_LEARNING = Format("dictionary-learning", _is_dictionary_learning, _dictionary_learning)
