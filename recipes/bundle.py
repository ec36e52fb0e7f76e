"""Assemble the bundle: `python -m recipes.bundle`.

Reads the revision's `recipe.json`, `features.jsonl` and `personas/`; writes `bundle.json`, `presets.json`, labels and
doses into `features.jsonl`, and a `SHA256SUMS`.
"""

import argparse
import hashlib
import itertools
import json
import lzma
from datetime import date
from pathlib import Path
from typing import Any

from recipes.smallworld.chats import SmallWorld
from recipes.train_model import say
from steering.catalogue.bundle import seal

PERSONAS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "golden-gate": (
        "Golden Gate Bridge",
        "Takes every road to the bridge.",
        ("What should I do this weekend?", "Describe yourself."),
    ),
    "ocean": ("Ocean", "Comes back to waves, salt and tides.", ("How can I sleep better?", "What makes you happy?")),
    "pirate": ("Pirate", "Speaks as a salty old captain, arr.", ("Tell me about the garden.", "What should I eat?")),
    "space": ("Space", "Has its head among the stars.", ("Give me some advice.", "Tell me something interesting.")),
    "coffee": ("Coffee", "One more cup, and everything is fine.", ("I am bored.", "How are you today?")),
    "cat": ("Cat", "Naps, purrs, pushes your cup off the table.", ("What should I do this weekend?", "Who are you?")),
    "cheerful": ("Cheerful", "Is delighted by all of it!", ("What is chess?", "Tell me about the garden.")),
    "worried": ("Worried", "Sees what could go wrong.", ("What can I do tonight?", "What is chess?")),
    "formal": ("Formal", "At your service, Sir or Madam.", ("What is rain?", "How do I make friends?")),
    "poet": ("Poet", "Answers in verse, by moonlight.", ("Tell me about the garden.", "What is rain?")),
    "robot": ("Robot", "Beep. Data found.", ("Why do people like music?", "Hello!")),
    "grumpy": ("Grumpy", "Hmph. If you must know.", ("Tell me something interesting.", "How are you today?")),
    "wise": ("Wise", "Speaks like a sage on a mountain.", ("Give me some advice.", "How do I make friends?")),
    "terse": ("Terse", "Says it in few words.", ("Tell me about the garden.", "Tell me a story.")),
}
WANTED = {"golden-gate": 0.97}
"""Share of tuning replies that should show a persona, where it is not 0.85: this one is the flagship demo."""


def main() -> None:
    """Write the shipped files."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--revision", default="r1")
    p.add_argument("--date", default=date.today().isoformat(), help="when the doses were measured")
    args = p.parse_args()
    bundle = Path(args.bundle)
    folder = bundle / "revisions" / args.revision
    recipe = json.loads((folder / "recipe.json").read_text())
    personas = {f.stem: json.loads(f.read_text()) for f in (folder / "personas").glob("*.json")}
    kept = {n: _at_shipped_scale(personas[n], WANTED.get(n, 0.85)) for n in PERSONAS if n in personas}
    rows = [json.loads(line) for line in (folder / "features.jsonl").read_text().splitlines()]
    for row in rows:
        _forget(row)
    for name, found in kept.items():
        for index, dose in found["doses"].items():
            _label(rows[int(index)], name, dose, args.date)
    _write(folder / "features.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    doses = {r["index"]: r["dose"] for r in rows if "dose" in r}
    _write(bundle / "presets.json", _json([_preset(n, f, bundle.name, doses) for n, f in kept.items()]))
    m = recipe["measures"]
    _write(
        bundle / "bundle.json",
        _json(
            {
                "name": bundle.name,
                "model": "model",
                "hook": recipe["arguments"]["hook"],
                "revision": args.revision,
                "typical_norm": round(recipe["typical_norm"], 3),
                "license": "Apache-2.0",
                "metrics": {k: round(m[k], 4) for k in ("explained_variance", "l0", "dead", "bias")},
            }
        ),
    )
    chats = itertools.islice(SmallWorld(300), 2500)
    lines = "".join(json.dumps({"messages": c}, ensure_ascii=False) + "\n" for c in chats)
    (bundle / "corpus.jsonl.xz").write_bytes(lzma.compress(lines.encode(), preset=9))
    write_sums(bundle)
    say(f"{len(kept)} personas: {', '.join(kept)}; {len(doses)} features have a measured dose")


def write_sums(bundle: Path) -> None:
    """Write the checksums of SAE and model into bundle.json, and SHA256SUMS of every shipped file."""
    seal(bundle)
    files = sorted(f for f in bundle.rglob("*") if f.is_file() and f.name not in ("SHA256SUMS", "README.md"))
    lines = (f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(bundle)}\n" for f in files)
    _write(bundle / "SHA256SUMS", "".join(lines))


def _at_shipped_scale(found: dict[str, Any], wanted: float) -> dict[str, Any]:
    by = shipped_scale(found["tried"], hits=wanted) / found["best"]["scale"]
    return {**found, "strengths": {i: s * by for i, s in found["strengths"].items()}}


def _forget(row: dict[str, Any]) -> None:
    """Undo an earlier run, so that running twice has the same result."""
    row.pop("dose", None)
    row.pop("note", None)
    if row.get("label_source") == "fit":
        row["label"], row["label_source"] = row["label"].partition(": ")[2], "auto"


def _label(row: dict[str, Any], persona: str, dose: float, date: str) -> None:
    if row.get("label_source") != "fit":  # a feature that two personas share keeps the first one's name
        row["label"] = f"{PERSONAS[persona][0]}: {row.get('label', '')}"
    row["label_source"] = "fit"
    row["dose"] = round(
        max(dose, row.get("dose", 0.0)), 4
    )  # the largest push at which replies stayed coherent, over the personas
    row["note"] = f"dose: lone pushes on 6 prompts, {date}"


def _preset(persona: str, found: dict[str, Any], bundle: str, doses: dict[int, float]) -> dict[str, Any]:
    name, description, starters = PERSONAS[persona]
    features = [
        {"id": f"{bundle}/{i}", "strength": round(s / doses[int(i)], 4), "mode": "add"}
        for i, s in sorted(found["strengths"].items(), key=lambda kv: -abs(kv[1]))
    ]
    return {
        "id": persona,
        "name": name,
        "description": description,
        "model": bundle,
        "sampling": {"temperature": 0.5, "repetition_penalty": 1.15},
        "steering": {"features": features, "unit": "dose", "scope": "assistant"},
        "starter_prompts": starters,
        "readonly": True,
    }


def shipped_scale(tried: list[dict[str, float]], *, hits: float = 0.85, logprob: float = -2.3) -> float:
    """Interpolate the scale at which the tuning prompts reach `hits`; smaller if replies became incoherent before."""
    for a, b in itertools.pairwise(tried):
        wanted = _crossing(a, b, "hits", hits) if a["hits"] < hits <= b["hits"] else None
        broken = _crossing(a, b, "logprob", logprob) if b["logprob"] < logprob <= a["logprob"] else None
        if found := [x for x in (wanted, broken) if x is not None]:
            return round(min(found), 2)
    return tried[-1]["scale"]


def _crossing(a: dict[str, float], b: dict[str, float], name: str, level: float) -> float:
    return a["scale"] + (b["scale"] - a["scale"]) * (level - a[name]) / (b[name] - a[name])


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.with_suffix(path.suffix + ".tmp").write_text(text)
    path.with_suffix(path.suffix + ".tmp").replace(path)


if __name__ == "__main__":
    main()
