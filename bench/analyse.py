"""Cost of analysis: `python -m bench.analyse` times reading and analysing a text ÷ the model's bare forward pass over
it.

Texts are the bundle's own chats, concatenated until they fill the context; goal: 0.85 of the forward pass's tokens per
second. Reading computes no layer after the hook, which pays for the SAE; so the ratio depends on where the hook is.
"""

import argparse
import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from transformers import PreTrainedModel

from bench.lab import Case, Ratio, by_turns, show
from server.features.analysis_json import analysis_answer
from server.sae.corpus import read_texts
from server.sae.model_loading import load_model, resolve_device
from steering.catalogue.bundle import Bundle
from steering.interpret.analysis import analyse
from steering.model.hooks import read_stream
from steering.model.passage import Passage, chat_passage, text_passage

GOAL = 0.85


def passages(bundle: Bundle, tokenizer, *, length: int, count: int) -> list[Passage]:  # noqa: ANN001 - transformers' own
    """Return `count` chats of about that many tokens each, from the bundle's corpus."""
    found, turns, n = [], [], 0
    for text in read_texts(bundle.folder / "corpus.jsonl.xz"):
        passage = text_passage(tokenizer, text) if isinstance(text, str) else None
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        size = len(passage.ids if passage else chat_passage(tokenizer, messages).ids)
        if turns and n + size > length:
            found.append(chat_passage(tokenizer, turns))
            turns, n = [], 0
        if len(found) == count:
            break
        turns, n = [*turns, *messages], n + size
    return found


def cases(model: PreTrainedModel, bundle: Bundle, texts: list[Passage]) -> dict[str, Case]:
    """The bare forward pass, reading alone, reading and analysis, and all that with the answer's JSON."""
    ids = [torch.tensor([p.ids], device=model.device) for p in texts]
    hook, tokens = bundle.info.hook, sum(len(p.ids) for p in texts)

    def run(i: int) -> object:
        return analyse(bundle, texts[i], read_stream(model, ids[i], hook)[0])

    works: dict[str, Callable[[int], object]] = {
        "forward": lambda i: model(input_ids=ids[i], use_cache=False),
        "read": lambda i: read_stream(model, ids[i], hook),
        "analyse": run,
        "answer": lambda i: analysis_answer(bundle, run(i), truncated=False),  # pyright: ignore[reportArgumentType]
    }
    return {name: _case(work, len(texts), tokens, model.device) for name, work in works.items()}


def _case(work: Callable[[int], object], texts: int, tokens: int, device: torch.device) -> Case:
    async def run() -> float:
        start = perf_counter()
        for i in range(texts):
            work(i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return tokens / (perf_counter() - start)

    return run


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default="sae_weights/harbor")
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--texts", type=int, default=4)
    p.add_argument("--length", type=int, default=1000, help="tokens of each, about")
    p.add_argument("--device", default="cpu")
    p.add_argument("--json", type=Path, default=None)
    args = p.parse_args()
    device = resolve_device(args.device)
    bundle = Bundle.open(args.bundle).to(device)
    model, tokenizer = load_model(bundle.model_path, device)
    texts = passages(bundle, tokenizer, length=args.length, count=args.texts)
    with torch.inference_mode():
        found = asyncio.run(by_turns(cases(model, bundle, texts), args.rounds))
    title = f"{bundle.info.name}, {device.type}, {os.cpu_count()} cores: of the forward's {found.median('forward').value:,.0f} tokens/s"
    rows = [
        Ratio("read the stream ÷ forward", found.ratio("read", "forward"), None),
        Ratio("read and analyse ÷ forward", found.ratio("analyse", "forward"), GOAL),
        Ratio("with the answer's JSON ÷ forward", found.ratio("answer", "forward"), None),
    ]
    show(title, rows, args.json)


if __name__ == "__main__":
    main()
