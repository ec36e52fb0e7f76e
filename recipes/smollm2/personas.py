"""Stage `personas`: the presets of `personas.toml`, as pushes of at most four features, or along a tone's lines.

A subject's push points where the difference of means between its passages and the others' points, as near as four features
can (`combine.py`). A tone's push is the difference of means between its eight written lines and plain ones: no feature, and
its snapshot says so. How long a push is, is decided by replies: the longest at which the expected share of fluent ones is at
most `PRICE` below the unsteered model's.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.smollm2.bundle import NAME, REVISION, read_labels
from recipes.smollm2.combine import combine
from recipes.smollm2.concepts import concepts
from recipes.smollm2.files import Record, finish, say, write_json
from recipes.smollm2.layers import passage_ids, streams_of
from recipes.smollm2.lean import Lean
from steering.bakeoff.personas import TUNING
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import dose_of
from steering.doses.bundle_doses import prepare_rollouts
from steering.doses.measure import pushes_along
from steering.doses.rollouts import Rollout
from steering.edits import as_text
from steering.evaluate.coherence import judge
from steering.spec import VECTOR, FeatureSnapshot, Intervention, Preset, SteeringSpec

FILE = Path(__file__).with_name("personas.toml")
PASSAGES = 150
"""Of each concept, for the means."""
LENGTHS = (0.22, 0.25, 0.28, 0.31, 0.34, 0.37, 0.40)
"""Pushes that are tried, in typical norms."""
PRICE = 0.06
"""Expected share of fluent replies that a persona may cost; readers allow a tenth."""
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1}
Parts = dict[str, float]
"""Weights by feature id, or by the id of a vector."""


def make_personas(out: Path, threads: int) -> None:
    """Write `presets.json` of `out/bundle`."""
    torch.set_num_threads(threads)
    bundle = Bundle.open(out / "bundle")
    known: list[Record] = tomllib.loads(FILE.read_text())["persona"]
    directions, tones = _directions(out, bundle, known), _tones(out, bundle)
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    stage = prepare_rollouts(model, tokenizer, bundle.info.hook, TUNING)
    decode = lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))  # noqa: E731
    plain = _fluent(stage.plain, decode)
    presets, record = [], {}
    for persona in known:
        parts = directions[persona["id"]]
        push = normalize(_push(parts, bundle, tones), dim=0)
        edits = [pushes_along(push)(length * bundle.info.typical_norm) for length in LENGTHS]
        shares = [round(_fluent(rollout, decode), 3) for rollout in stage.run(edits, kl=False)]
        fine = [length for length, share in zip(LENGTHS, shares, strict=True) if share >= plain - PRICE]
        length = max(fine, default=LENGTHS[0])
        presets.append(_preset(persona, parts, length, bundle, tones))
        record[persona["id"]] = {"length": length, "fluent": dict(zip(map(str, LENGTHS), shares, strict=True))}
        say(f"personas: {persona['id']}: {length} of the typical norm, {len(parts)} parts, fluent {shares}")
    rows = [p.model_dump(exclude_defaults=True, mode="json") for p in presets]
    write_json(out / "bundle" / "presets.json", rows)
    finish(out, "personas", {"unsteered_fluent": round(plain, 3), "price": PRICE, "personas": record})


def _directions(out: Path, bundle: Bundle, personas: list[Record]) -> dict[str, Parts]:
    """The parts of each persona: given features, features combined for a subject, or a tone's vector."""
    tokenizer, model = AutoTokenizer.from_pretrained(out / "model"), Lean(out / "model")
    texts = passage_ids(out, tokenizer, PASSAGES)
    means, active = dict[str, Tensor](), dict[str, Tensor]()
    for name, ids in texts.items():
        streams = streams_of(model, ids, bundle.layer)
        means[name] = torch.stack([x.mean(0) for x in streams]).mean(0)
        active[name] = torch.stack([bundle.sae.encode(x).mean(0) for x in streams]).mean(0)
    labels = read_labels()
    meant = [f.index in labels and labels[f.index].sort in "TSD" for f in bundle.features]
    found = dict[str, Parts]()
    for persona in personas:
        if "features" in persona:
            found[persona["id"]] = {f"{NAME}/{index}": weight for index, weight in persona["features"]}
        elif "tone" in persona:
            found[persona["id"]] = {VECTOR + persona["id"]: 1.0}
        else:
            name = persona["subject"].replace(" ", "-").lower()
            others = [n for n in texts if n != name]
            away = means[name] - torch.stack([means[n] for n in others]).mean(0)
            contrast = active[name] - torch.stack([active[n] for n in others]).mean(0)
            chosen = combine(away, bundle.sae.W_dec, contrast, torch.tensor(meant))
            ids = [bundle.features[row].id for row in chosen.rows]
            found[persona["id"]] = dict(zip(ids, chosen.weights, strict=True))
    return found


