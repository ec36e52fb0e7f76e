"""One trainer of `bench.sae.peers`, in a process of its own: with its own loop and the settings of its documentation.

Standard input has the number of steps of each turn, standard output the seconds that they took. Where a library counts
in steps of a long run (warm-up, decay, the steps after which a feature is dead), it is the same share of this run. Few
imports: every import here is in the memory of all trainers.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from steering.train.objectives import BatchTopK
from steering.train.trainer import TrainingRecipe, train

K = 32


@dataclass(frozen=True)
class Size:
    """Sizes of the data and the SAE."""

    d: int
    m: int
    rows: int


SIZES = {"small": Size(256, 2048, 2048), "large": Size(768, 16_384, 1024)}


class Turns:
    """Batches of the file, while it is this trainer's turn; after the end of the file, from its start again."""

    def __init__(self, size: Size, folder: Path, parent: TextIO, *, before: int) -> None:
        """`before` batches are drawn before the first step."""
        self._count, self._size, self._parent, self._before = size.rows * size.d, size, parent, before
        self._file = (folder / "rows").open("rb")
        self._left, self._seconds, self._start = 0, 0.0, 0.0

    def __iter__(self) -> "Turns":
        return self

    def __next__(self) -> Tensor:
        """Return the next batch, once it is this trainer's turn."""
        if self._before:
            self._before -= 1
            return self._read()
        self._seconds += time.perf_counter() - self._start
        if self._left == 0:
            print(self._seconds, file=self._parent, flush=True)
            self._left, self._seconds = int(input()), 0.0
        self._left -= 1
        batch = self._read()
        self._start = time.perf_counter()
        return batch

    def _read(self) -> Tensor:
        values = np.fromfile(self._file, dtype=np.float32, count=self._count)
        if len(values) < self._count:
            self._file.seek(0)
            values = np.fromfile(self._file, dtype=np.float32, count=self._count)
        return torch.from_numpy(values).view(self._size.rows, self._size.d)


