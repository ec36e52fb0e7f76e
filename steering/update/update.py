"""Update of a published SAE: from a bundle, old text and new text to a candidate with gates.

Texts come with the number of their author; names of users, stores and schedules are the caller's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature, number_of
from steering.catalogue.revisions import Revisions, carry_features
from steering.edits import as_vector
from steering.evaluate.sae_metrics import measure_sae
from steering.interpret.describe import FIELDS, describe
from steering.model.activations import ShuffledStream, padded_batches
from steering.model.token_store import TokenStore
from steering.sae import SAE
from steering.spec import Preset
from steering.train import checkpoint
from steering.train.trainer import Progress, Trainer, TrainingRecipe, train_with_checkpoints
from steering.train.weights import Rows
from steering.update import gates
from steering.update.gates import Gate, HeldOut, Suspect
from steering.update.growth import Anchored, anchor_strengths, grow_sae
from steering.update.sample import MEASURED, Sample, StreamReader

PROMPTS = 64
LIVE = 0.5
"""Largest share of a feature's firing on users' texts, without the corpus, that may be on the texts of few users."""
RISEN = 0.02
"""By how much that share may rise for a feature that exceeded the limit before."""


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of an update."""

    steps: int = 600
    rows: int = 2048
    """Tokens per step, half of them old."""
    append: int = 64
    """Number of new rows."""
    lr: float = 3e-4
    """A third of the learning rate that the SAE was trained with."""
    warmup: int = 100
    anchor: float = 0.05
    """Weight of the penalty on anchored rows that turn."""
    frequent: float = 0.985
    """Share of all firing that is anchored: slightly more than the identity gate requires."""
    users: int = 20
    """Least number of users on whose texts a feature fires that does not fire on the corpus."""
    buffer: int = 60_000
    """Tokens in each shuffle buffer."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Texts:
    """Training texts of an update."""

    old: TokenStore
    """The corpus and a sample of earlier text."""
    new: TokenStore
    owners: Sequence[int] | None = None
    """Author of each of `new`, by number; None if it is a corpus."""
    skip: frozenset[int] = frozenset()
    """Ids of special tokens."""

    @property
    def users(self) -> int:
        """Number of authors."""
        return max(self.owners, default=-1) + 1 if self.owners is not None else 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate for the next revision."""

    sae: SAE
    numbers: tuple[int, ...]
    features: list[Feature]
    """Measurements, on the corpus alone."""
    gates: list[Gate]
    suspects: list[Suspect]
    figures: dict[str, float] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    """Optimiser moments of the rows with which the next update may start."""

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return all(gate.passed for gate in self.gates)

    def report(self) -> dict[str, Any]:
        """Return every gate with its value and limit, and every feature that was removed, with the reason."""
        return {
            "passed": self.passed,
            "failed": [g.says for g in self.gates if not g.passed],
            "gates": [g.as_row() for g in self.gates],
            "taken_out": [
                {"row": s.row, "share": round(s.share, 4), "users": s.users, "why": s.says} for s in self.suspects
            ],
        }


