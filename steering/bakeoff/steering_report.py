"""Steering evaluation of a bundle, with report: does steering work, and what does it do worse than a prompt?

`tiller bench steering` runs the CPU tier of EVALUATION §6: quality Q1–Q13, and the bake-off of
`bakeoff`. Mechanics (M1–M10) are tests. Missed pass lines are reported as missed. On a GPU the same code runs with a
larger model:

    tiller bench steering --bundle gemma --concepts general --device cuda
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.bakeoff.checks import Check, Lab, check_all, compare_arms, qualities_of
from steering.bakeoff.concepts import load
from steering.bakeoff.methods import ARMS, SETTINGS, Kit, Result, interval, run_arms
from steering.bakeoff.personas import PROMPTS, TUNING
from steering.catalogue.bundle import Bundle

console = Console(width=120)


def table_of(results: Sequence[Result]) -> list[dict[str, float | str]]:
    """Return one row for each arm, over all concepts."""
    rows = []
    for arm in ARMS:
        mine = [r for r in results if r.arm == arm]
        if not mine:
            continue
        q = qualities_of(results, arm)
        low, high = interval(q)
        mean = lambda name, mine=mine: statistics.mean(v for r in mine for v in getattr(r.score, name))  # noqa: E731
        rows.append(
            {
                "arm": arm, "concepts": len(mine), "quality": statistics.mean(q), "low": low, "high": high,
                "shown": mean("hits"), "surprise": mean("surprise"), "repetition": mean("repetition"), "lost": mean("lost"),
                "ms a token": statistics.mean(r.score.ms for r in mine), "labels": mine[0].labels,
                "prompt tokens": statistics.mean(r.prompt_tokens for r in mine),
            }
        )  # fmt: skip
    return rows


def write(out: Path, about: dict[str, str], checks: Sequence[Check], results: Sequence[Result]) -> None:
    """Write JSON, Markdown and two charts."""
    out.mkdir(parents=True, exist_ok=True)
    rows = table_of(results)
    record = {
        "about": about,
        "checks": [asdict(c) for c in checks],
        "arms": rows,
        "results": [asdict(r) for r in results],
    }
    (out / "steering.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (out / "steering.md").write_text(markdown(about, checks, rows, results))
    _charts(out, rows, results)


def markdown(about: dict[str, str], checks: Sequence[Check], rows: Sequence[dict], results: Sequence[Result]) -> str:
    """Return the report."""
    mark = {True: "passed", False: "**missed**", None: ""}
    lines = ["# Does steering work?", "", *(f"- {k}: {v}" for k, v in about.items()), ""]
    lines += ["## Quality", "", "| | what | figure | line | |", "|---|---|---|---|---|"]
    lines += [f"| {c.id} | {c.says} | {c.value:.3g} | {c.line} | {mark[c.passed]} |" for c in checks]
    lines += ["", "## Side by side", "", "![quality of each arm](bakeoff.png)", ""]
    lines += [
        "| arm | quality (95 %) | shows it | surprise | repetition | lost | ms a token | labels | prompt tokens |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['arm']} | {r['quality']:.2f} ({r['low']:.2f} … {r['high']:.2f}) | {r['shown']:.0%} | {r['surprise']:+.2f} | "
            f"{r['repetition']:.2f} | {r['lost']:.2f} | {r['ms a token']:.1f} | {r['labels']} | {r['prompt tokens']:.0f} |"
        )
    lines += [
        "",
        "Quality is a harmonic mean, 0 to 2, of concept shown, fluency and what is kept of the unsteered answers; it is no judge's verdict.",
    ]
    lines += [
        "",
        "## By concept",
        "",
        "| concept | arm | chosen setting | quality | shows it |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        q, hits = statistics.mean(r.score.quality), statistics.mean(r.score.hits)
        lines.append(f"| {r.concept} | {r.arm} | {r.setting} | {q:.2f} | {hits:.0%} |")
    return "\n".join(lines) + "\n"


def _charts(out: Path, rows: Sequence[dict], results: Sequence[Result]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.4 * len(rows) + 1.2))
    names, means = [r["arm"] for r in rows], [r["quality"] for r in rows]
    spread = [[r["quality"] - r["low"] for r in rows], [r["high"] - r["quality"] for r in rows]]
    axes.barh(names[::-1], means[::-1], xerr=[s[::-1] for s in spread], color="#c0362c")
    axes.set_xlabel("quality, 0 to 2 (95 % interval)")
    figure.tight_layout()
    figure.savefig(out / "bakeoff.png", dpi=110)
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for arm in ("DiffMean", "probe", "SAE add", "SAE clamp", "random direction", "sign flip"):
        tuned = [r.tuned for r in results if r.arm == arm and len(r.tuned) == len(SETTINGS)]
        if tuned:
            axes.plot(
                SETTINGS, [statistics.mean(t[i] for t in tuned) for i in range(len(SETTINGS))], marker="o", label=arm
            )
    axes.set_xlabel("dose")
    axes.set_ylabel("quality while tuning")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "doses.png", dpi=110)
    plt.close("all")


def run(
    bundle: Path, concepts: str, out: Path, *, device: str = "cpu", seeds: int = 3, most: int | None = None
) -> None:
    """Measure, print and write."""
    opened, started = Bundle.open(bundle), time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(opened.model_path, dtype="auto").eval()
    model = model.to(torch.device(device))  # pyright: ignore[reportArgumentType] - transformers types it as its mixin
    tokenizer = AutoTokenizer.from_pretrained(opened.model_path)
    wanted = load(concepts)[:most]
    kit = Kit.prepare(model, tokenizer, opened.to(device), TUNING, PROMPTS)
    checks, results = check_all(Lab(kit), wanted), list[Result]()
    print_line = lambda line: console.print(f"  {line}", highlight=False)  # noqa: E731
    for n, concept in enumerate(wanted, 1):
        results += run_arms(kit, concept, seeds=range(seeds), on_progress=print_line)
        about = _about(opened, kit, f"{n} of {len(wanted)} ({concepts})", device, seeds, started)
        write(
            out, about, [*checks, *compare_arms(results)], results
        )  # written after each concept, so that an interrupted run keeps its results
    _print([*checks, *compare_arms(results)])
    console.print(f"report: {out / 'steering.md'}")


def _about(opened: Bundle, kit: Kit, concepts: str, device: str, seeds: int, started: float) -> dict[str, str]:
    return {
        "model": opened.info.model if opened.info.model != "model" else f"{opened.info.name} (embedded)",
        "SAE": f"{opened.info.revision}, {opened.sae.d_sae} features at {opened.info.hook}",
        "concepts": f"{concepts}, fixed before anything was tuned",
        "questions": f"{len(kit.tune)} to tune on, {len(kit.test)} to score on, {seeds} seeds",
        "measured": f"{time.strftime('%Y-%m-%d')} on {device}, in {(time.perf_counter() - started) / 60:.0f} minutes",
    }


def _print(checks: Sequence[Check]) -> None:
    table = Table("", "what", "figure", "line", "")
    for c in checks:
        table.add_row(
            c.id, c.says, f"{c.value:.3g}", c.line, {True: "passed", False: "[red]missed[/]", None: ""}[c.passed]
        )
    console.print(table)


def main() -> None:
    """Run `python -m steering.bakeoff.steering_report`, the same as `tiller bench steering`."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/smollm2"))
    p.add_argument("--concepts", default="smollm2", help="smollm2, harbor, general, or a JSON file")
    p.add_argument("--out", type=Path, default=Path("docs/results"))
    p.add_argument("--device", default="cpu")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--most", type=int, help="only the first so many concepts")
    args = p.parse_args()
    run(args.bundle, args.concepts, args.out, device=args.device, seeds=args.seeds, most=args.most)


if __name__ == "__main__":
    main()