def _tones(out: Path, bundle: Bundle) -> dict[str, Tensor]:
    """The unit vector of each tone, by the name of its persona."""
    tokenizer, model = AutoTokenizer.from_pretrained(out / "model"), Lean(out / "model")

    def mean(lines: tuple[str, ...]) -> Tensor:
        ids = tokenizer(list(lines), add_special_tokens=False)["input_ids"]
        return torch.cat(streams_of(model, ids, bundle.layer)).mean(0)

    plain, lines = mean(concepts().plain), {t.name: t.lines for t in concepts().tones}
    wanted = {p["id"]: p["tone"] for p in tomllib.loads(FILE.read_text())["persona"] if "tone" in p}
    return {name: normalize(mean(lines[tone]) - plain, dim=0) for name, tone in wanted.items()}


def _push(parts: Parts, bundle: Bundle, tones: dict[str, Tensor]) -> Tensor:
    rows = {f.id: f.row for f in bundle.features}
    direction = lambda i: tones[i.removeprefix(VECTOR)] if i.startswith(VECTOR) else bundle.sae.W_dec[rows[i]]  # noqa: E731
    return torch.stack([weight * direction(i) for i, weight in parts.items()]).sum(0)


def _preset(persona: Record, parts: Parts, length: float, bundle: Bundle, tones: dict[str, Tensor]) -> Preset:
    """The persona with strengths in doses."""
    info = bundle.info
    unit = length * info.typical_norm / float(_push(parts, bundle, tones).norm())
    items, snapshots = [], list[FeatureSnapshot]()
    for name, weight in parts.items():
        if name.startswith(VECTOR):
            snapshots.append(_snapshot(name, tones[persona["id"]], persona["tone"], length * info.typical_norm))
            items.append(Intervention(id=name, strength=1.0))
        else:
            feature = next(f for f in bundle.features if f.id == name)
            items.append(Intervention(id=name, strength=round(weight * unit / dose_of(feature, info), 4)))
    return Preset(
        id=persona["id"],
        name=persona["name"],
        description=persona["description"],
        model=NAME,
        sampling=SAMPLING,
        steering=SteeringSpec(features=tuple(items)),
        starter_prompts=tuple(persona["starters"]),
        readonly=True,
        snapshots=tuple(snapshots),
    )


def _snapshot(name: str, direction: Tensor, tone: str, dose: float) -> FeatureSnapshot:
    return FeatureSnapshot(
        id=name,
        revision=REVISION,
        label=f"{tone}: difference of means of eight written lines",
        direction=as_text(direction),
        encoder="",
        bias=0.0,
        threshold=0.0,
        typical_max=dose,
        dose=round(dose, 4),
        measured=True,
    )


def _fluent(rollout: Rollout, decode: Callable[[list[int]], str]) -> float:
    shares = [judge(decode(ids), p).fluency for ids, p in zip(rollout.replies, rollout.logprobs, strict=True)]
    return sum(shares) / len(shares)
