"""Evaluation of the shipped personas: `python -m bench.presets` prints figures, and replies to read.

Runs every preset of a bundle through the real engine on twenty prompts that name no concept, with fixed seeds, as the
server would apply it. Nothing is tuned here.
"""

import argparse
import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from steering.bakeoff.personas import CONCEPTS, PROMPTS
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.evaluate.coherence import rep3
from steering.spec import SteeringSpec

console = Console(width=120)
PLAIN_ROUNDS = 10


@dataclass(frozen=True)
class Row:
    """Results of one persona at one strength."""

    persona: str
    scale: float
    hits: float
    unsteered_hits: float
    rep3: float
    logprob: float
    """Mean log-probability per token under the unsteered model."""
    words: float
    passes: bool


async def replies(
    engine: TransformersEngine,
    catalogue: Catalogue,
    spec: SteeringSpec,
    *,
    temperature: float,
    repetition_penalty: float = 1.0,
    first_seed: int = 1000,
) -> list[tuple[str, float]]:
    """Answer all prompts; return each text with its mean log-probability under the unsteered model."""
    resolved = catalogue.resolve(spec)

    async def one(i: int, prompt: str) -> tuple[str, float]:
        chat = engine.encode_chat([{"role": "user", "content": prompt}])
        sampling = Sampling(
            max_tokens=80, temperature=temperature, repetition_penalty=repetition_penalty, seed=first_seed + i
        )
        request = Generation(chat.ids, chat.assistant, True, resolved.edits, spec.fingerprint, sampling=sampling)
        text = "".join([piece.text async for piece in engine.generate(request)])
        spoken = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        scores = await engine.logprobs_unsteered([*chat.ids, *spoken], len(chat.ids)) if spoken else [0.0]
        return text, sum(scores) / len(scores)

    return list(await asyncio.gather(*(one(i, p) for i, p in enumerate(PROMPTS))))


async def plain_replies(
    engine: TransformersEngine, catalogue: Catalogue, temperature: float
) -> list[tuple[str, float]]:
    """Answer all prompts unsteered with several seeds: twenty replies are too few for a limit of 2 %."""
    rounds = [
        await replies(engine, catalogue, SteeringSpec(), temperature=temperature, first_seed=1000 * (k + 1))
        for k in range(PLAIN_ROUNDS)
    ]
    return [one for found in rounds for one in found]


def row(persona: str, scale: float, steered: list[tuple[str, float]], plain: list[tuple[str, float]]) -> Row:
    """Evaluate one persona by its word list, or by length if it has none."""
    texts, base = [t for t, _ in steered], [t for t, _ in plain]
    words, base_words = (sum(len(t.split()) for t in ts) / len(ts) for ts in (texts, base))
    concept = CONCEPTS.get(persona)
    hits = sum(map(concept.shows, texts)) / len(texts) if concept else 1 - words / base_words
    unsteered = sum(map(concept.shows, base)) / len(base) if concept else 0.0
    repeated = sum(map(rep3, texts)) / len(texts)
    wanted = hits >= (concept.at_least if concept else 0.4)
    passes = wanted and repeated <= 0.20 and (persona != "golden-gate" or unsteered <= 0.02)
    return Row(
        persona,
        scale,
        round(hits, 3),
        round(unsteered, 3),
        round(repeated, 3),
        round(sum(s for _, s in steered) / len(steered), 2),
        round(words, 1),
        passes,
    )


async def measure(
    bundle: Bundle, scales: tuple[float, ...], temperature: float, show: int, only: list[str]
) -> list[Row]:
    """Run every preset at every scale; print ten replies at half strength for manual inspection."""
    engine = TransformersEngine.load(bundle.model_path, hooks=[bundle.info.hook], device="cpu")
    catalogue, rows = Catalogue([bundle]), []
    plain = await plain_replies(engine, catalogue, temperature)
    for preset in (p for p in bundle.presets if not only or p.id in only):
        for scale in scales:
            spec = preset.steering.model_copy(update={"scale": preset.steering.scale * scale})
            steered = await replies(
                engine,
                catalogue,
                spec,
                temperature=temperature,
                repetition_penalty=preset.sampling.get("repetition_penalty", 1.0),
            )
            rows.append(row(preset.id, scale, steered, plain))
            for prompt, (text, _) in list(zip(PROMPTS, steered, strict=True))[
                : show if scale == 1 or preset.id == "golden-gate" else 0
            ]:
                console.print(f"  [dim]{preset.id} × {scale} | {prompt}[/] {text!r}", highlight=False)
    await engine.close()
    return rows


def main() -> None:
    """Print the table and, with `--json`, write it; exit 1 if a persona misses its limit at full strength."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.5])
    p.add_argument("--temperature", type=float, default=0.5)
    p.add_argument("--show", type=int, default=10, help="how many replies to print per preset")
    p.add_argument("--only", nargs="*", default=[], help="presets to run; all if none is named")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    rows = asyncio.run(
        measure(Bundle.open(Path(args.bundle)), tuple(args.scales), args.temperature, args.show, args.only)
    )
    table = Table("persona", "strength", "shows it", "unsteered", "rep3", "log p unsteered", "words", "line")
    for r in rows:
        line = ("[green]met" if r.passes else "[red]missed") if r.scale == 1 else ""
        table.add_row(
            r.persona,
            f"× {r.scale:g}",
            f"{r.hits:.0%}",
            f"{r.unsteered_hits:.0%}",
            f"{r.rep3:.2f}",
            f"{r.logprob:.2f}",
            f"{r.words:.0f}",
            line,
        )
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    raise SystemExit(any(r.scale == 1 and not r.passes for r in rows))


if __name__ == "__main__":
    main()
