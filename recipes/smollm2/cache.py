"""Stage `cache`: the stream after several layers, read once and kept on disk in bfloat16.

A shard is the stream of a few hundred texts, rows shuffled, one file a layer; it appears when it is whole. Left out are
the first token of a text and whatever is ten times as long as the median (sinks: 25,000 beside 140); of special tokens
a quarter is kept, and of the template's own system line, the same in every chat, a twentieth.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.smollm2.files import finish, record_of, say
from recipes.smollm2.lean import Lean
from recipes.smollm2.text import KINDS
from steering.model.token_store import TokenStore

LAYERS = (11, 12, 13, 14)
TEXTS = 256
"""Of a shard."""
BATCH = 6144
"""TokenStore read at once, padding included."""
SINK, SPECIAL, SYSTEM = 10.0, 0.25, 0.05


def make_cache(out: Path, threads: int) -> None:
    """Leave shards of all texts in `out/cache`; those that are there already are not read again."""
    torch.set_num_threads(threads)
    model = Lean(out / "model")
    system = system_line(out)
    places = [(f"held-{kind}", TokenStore.open(out / "text" / f"held-{kind}")) for kind in KINDS]
    places.append(("learn", TokenStore.open(out / "text" / "learn")))
    began, read = time.time(), 0
    for name, tokens in places:
        shards = range(0, len(tokens), TEXTS)
        for number, at in enumerate(shards):
            folder = out / "cache" / name / f"{number:05}"
            if folder.exists():
                continue
            texts = [tokens[i] for i in range(at, min(at + TEXTS, len(tokens)))]
            write_shard(folder, read_rows(model, texts, system, seed=number))
            read += sum(map(len, texts))
            if number % 10 == 0:
                say(f"cache: {name} {number + 1}/{len(shards)}, {read / (time.time() - began):.0f} tokens/s")
    rows = {name: sum(rows_in(f) for f in shards_in(out, name)) for name, _ in places}
    seconds = round(time.time() - began)
    rules = {"sink": SINK, "special": SPECIAL, "system_line": SYSTEM}
    record = {"layers": list(LAYERS), "rows": rows, "kept_of": rules, "dtype": "bfloat16"}
    finish(out, "cache", record | {"last_start": {"tokens": read, "seconds": seconds}})


@torch.inference_mode()
def read_rows(model: Lean, texts: list[list[int]], system: Sequence[int], *, seed: int) -> dict[int, Tensor]:
    """The kept rows of each layer, in one random order."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    for batch in _batches(texts):
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        share = torch.zeros(ids.shape)
        for i, text in enumerate(batch):
            ids[i, : len(text)] = torch.tensor(text)
            share[i, : len(text)] = 1.0
            if text[: len(system)] == list(system):
                share[i, : len(system)] = SYSTEM
        share[ids <= 2] *= SPECIAL  # <|endoftext|>, <|im_start|>, <|im_end|>; padding has no share
        share[:, 0] = 0.0
        streams = model.read(ids, LAYERS)
        keep = torch.rand(share.shape, generator=generator) < share
        norms = streams[LAYERS[0]].float().norm(dim=-1)
        keep &= norms <= SINK * norms[share > 0].median()
        for layer, x in streams.items():
            found[layer].append(x[keep])
    rows = {layer: torch.cat(parts) for layer, parts in found.items()}
    order = torch.randperm(len(rows[LAYERS[0]]), generator=generator)
    return {layer: x[order] for layer, x in rows.items()}


def shards_in(out: Path, name: str) -> list[Path]:
    """The shards of `learn` or `held-KIND`, in order."""
    return sorted(f for f in (out / "cache" / name).iterdir() if not f.name.endswith(".tmp"))


def rows_in(shard: Path) -> int:
    """How many rows a shard has."""
    with safe_open(shard / _file(LAYERS[0]), "pt") as file:
        return file.get_slice("rows").get_shape()[0]


def rows_of(shard: Path, layer: int) -> Tensor:
    """A shard's rows, bfloat16."""
    return load_file(shard / _file(layer))["rows"]


def held_rows(out: Path, kind: str, layer: int) -> Tensor:
    """All held-out rows of a kind, float32."""
    return torch.cat([rows_of(shard, layer) for shard in shards_in(out, f"held-{kind}")]).float()


class Cached:
    """Shuffled batches from the cache, pass after pass; a source that training can go on with at `position`."""

    def __init__(
        self, shards: list[Path], layer: int, *, rows: int, seed: int, position: Sequence[int] = (0, 0)
    ) -> None:
        """`position` is which block of shards is given out, and how many batches of it are gone."""
        self._shards, self._layer, self._rows, self._seed = shards, layer, rows, seed
        self.position: tuple[int, ...] = (position[0], position[1])
        self._block: list[Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The next batch, float32."""
        if self._block is None:
            self._block = self._read(self.position[0])
        if self.position[1] >= len(self._block):
            self.position = (self.position[0] + 1, 0)
            self._block = self._read(self.position[0])
        self.position = (self.position[0], self.position[1] + 1)
        return self._block[self.position[1] - 1].float()

    def _read(self, block: int) -> list[Tensor]:
        together = min(4, len(self._shards))
        pass_, at = divmod(block, len(self._shards) // together)
        order = torch.randperm(len(self._shards), generator=torch.Generator().manual_seed(self._seed + 1000 * pass_))
        chosen = order[at * together : (at + 1) * together].tolist()
        pool = torch.cat([rows_of(self._shards[i], self._layer) for i in chosen])
        mixed = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self._seed + 7 * block + 1))
        return [pool[some] for some in mixed[: len(pool) // self._rows * self._rows].split(self._rows)]


def cached_rows(out: Path) -> int:
    """How many rows there are to learn from."""
    record = record_of(out, "cache")
    assert record is not None
    return record["rows"]["learn"]


def _batches(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """Texts of about one length together."""
    batch: list[list[int]] = []
    for text in sorted(texts, key=len):
        if batch and (len(batch) + 1) * len(text) > BATCH:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def write_shard(folder: Path, rows: dict[int, Tensor]) -> None:
    """Write one file a layer; the folder appears when it is whole."""
    draft = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for layer, x in rows.items():
        save_file({"rows": x.contiguous()}, draft / _file(layer))
    os.replace(draft, folder)


def system_line(out: Path) -> list[int]:
    """The template's own system turn as token ids."""
    from transformers import AutoTokenizer

    from recipes.smollm2.text import DEFAULT_SYSTEM

    return AutoTokenizer.from_pretrained(out / "model")(DEFAULT_SYSTEM, add_special_tokens=False)["input_ids"]


def _file(layer: int) -> str:
    return f"layers.{layer}.safetensors"
