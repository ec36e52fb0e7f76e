"""Speed of this engine and of steering libraries that hold one spec at a time: `python -m bench.peers`.

It compares with those that are installed:
`pip install repeng steering-vectors nnsight transformer-lens` in an environment of its own. Sixteen requests have
sixteen different specs; a library whose hooks hold one spec answers them one after the other.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.lab import SHAPES, STREAMS, TOKENS, Case, Lab, Ratio, by_turns, generate, show, speed


def pushes(lab: Lab) -> list[Tensor]:
    """The push of each of the sixteen specs."""
    return [lab.request(i, lab.spec(i)).edits[lab.hook].push for i in range(STREAMS)]


def timed(each: Callable[[int], object]) -> float:
    """Tokens per second of sixteen replies, one after the other."""
    start = time.perf_counter()
    for i in range(STREAMS):
        each(i)
    return STREAMS * TOKENS / (time.perf_counter() - start)


async def repeng(lab: Lab) -> float:
    """Its `ControlModel`, the vector set anew for each reply."""
    setattr(np, "float_", np.float64)  # noqa: B010 - repeng 0.4 asks for a name that numpy 2 dropped
    from repeng import ControlModel, ControlVector  # pyright: ignore[reportMissingImports]

    layer, push = int(lab.hook.rpartition(".")[2]), pushes(lab)
    control = ControlModel(lab.model, [layer])

    def one(i: int) -> None:
        control.set_control(ControlVector(model_type="llama", directions={layer: push[i].numpy()}))
        generate(control.model, [lab.request(i, {})])

    try:
        return timed(one)
    finally:
        control.unwrap()


async def steering_vectors(lab: Lab) -> float:
    """Its `SteeringVector.apply`, a context for each reply."""
    from steering_vectors import SteeringVector  # pyright: ignore[reportMissingImports]

    layer, push = int(lab.hook.rpartition(".")[2]), pushes(lab)

    def one(i: int) -> None:
        with SteeringVector(layer_activations={layer: push[i]}, layer_type="decoder_block").apply(lab.model):
            generate(lab.model, [lab.request(i, {})])

    return timed(one)


async def nnsight(lab: Lab) -> float:
    """Its tracing `generate`, the push added in each new token's pass."""
    from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]

    model = LanguageModel(lab.model, tokenizer=lab.tokenizer)
    layer, push = int(lab.hook.rpartition(".")[2]), pushes(lab)

    def one(i: int) -> None:
        ids = torch.tensor([lab.request(i, {}).ids])
        how = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with model.generate(text, **how) as tracer:
            for _ in tracer.iter[:TOKENS]:
                model.model.layers[layer].output[:] += push[i]

    return timed(one)


async def transformer_lens(lab: Lab) -> float:
    """Its bridge's `generate` under `hooks`, as SAELens steers."""
    from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        lab.save(Path(folder))  # it reads the configuration from a name or folder, whatever model is passed
        model = TransformerBridge.boot_transformers(f"{folder}/model", tokenizer=lab.tokenizer)
    layer, push = int(lab.hook.rpartition(".")[2]), pushes(lab)

    def one(i: int) -> None:
        def add(x: Tensor, hook: object) -> Tensor:  # noqa: ARG001 - its hooks have two arguments
            return x + push[i]

        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_out", add)]):
            ids = torch.tensor([lab.request(i, {}).ids])
            model.generate(ids, max_new_tokens=TOKENS, do_sample=False, stop_at_eos=False, verbose=False)

    return timed(one)


PEERS = {
    "repeng": (repeng, 5.0),
    "steering_vectors": (steering_vectors, 5.0),
    "nnsight": (nnsight, None),
    "transformer_lens": (transformer_lens, None),
}


async def compared(lab: Lab, rounds: int) -> list[Ratio]:
    """Our sixteen at once against each of the others."""
    engine = lab.engine()
    found = {name: peer for name, peer in PEERS.items() if find_spec(name)}
    cases: dict[str, Case] = {
        "ours": lambda: speed(engine, [lab.request(i, lab.spec(i)) for i in range(STREAMS)]),
        **{name: lambda run=run: run(lab) for name, (run, _) in found.items()},
    }
    m = await by_turns(cases, rounds)
    await engine.close()
    speeds = [Ratio(f"{name}, tokens/s", m.median(name), None) for name in cases]
    return [*(Ratio(f"16 specs ÷ {n}", m.ratio("ours", n), goal) for n, (_, goal) in found.items()), *speeds]


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--model", choices=["embedded", *SHAPES], default="embedded")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    rows = asyncio.run(compared(Lab.named(args.model, args.bundle), args.rounds))
    show(f"{args.model}, median of {args.rounds}", rows, args.json)


if __name__ == "__main__":
    main()