def update_sae(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    parent: Bundle,
    revisions: Revisions,
    texts: Texts,
    presets: Sequence[Preset],
    plan: Plan,
    *,
    file: Path,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Candidate:
    """Train on, and evaluate the gates. `file` is the checkpoint: with the same arguments, training resumes from it.

    Raises ValueError if there is too little text, SteeringError if the SAE cannot be trained further.
    """
    parent.sae.check_learns()
    reader = StreamReader(model, parent.info.hook, texts.skip)
    old, new = reader.sample(texts.old), reader.sample(texts.new)
    before = _measure_parent(parent, presets, old, new)
    training = _training(parent, plan, before, old.rows, reader.rows(new.learn, MEASURED))
    _warm_start(training, revisions.moments(parent.info.revision), before.recycled)
    position = _resume(training, file)
    drawn = partial(reader.stream, rows=plan.rows // 2, buffer=plan.buffer, seed=plan.seed)
    source = ShuffledStream(drawn(old.learn, position[:2]), drawn(new.learn, position[2:]))
    for progress in train_with_checkpoints(training, source, every=100, file=file):
        tell(progress)
    trained = training.weights.to_sae(training.scale).calibrated(old.rows, before.l0)
    served, suspects = _without_suspects(model, parent, trained, texts, before.recycled, plan, old.rows)
    grown, recycled = served.d_sae - parent.sae.d_sae, before.recycled.tolist()
    numbers = revisions.numbers_after(parent.info.revision, recycled=recycled, grown=grown)
    measured = _measured(model, tokenizer, served, parent, old.held, numbers)
    bundle = _candidate_bundle(parent, served, numbers, measured)
    figures = _figures(served, old.rows, new.rows) | {"grown": float(grown), "retired": float(len(recycled))}
    return Candidate(
        served,
        numbers,
        measured,
        _judged(model, parent, bundle, presets, before, _held_out(tokenizer, old, new)),
        suspects,
        figures,
        _moments_of_rows(training, parent.sae.d_sae, served.d_sae),
    )


def _held_out(tokenizer: PreTrainedTokenizerFast, old: Sample, new: Sample) -> HeldOut:
    n = min(len(old.rows), len(new.rows))
    mixed = torch.cat([old.rows[:n], new.rows[:n]])
    return HeldOut(old.rows, mixed, [*old.held][:100], _prompts(tokenizer, old.held))


@dataclass(frozen=True, eq=False)
class _Before:
    """The parent's features before the update."""

    l0: float
    fired: Tensor
    """How often each fires on the held-out corpus."""
    pinned: dict[int, Tensor]
    held: Tensor
    """Whether a preset uses it."""
    labelled: Tensor
    """Whether a person or a fit named it."""
    recycled: Tensor
    """Rows that never fire and that nobody uses: new features take their place."""


def _measure_parent(parent: Bundle, presets: Sequence[Preset], old: Sample, new: Sample) -> _Before:
    fired = _firing_counts(parent.sae, old.rows)
    pinned = _pinned(parent, presets)
    labelled = torch.tensor([f.label_source in ("hand", "fit") for f in parent.features])
    held = torch.zeros(parent.sae.d_sae, dtype=torch.bool)
    held[sorted(pinned)] = True
    dead = (fired + _firing_counts(parent.sae, new.rows) == 0) & ~held & ~labelled
    l0 = measure_sae(parent.sae, old.rows.split(4096)).l0
    return _Before(l0, fired, pinned, held, labelled, dead.nonzero()[:, 0])


def _warm_start(training: Trainer, moments: dict[str, Tensor], recycled: Tensor) -> None:
    """Continue with the optimiser's moments of the last update, but for the recycled rows."""
    if moments:
        begun_anew = torch.zeros(training.weights.d_sae, dtype=torch.bool)
        begun_anew[recycled] = True
        training.restore_moments(moments, new=begun_anew)


def _candidate_bundle(parent: Bundle, served: SAE, numbers: tuple[int, ...], measured: list[Feature]) -> Bundle:
    info = parent.info.model_copy(update={"revision": "candidate"})
    return replace(parent, sae=served, features=carry_features(parent, served, numbers, measured), info=info)


def _judged(
    model: PreTrainedModel,
    parent: Bundle,
    bundle: Bundle,
    presets: Sequence[Preset],
    before: _Before,
    held_out: HeldOut,
) -> list[Gate]:
    sae, served, recycled = parent.sae, bundle.sae, {*before.recycled.tolist()}
    kept = torch.tensor([i for i in range(sae.d_sae) if i not in recycled])
    pinned = {i: d for i, d in before.pinned.items() if i < sae.d_sae}
    return [
        *gates.quality_gates(model, parent.info.hook, sae, served, held_out, before.l0),
        *gates.identity_gates(sae, served, before.fired, pinned, kept),
        *gates.behaviour_gates(model, parent, bundle, presets, held_out.prompts),
    ]


def _resume(training: Trainer, file: Path) -> tuple[int, ...]:
    """Return both streams' positions at the checkpoint, and restore the training."""
    if not file.exists():
        return (0, 0, 0, 0)
    saved = checkpoint.load(file)
    training.restore(saved["training"])
    return tuple(saved["positions"][0])


def _figures(served: SAE, held_old: Rows, held_new: Rows) -> dict[str, float]:
    now = measure_sae(served, held_old.split(4096))
    return {
        "explained_variance": now.explained_variance,
        "l0": now.l0,
        "dead": now.dead,
        "explained_variance_new": measure_sae(served, held_new.split(4096)).explained_variance,
    }


def _moments_of_rows(training: Trainer, before: int, after: int) -> dict[str, Tensor]:
    """Return the optimiser's moments for the next update.

    Where new rows were removed, the remaining ones have moved up: all new rows start without history next time.
    """
    moments, trained = training.moments(), training.weights.d_sae
    return moments if after == trained else {n: t[:before] if len(t) == trained else t for n, t in moments.items()}


def _training(parent: Bundle, plan: Plan, before: _Before, old: Rows, new: Rows) -> Trainer:
    scale = (old.shape[1] / float(old.pow(2).sum(1).mean())) ** 0.5
    generator = torch.Generator().manual_seed(plan.seed)
    recycled, held = before.recycled, before.held
    pull = anchor_strengths(before.fired, before.labelled | held, frequent=plan.frequent)
    pull[recycled] = 0
    weights = grow_sae(parent.sae, scale, new, recycled=recycled, append=plan.append, held=held, generator=generator)
    objective = Anchored(
        k=round(before.l0), anneal=1, dead_after=20_000, published=parent.sae.W_dec, pull=pull, anchor=plan.anchor
    )
    recipe = TrainingRecipe(
        objective, weights.d_sae, plan.steps, plan.lr, min(plan.warmup, plan.steps // 3), decay=0.3, dead_after=20_000
    )
    return Trainer(recipe, weights, scale)


def _without_suspects(
    model: PreTrainedModel, parent: Bundle, new: SAE, texts: Texts, recycled: Tensor, plan: Plan, held_old: Rows
) -> tuple[SAE, list[Suspect]]:
    """Remove features that few users created: new rows are deleted, other rows are reset to the parent's.

    They are searched for twice: in all text, and in users' texts alone, where the corpus cannot hide that a feature has
    been taken over by few users. The threshold stays: a lower one, so that the rest would fire instead, lets the same
    texts back in.
    """
    if texts.owners is None:
        return new, []
    hook, skip = parent.info.hook, set(texts.skip)
    corpus = len(texts.new.ids) / max(1, len(held_old))  # scales the corpus to the size of the new text
    (was, was_old), (now, now_old) = (
        (
            gates.firings_by_owner(model, sae, hook, [*texts.new], texts.owners, texts.users, skip=skip),
            _firing_counts(sae, held_old) * corpus,
        )
        for sae in (parent.sae, new)
    )
    wrong: dict[int, Suspect] = {}
    for most, others in ((LIVE, 0.0), (gates.PURE, 1.0)):
        before = gates.find_suspects(was, was_old * others, least=plan.users, most=most)
        for row, found in gates.find_suspects(now, now_old * others, least=plan.users, most=most).items():
            known = before.get(row) if row not in recycled.tolist() else None
            if found.share > (known.share + RISEN if known else 0):
                wrong[row] = found
    return gates.without_rows(new, parent.sae, sorted(wrong)), [*wrong.values()]


def _measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sae: SAE,
    parent: Bundle,
    corpus: TokenStore,
    numbers: tuple[int, ...],
) -> list[Feature]:
    """Measure maxima, density and examples on the corpus alone; only new features get labels."""
    batches = padded_batches(corpus, batch=16, longest=256, pad=0)
    rows = describe(
        model, tokenizer, sae, parent.info.hook, batches, bundle=parent.info.name, typical_norm=parent.info.typical_norm
    )
    found = []
    for row, number in zip(rows, numbers, strict=True):
        fields: dict[str, Any] = {
            "id": f"{parent.info.name}/{number}",
            "index": number,
            **{name: getattr(row, name) for name in FIELDS},
        }
        if number not in parent.numbered:
            fields |= {"label": row.label, "label_source": row.label_source}
        found.append(Feature(**fields))
    return found


def _firing_counts(sae: SAE, rows: Rows) -> Tensor:
    return sum(((sae.encode(part) > 0).sum(0).float() for part in rows.split(4096)), torch.zeros(sae.d_sae))


def _pinned(parent: Bundle, presets: Sequence[Preset]) -> dict[int, Tensor]:
    """Return the rows that presets use, each with its direction when the first of them was saved."""
    found: dict[int, Tensor] = {}
    for preset in presets:
        for item in preset.steering.features:
            feature = parent.numbered.get(number_of(item.id))
            if feature is not None:
                pin = preset.pins.get(item.id)
                here = parent.sae.W_dec[feature.row]
                found.setdefault(feature.row, as_vector(pin.direction, len(here)) if pin else here)
    return found


def _prompts(tokenizer: PreTrainedTokenizerFast, texts: TokenStore) -> list[list[int]]:
    """Return beginnings of texts up to where a turn begins: a special token, or sixteen tokens."""
    special = set(tokenizer.all_special_ids)
    found = []
    for ids in texts:
        ends = [i for i, token in enumerate(ids[2:], 3) if token in special]
        found.append(ids[: ends[-2] if len(ends) > 1 else 16][:64])
        if len(found) == PROMPTS:
            break
    return found
