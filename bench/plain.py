"""Unsteered replies of the embedded model: `python -m bench.plain` prints forty fixed prompts with their replies.

Sampled as the page samples, with fixed seeds, through the real engine; a table for the bundle's card.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import PROMPTS
from steering.catalogue.bundle import Bundle

FORTY = (
    *PROMPTS,
    "Hello!",
    "Who are you?",
    "What can you do?",
    "Tell me a joke.",
    "Do you like dogs?",
    "What is the ocean?",
    "Why is the sky blue?",
    "How do I learn to play the guitar?",
    "Write a poem about snow.",
    "Tell me a story about a fox.",
    "Which is better, tea or coffee?",
    "I lost my keys.",
    "I am tired of my job.",
    "What is the capital of France?",
    "Who won the world cup in 1998?",
    "What is 3 plus 4?",
    "Are you a person?",
    "Can you see me?",
    "Thank you!",
    "Good night!",
)


async def replies(engine: TransformersEngine, prompts: tuple[str, ...]) -> list[str]:
    """Answer each prompt at temperature 0.5, with its number as seed."""

    async def one(seed: int, prompt: str) -> str:
        chat = engine.encode_chat([{"role": "user", "content": prompt}])
        sampling = Sampling(max_tokens=120, temperature=0.5, seed=seed)
        request = Generation(chat.ids, chat.assistant, True, sampling=sampling)
        return "".join([piece.text async for piece in engine.generate(request)])

    return list(await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts))))


async def table(bundle: Bundle) -> str:
    """Return all forty as a table in Markdown."""
    engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook], device="cpu")
    said = await replies(engine, FORTY)
    await engine.close()
    rows = (f"| {p} | {' '.join(r.replace('|', '/').split())} |" for p, r in zip(FORTY, said, strict=True))
    return "\n".join(["| prompt | reply |", "|---|---|", *rows, ""])


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    args = p.parse_args()
    sys.stdout.write(asyncio.run(table(Bundle.open(Path(args.bundle)))))


if __name__ == "__main__":
    main()
