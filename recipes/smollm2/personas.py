"""Stage `personas`: the presets of `personas.toml`, as pushes of at most four features, or along a tone's lines.

A subject's features are selected among those that readers named after it, by what replies show (`selection.py`). A tone's
push is the difference of means between texts made of its written lines and those of all other concepts: no feature, and its
snapshot says so. A push
is the shortest that shows the persona most, among those at which the expected share of fluent replies is at most `PRICE` below
the unsteered model's. Words only choose: where readers
asked for another length it stands in the file, and whether a persona is shipped is decided by them (`bench.presets`).
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.smollm2.bundle import NAME, REVISION, SAMPLING, read_labels
from recipes.smollm2.files import Record, finish, read_lines, say, write_json, write_lines
from recipes.smollm2.layers import passage_ids, streams_of
from recipes.smollm2.lean import Lean
from recipes.smollm2.model import PACKAGE
from recipes.smollm2.selection import PRICE, Bench, Parts, Trial, direction_of, select
from steering.bakeoff.personas import TUNING
from steering.calibration import dose_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import dose_of, knots_of
from steering.doses.bundle_doses import prepare_rollouts
from steering.edits import as_text
from steering.spec import VECTOR, FeatureSnapshot, Intervention, Preset, SteeringSpec

FILE = Path(__file__).with_name("personas.toml")
LENGTHS = (0.14, 0.17, 0.20, 0.23, 0.26, 0.29, 0.32, 0.36)
"""Pushes that are tried, in typical norms."""
PASSAGES = 60
"""Texts of each concept, for the means."""
SHOWN = 0.5
"""Least share of replies that show a persona for which it becomes a preset."""
TRIED_AT = 0.26
"""Length at which features are selected."""
AS_OFTEN = 0.07
"""Difference of two shares that sixteen replies cannot tell."""
CANDIDATES = 24
"""Features named after a subject that are tried: those that fire most often."""
SORTS = "TSDW"
"""Sorts of labels that a candidate may have; grammar and mixed ones bring no subject."""


def make_personas(out: Path, threads: int) -> None:
    """Write `presets.json` of `out/bundle`; each persona is kept in `out/personas.jsonl` as soon as it is there."""
    torch.set_num_threads(threads)
    bundle, known = Bundle.open(out / "bundle"), tomllib.loads(FILE.read_text())["persona"]
    tones, kept = _tones(out, bundle), out / "personas.jsonl"
    few, bench = _benches(out, bundle)
    record: dict[str, Record] = {r["id"]: r for r in (read_lines(kept) if kept.exists() else ())}
    for persona in known:
        if persona["id"] not in record:
            record[persona["id"]] = {"id": persona["id"], **_chosen(persona, bundle, tones, few, bench)}
            write_lines(kept, [*record.values()])
            say(f"personas: {record[persona['id']]}")
    enough = bench.unsteered_fluent - PRICE
    rows = [
        _preset(p, record[p["id"]], bundle, tones, enough).model_dump(exclude_defaults=True, mode="json")
        for p in known
        if "failed" not in p and ("length" in p or _is_shown(record[p["id"]], enough))
    ]
    write_json(out / "bundle" / "presets.json", rows)
    finish(out, "personas", {"unsteered_fluent": round(bench.unsteered_fluent, 3), "price": PRICE, "personas": record})


def _benches(out: Path, bundle: Bundle) -> tuple[Bench, Bench]:
    """Half of the questions, on which features are selected, and all, on which the length is."""
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    tokenizer.chat_template = PACKAGE.chat_template
    info = bundle.info

    def bench(questions: Sequence[str]) -> Bench:
        stage = prepare_rollouts(model, tokenizer, info.hook, questions, where=info.where)
        return Bench(stage, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), info.typical_norm)

    return bench(TUNING[::2]), bench(TUNING)


def _chosen(persona: Record, bundle: Bundle, tones: dict[str, Tensor], few: Bench, bench: Bench) -> Record:
    """The persona's rows with weights, and the length of its push; no parts where no feature is named after it."""
    words = re.compile(rf"\b(?:{persona['words']})", re.IGNORECASE)
    shows = lambda text: words.search(text) is not None  # noqa: E731
    parts: Parts = ()
    if "about" in persona:
        candidates = _named(persona["about"], bundle)
        if not candidates:
            return {"parts": [], "shown_and_fluent": {}}

        def try_directions(directions: list[Tensor]) -> list[Trial]:
            return few.try_pushes([(d, TRIED_AT) for d in directions], shows)

        parts = select(try_directions, bundle.sae.W_dec, candidates, few.unsteered_fluent - PRICE)
    direction = direction_of(parts, bundle.sae.W_dec) if parts else tones[persona["id"]]
    trials = bench.try_pushes([(direction, length) for length in LENGTHS], shows)
    figures = {str(n): [round(t.shown, 3), round(t.fluent, 3)] for n, t in zip(LENGTHS, trials, strict=True)}
    return {"parts": parts or [VECTOR + persona["id"]], "shown_and_fluent": figures}