@dataclass(frozen=True)
class Task:
    """Task of a trainer: number of steps, batches, and the output folder `out`."""

    size: Size
    steps: int
    folder: Path
    out: Path
    parent: TextIO

    def batches(self, *, before: int = 0) -> Turns:
        """Training batches."""
        return Turns(self.size, self.folder, self.parent, before=before)

    @property
    def silence(self) -> int:
        """Tokens without firing after which a feature is dead: a twentieth of the run, or twenty times the usual gap."""
        return max(self.steps * self.size.rows // 20, 20 * self.size.m // K)


def ours(task: Task) -> None:
    """`steering.train`: BatchTopK, Matryoshka from 8,192 features on, AuxK."""
    share = max(1, task.steps // 15)  # the share of 100 in 1,500
    objective = BatchTopK(k=K, anneal=share, dead_after=task.silence)
    recipe = TrainingRecipe(objective, d_sae=task.size.m, steps=task.steps, warmup=share)
    held_out = np.fromfile(task.folder / "held_out", dtype=np.float32, count=1024 * task.size.d)
    *_, last = train(task.batches(before=1), recipe, held_out=torch.from_numpy(held_out).view(1024, -1))
    assert last.sae is not None
    last.sae.save(task.out, hook="layers.0", model="given")


def sae_lens(task: Task) -> None:
    """Its `SAETrainer` and BatchTopK, the stream scaled to length √d as in its tutorials."""
    from sae_lens import (  # pyright: ignore[reportMissingImports] - in .venv-peers
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    rows = task.size.rows
    how = {"k": K, "normalize_activations": "expected_average_only_in"}
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=task.size.d, d_sae=task.size.m, **how))
    config = SAETrainerConfig(
        total_training_samples=task.steps * rows,
        train_batch_size_samples=rows,
        lr_end=3e-5,  # a tenth, as in its runner
        lr_decay_steps=task.steps // 5,
        dead_feature_window=task.silence // rows,
        n_batches_for_norm_estimate=20,
    )
    SAETrainer(config, sae, task.batches(before=20)).fit().save_inference_model(task.out)


def dictionary_learning(task: Task) -> None:
    """Its `trainSAE` and BatchTopK, the stream scaled to length 1, decay from four fifths on, as in its demo."""
    from dictionary_learning.trainers.batch_top_k import (  # pyright: ignore[reportMissingImports]
        BatchTopKTrainer,
    )
    from dictionary_learning.training import trainSAE  # pyright: ignore[reportMissingImports]

    class Trainer(BatchTopKTrainer):
        def __init__(self, **how: Any) -> None:  # noqa: ANN401
            super().__init__(**how)
            self.dead_feature_threshold = task.silence

    config = {
        "trainer": Trainer,
        "steps": task.steps,
        "activation_dim": task.size.d,
        "dict_size": task.size.m,
        "k": K,
        "warmup_steps": task.steps // 24,  # the share of 1,000 in 24,000
        "decay_start": task.steps * 4 // 5,
        "layer": 0,
        "lm_name": "given",
        "device": "cpu",
        "seed": 0,
    }
    data = task.batches(before=102)  # the number of batches from which it estimates the scale
    trainSAE(data, [config], task.steps, save_dir=str(task.out), normalize_activations=True, device="cpu")


class Given(torch.nn.Module):
    """A model for sparsify, whose trainer requires one: its only layer returns the next batch."""

    dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}  # noqa: RUF012 - as transformers has it
    device = torch.device("cpu")
    config = SimpleNamespace(num_hidden_layers=1)

    def __init__(self, batches: Turns, d: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(batches, d)])

    @property
    def base_model(self) -> "Given":
        """The model itself."""
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the next batch; zeros for the dummy input."""
        return self.layers[0](input_ids)


class Layer(torch.nn.Module):
    """The layer of `Given`."""

    def __init__(self, batches: Turns, d: int) -> None:
        super().__init__()
        self._batches, self._d = batches, d

    def forward(self, ids: Tensor) -> Tensor:
        """Return one text of as many tokens as a batch has rows."""
        return next(self._batches)[None] if ids.numel() > 1 else torch.zeros(1, 1, self._d)


def sparsify(task: Task) -> None:
    """Its `Trainer`: TopK, signed momentum without a schedule, no AuxK."""
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]

    config = TrainConfig(
        SparseCoderConfig(num_latents=task.size.m, k=K),
        batch_size=1,
        layers=[0],
        save_every=10**9,
        save_dir=str(task.out),
        run_name="run",
        log_to_wandb=False,
    )
    text = {"input_ids": torch.zeros(task.size.rows, dtype=torch.long)}
    Trainer(config, [text] * task.steps, Given(task.batches(), task.size.d)).fit()


CONTENDERS: dict[str, Callable[[Task], None]] = {
    "ours": ours,
    "sae_lens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}
FOUND_IN = {"ours": "", "sae_lens": "", "dictionary_learning": "trainer_0", "sparsify": "run/layers.0"}
"""Subfolder in which each library writes the result."""


def resident(what: str) -> float:
    """Memory of this process, in MiB. Not `ru_maxrss`: that starts with the parent's size."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def contend(name: str, task: Task) -> None:
    """Process of one trainer, from its imports to its saved SAE; its last line is its memory in MiB."""
    if name != "ours":
        import_module(name)
    before = resident("VmRSS")
    torch.manual_seed(0)
    CONTENDERS[name](task)
    peak = resident("VmHWM")
    print(json.dumps({"peak": peak, "training": peak - before}), file=task.parent, flush=True)


def main() -> None:
    """Train; standard output belongs to the parent, so the libraries' prints go to the log."""
    name, size, steps, folder = sys.argv[1:]
    parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contend(name, Task(SIZES[size], int(steps), Path(folder), Path(folder) / name, parent))


if __name__ == "__main__":
    main()
