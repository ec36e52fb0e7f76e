"""llama.cpp as a process that measures when it is told to: a line of JSON in, a line with tokens per second out.

It runs in `.venv-llamacpp` (`make .venv-llamacpp/.installed`) and imports nothing of this project.
"""

import json
import sys
import time
from pathlib import Path

import llama_cpp  # pyright: ignore[reportMissingImports] - in its own environment

TYPES = {"Q4_1": None, "Q8_0": 7, "F16": 1}
"""llama.cpp's number of each file type; the shipped file is the first."""


def quantized(path: Path, kind: str, folder: Path) -> Path:
    """Return the model in that type, written once into a folder."""
    if TYPES[kind] is None:
        return path
    made = folder / f"{path.stem}.{kind}.gguf"
    if not made.exists():
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize = TYPES[kind], True
        assert llama_cpp.llama_model_quantize(str(path).encode(), str(made).encode(), wanted) == 0
    return made


class Measured:
    """One model in memory."""

    def __init__(self, path: Path, threads: int) -> None:
        self.llm = llama_cpp.Llama(
            str(path), n_ctx=4096, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max, wanted.n_threads, wanted.n_threads_batch = 4096, 16, threads, threads
        self._many = llama_cpp.llama_init_from_model(self.llm._model.model, wanted)

    def decode(self, ids: list[int], tokens: int) -> float:
        """Tokens per second of one greedy reply, its prompt included."""
        self.llm.reset()
        start = time.perf_counter()
        self.llm.eval(ids)
        for _ in range(tokens):
            self.llm.eval([self.llm.sample(temp=0.0)])
        return tokens / (time.perf_counter() - start)

    def prompt(self, ids: list[int]) -> float:
        """Tokens per second of reading a prompt."""
        self.llm.reset()
        start = time.perf_counter()
        self.llm.eval(ids)
        return len(ids) / (time.perf_counter() - start)

    def sequences(self, ids: list[int], tokens: int, streams: int) -> float:
        """Tokens per second of that many sequences in one batch, their prompts included."""
        context, batch = self._many, llama_cpp.llama_batch_init(512, 0, streams)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        for s in range(streams):
            self._run(context, batch, [(token, at, s, at == len(ids) - 1) for at, token in enumerate(ids)])
        for n in range(tokens):
            self._run(context, batch, [(100 + n, len(ids) + n, s, True) for s in range(streams)])
        seconds = time.perf_counter() - start
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        llama_cpp.llama_batch_free(batch)
        return streams * tokens / seconds

    def _run(self, context, batch, rows) -> None:  # noqa: ANN001 - llama.cpp's own types
        batch.n_tokens = len(rows)
        for i, (token, at, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, at, 1, logits
            batch.seq_id[i][0] = sequence
        assert llama_cpp.llama_decode(context, batch) == 0


def main() -> None:
    """Measure until standard input ends."""
    path, folder, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    models = dict[str, Measured]()
    for line in sys.stdin:
        asked = json.loads(line)
        kind = asked.pop("kind")
        if kind not in models:
            models[kind] = Measured(quantized(path, kind, folder), threads)
        value = getattr(models[kind], asked.pop("case"))(**asked)
        sys.stdout.write(f"{value}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