def _is_shown(chosen: Record, enough: float) -> bool:
    figures = chosen["shown_and_fluent"]
    return bool(chosen["parts"]) and figures[str(_length(figures, enough))][0] >= SHOWN


def _length(figures: dict[str, list[float]], enough: float) -> float:
    """The shortest length that is fluent enough and shows it as often as any such; figures are shares by length."""
    fine = {float(length): shown for length, (shown, fluent) in figures.items() if fluent >= enough}
    return min((n for n, shown in fine.items() if shown >= max(fine.values()) - AS_OFTEN), default=LENGTHS[0])


def _named(about: str, bundle: Bundle) -> list[int]:
    """Rows of the features whose label matches, those that fire most often first."""
    wanted, labels = re.compile(about, re.IGNORECASE), read_labels()
    found = [
        f for f in bundle.features if f.index in labels and labels[f.index].sort in SORTS and wanted.search(f.label)
    ]
    return [f.row for f in sorted(found, key=lambda f: -f.density)[:CANDIDATES]]


def _tones(out: Path, bundle: Bundle) -> dict[str, Tensor]:
    """The unit vector of each tone, by the id of its persona."""
    tokenizer, model = AutoTokenizer.from_pretrained(out / "model"), Lean(out / "model")
    means = {
        name: torch.stack([x.mean(0) for x in streams_of(model, ids, bundle.layer)]).mean(0)
        for name, ids in passage_ids(out, tokenizer, PASSAGES).items()
    }

    def away(tone: str) -> Tensor:
        others = torch.stack([mean for name, mean in means.items() if name != tone]).mean(0)
        return normalize(means[tone] - others, dim=0)

    return {p["id"]: away(p["tone"]) for p in tomllib.loads(FILE.read_text())["persona"] if "tone" in p}


def _preset(persona: Record, chosen: Record, bundle: Bundle, tones: dict[str, Tensor], enough: float) -> Preset:
    """The persona with strengths in doses."""
    info = bundle.info
    raw = (persona.get("length") or _length(chosen["shown_and_fluent"], enough)) * info.typical_norm
    items, snapshots = [], list[FeatureSnapshot]()
    if "tone" in persona:
        name = VECTOR + persona["id"]
        snapshots.append(_snapshot(name, tones[persona["id"]], persona["tone"], raw))
        items.append(Intervention(id=name, strength=1.0))
    else:
        parts: Parts = tuple((row, weight) for row, weight in chosen["parts"])
        unit = raw / float(direction_of(parts, bundle.sae.W_dec).norm())
        for row, weight in parts:
            feature = bundle.features[row]
            items.append(
                Intervention(
                    id=f"{NAME}/{feature.index}",
                    strength=round(dose_at(weight * unit, knots_of(feature, dose_of(feature, info))), 4),
                )
            )
    return Preset(
        id=persona["id"],
        name=persona["name"],
        description=persona["description"],
        comparison_prompt=persona["prompt"],
        model=NAME,
        sampling=SAMPLING,
        steering=SteeringSpec(features=tuple(items), scope=info.scope, skip_special=info.skip_special),
        starter_prompts=tuple(persona["starters"]),
        readonly=True,
        snapshots=tuple(snapshots),
    )


def _snapshot(name: str, direction: Tensor, tone: str, dose: float) -> FeatureSnapshot:
    return FeatureSnapshot(
        id=name,
        revision=REVISION,
        label=f"{tone}: difference of means of texts made of written lines",
        direction=as_text(direction),
        encoder="",
        bias=0.0,
        threshold=0.0,
        typical_max=dose,
        dose=round(dose, 4),
        measured=True,
    )
