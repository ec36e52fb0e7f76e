"""Checks Q1 to Q13 of the steering evaluation: effects, sliders, defaults, specificity, mixes and scopes.

Each check is one figure with its pass line; a missed line is reported as missed.
"""

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from steering.bakeoff.concepts import Concept
from steering.bakeoff.methods import ARMS, Kit, Result, interval, sampling_of
from steering.bakeoff.replies import reply
from steering.calibration import raw_at
from steering.catalogue.composition import compose
from steering.catalogue.feature import Feature, dose_of, knots_of
from steering.catalogue.resolve import Catalogue
from steering.doses.bundle_doses import prepare_rollouts, reads_feature
from steering.doses.measure import Null, pushes_along, reading
from steering.doses.rollouts import Rollouts
from steering.edits import ResidualEdit
from steering.evaluate.coherence import judge, rep3
from steering.model.chat_template import EncodedChat, encode_chat
from steering.model.hooks import read_stream, steer
from steering.spec import Intervention, RoleScope, SteeringSpec, Where

RANDOM_DIRECTIONS = 16
"""Random directions to whose effects on words a persona's is compared."""
SAMPLE = 16
"""Features whose sliders are measured."""
AT = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Check:
    """One figure of the protocol, and its pass line."""

    id: str
    says: str
    value: float
    line: str
    passed: bool | None
    """None where there is no pass line."""


class Lab:
    """A kit, rollouts on the other half of the questions, and the features whose sliders are measured."""

    def __init__(self, kit: Kit) -> None:
        self.kit, hook = kit, kit.bundle.info.hook
        self.other: Rollouts = prepare_rollouts(kit.model, kit.tokenizer, hook, kit.test, where=kit.bundle.info.where)
        able = [f for f in kit.bundle.features if f.sweet_spot and f.calibration and f.calibration.works]
        self.features = random.Random(0).sample(able, min(SAMPLE, len(able)))
        vocabulary: dict[str, list[int]] = {}
        for i in range(len(kit.tokenizer)):
            vocabulary.setdefault(str(kit.tokenizer.decode([i])).strip(), []).append(i)
        self._vocabulary = vocabulary

    def words(self, f: Feature) -> torch.Tensor:
        """Return the token ids of a feature's words."""
        words = (f.calibration.words if f.calibration else ()) or f.words
        return torch.tensor([i for w in words for i in self._vocabulary.get(w, [])], dtype=torch.long)

    def decode(self, ids: list[int]) -> str:
        """Return the text of a reply."""
        return str(self.kit.tokenizer.decode(ids, skip_special_tokens=True))

    def concept_words(self, concept: Concept) -> torch.Tensor:
        """Return the ids of all tokens that show a concept."""
        found = [i for w, ids in self._vocabulary.items() if len(w) > 2 and concept.shows(w) for i in ids]
        return torch.tensor(found[:64], dtype=torch.long)

    def push(self, f: Feature, dose: float) -> ResidualEdit:
        """Return the edit of a feature at a dose."""
        raw = raw_at(dose, knots_of(f, dose_of(f, self.kit.bundle.info)))
        return pushes_along(self.kit.bundle.sae.W_dec[f.row])(raw)


def check_all(lab: Lab, concepts: Sequence[Concept]) -> list[Check]:
    """Return the checks Q1 to Q12."""
    found = [*_effects(lab, concepts), *_sliders(lab), *_defaults(lab)]
    return [*found, _specificity(lab), _drift(lab), *_mixes(lab), *_scopes(lab, concepts)]


def _effects(lab: Lab, concepts: Sequence[Concept]) -> list[Check]:
    """Q1: concept log-odds against random directions; Q9: share of prompts on which the effect has the wrong sign."""
    kit, words = lab.kit, {c.name: lab.concept_words(c) for c in concepts}
    named = [c for c in concepts if len(words[c.name])]
    null = _word_null(lab, [words[c.name] for c in named])
    zs, wrong = [], []
    for concept in named:
        persona = next((p for p in kit.bundle.presets if p.id == concept.name), None)
        if persona is None:
            continue
        scale = persona.sweet_spot.high if persona.sweet_spot else 0.6
        spec = persona.steering.model_copy(update={"scale": scale})
        edit = Catalogue([kit.bundle]).resolve(spec, persona.pins).edits[kit.bundle.info.hook]
        effects = kit.stage.effects([edit], [words[concept.name]])[0][0]
        zs.append(null(words[concept.name], float(effects.mean())))
        wrong.append(float((effects < 0).float().mean()))
    shuffled = [
        null(words[b.name], float(kit.stage.effects([lab.push(f, 1.0)], [words[b.name]])[0][0].mean()))
        for f, b in zip(lab.features, [*named[1:], named[0]], strict=False)
    ]
    good, quiet = sum(z >= 4 for z in zs), sum(abs(z) < 3 for z in shuffled)
    return [
        Check("Q1", f"personas whose words rise by z ≥ 4 over random directions, of {len(zs)}", good, "≥ 3 of 4", good >= 0.75 * len(zs)),
        Check("Q1", f"features with another concept's words: z within ±3, of {len(shuffled)}", quiet, "all", quiet == len(shuffled)),
        Check("Q9", "share of prompts on which a persona lowers its own words", statistics.mean(wrong), "≤ 0.05", statistics.mean(wrong) <= 0.05),
    ]  # fmt: skip


def _word_null(lab: Lab, lists: Sequence[torch.Tensor]) -> Callable[[torch.Tensor, float], float]:
    """Return z of an effect on words, against random directions at their own dose 1.0."""
    kit, norm = lab.kit, lab.kit.bundle.info.typical_norm
    random_ = Null.measure([kit.stage], lab.decode, norm, seed=1)
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(
        torch.randn(RANDOM_DIRECTIONS, kit.bundle.sae.d_in, generator=generator), dim=1
    )
    effects = torch.stack([kit.stage.effects([pushes_along(d)(random_.dose)], lists)[0].mean(1) for d in directions])
    mean, spread = effects.mean(0), effects.std(0).clamp(min=0.02)
    at = {tuple(w.tolist()): i for i, w in enumerate(lists)}
    return lambda words, effect: float((effect - mean[at[tuple(words.tolist())]]) / spread[at[tuple(words.tolist())]])


def _sliders(lab: Lab) -> list[Check]:
    """Q2 to Q5: does the slider climb, and does text hold at dose 1.0, on questions that were not used for calibration?"""
    rhos, kls, surprise, repeats, fluent = [], [], [], [], []
    for f in lab.features:
        read, base = reads_feature(lab.kit.bundle.sae, f), lab.other.plain
        rolled = lab.other.run([lab.push(f, d) for d in AT])
        rhos.append(_spearman(AT, [reading(read, r) - reading(read, base) for r in rolled]))
        at_one = rolled[-1]
        kls.append(float(at_one.kl.mean()))
        surprise.append(abs(float(base.logprob.mean() - at_one.logprob.mean())))
        repeats.append(at_one.repetition - base.repetition)
        fluent += [judge(lab.decode(ids), p).fluency for ids, p in zip(at_one.replies, at_one.logprobs, strict=True)]
    return [
        Check("Q2", "rank correlation of slider and effect, other questions (median)", _median(rhos), "≥ 0.9", _median(rhos) >= 0.9),
        Check("Q3", "share of fluent replies at dose 1.0, other questions (mean)", statistics.mean(fluent), "≥ 0.85", statistics.mean(fluent) >= 0.85),
        Check("Q4", "mean KL at dose 1.0, nats, other questions (median)", _median(kls), "reported", None),
        Check("Q5", "surprise at dose 1.0, nats a token, other questions (median)", _median(surprise), "reported", None),
        Check("Q5", "repetition at dose 1.0 over unsteered (worst)", max(repeats), "≤ 0.10", max(repeats) <= 0.10),
    ]  # fmt: skip


def _defaults(lab: Lab) -> list[Check]:
    """Q6, Q7: at half of the dose, is the rest of the model's behaviour unchanged?"""
    first, agreed = [], []
    for f in lab.features:
        edit = lab.push(f, 0.5)
        (rolled,) = lab.other.run([edit])
        starts = _row_starts(rolled.replies)
        first += [float(rolled.kl[i]) for i in starts]
        agreed.append(_agreement(lab, edit))
    lost = 100 * (1 - statistics.mean(agreed))
    return [
        Check("Q6", "KL of the first token at dose 0.5, neutral questions (mean)", statistics.mean(first), "≤ 0.1", statistics.mean(first) <= 0.1),
        Check("Q7", "points of top-1 agreement lost on the model's own answers at dose 0.5", lost, "≤ 2", lost <= 2),
    ]  # fmt: skip


def _agreement(lab: Lab, edit: ResidualEdit) -> float:
    """Return the share of the unsteered replies' tokens that are still the argmax."""
    stage, kit = lab.other, lab.kit
    ids = torch.cat([stage.ids, stage.replies], 1)
    real = torch.cat([stage.real, torch.ones_like(stage.spoken)], 1)
    where = torch.cat([stage.steered, torch.ones_like(stage.spoken)], 1)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), steer(kit.model, {kit.bundle.info.hook: edit}, where=where):
        logits = kit.model(input_ids=ids, attention_mask=real.long(), position_ids=positions, use_cache=False).logits
    best = logits[:, stage.ids.shape[1] - 1 : -1].argmax(-1)
    return float((best == stage.replies)[stage.spoken].float().mean())


def _specificity(lab: Lab) -> Check:
    """Q8: does the pushed feature fire most on the steered text, when the unsteered model reads it?"""
    kit, ranks = lab.kit, []
    rare = torch.tensor([f.density <= 0.2 for f in kit.bundle.features])
    questions = kit.test[:8]
    base = _read(lab, questions, kit.plain[kit.test].texts[:8])
    for f in lab.features[:8]:
        texts = reply(
            kit.model,
            kit.tokenizer,
            questions,
            {kit.bundle.info.hook: lab.push(f, 1.0)},
            **sampling_of(kit.bundle.info),
            tokens=40,
            where=kit.bundle.info.where,
        ).texts
        apart = torch.where(rare, (_read(lab, questions, texts) - base).abs(), 0.0)
        ranks.append(int((apart > apart[f.row]).sum()) + 1)
    return Check("Q8", f"rank of the pushed feature in what the text shows, of {kit.bundle.sae.d_sae} (median)", _median(ranks), "1", _median(ranks) == 1)  # fmt: skip


def _read(lab: Lab, questions: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
    kit, sums = lab.kit, []
    for question, text in zip(questions, texts, strict=True):
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": text or "."}]
        encoded = encode_chat(kit.tokenizer, chat, generate=False)
        x = read_stream(kit.model, torch.tensor([encoded.ids], device=kit.model.device), kit.bundle.info.hook)[0]
        sums.append(kit.bundle.sae.encode(x[torch.tensor(encoded.assistant)].float()).mean(0).cpu())
    return torch.stack(sums).mean(0)


def _drift(lab: Lab) -> Check:
    """Q10: does the repetition of a steered conversation rise over ten turns?"""
    kit, catalogue = lab.kit, Catalogue([lab.kit.bundle])
    slopes = []
    for persona in kit.bundle.presets[:4]:
        scale = persona.sweet_spot.high if persona.sweet_spot else 0.6
        spec = persona.steering.model_copy(update={"scale": scale})
        edit = catalogue.resolve(spec, persona.pins).edits[kit.bundle.info.hook]
        chat, by_turn = [], []
        for turn in range(10):
            chat.append({"role": "user", "content": kit.test[turn % len(kit.test)]})
            encoded = encode_chat(kit.tokenizer, chat)
            text = _sample_next(lab, encoded, edit, encoded.steered(kit.bundle.info.where), seed=turn)
            chat.append({"role": "assistant", "content": text or "."})
            by_turn.append(rep3(text.split()))
        slopes.append(_slope(by_turn))
    return Check("Q10", "rise of repetition a turn over ten turns (worst of four personas)", max(slopes), "≤ 0.005", max(slopes) <= 0.005)  # fmt: skip


def _sample_next(lab: Lab, chat: EncodedChat, edit: ResidualEdit, where: Sequence[bool], *, seed: int) -> str:
    """Sample the next reply, with an edit on some of the chat's tokens and on all generated ones."""
    kit, ids = lab.kit, torch.tensor([chat.ids], device=lab.kit.model.device)
    mask = torch.tensor([where], device=ids.device)
    torch.manual_seed(seed)
    with torch.no_grad(), steer(kit.model, {kit.bundle.info.hook: edit}, where=mask):
        out = kit.model.generate(  # pyright: ignore[reportCallIssue] - transformers types its mixin as a tensor
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=40,
            do_sample=True,
            **sampling_of(kit.bundle.info),
            pad_token_id=0,
        )
    return str(kit.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _mixes(lab: Lab) -> list[Check]:
    """Q11: are effects additive, and does the load predict the KL of a mix?"""
    kit, draw, off, loads, kls = lab.kit, random.Random(1), [], [], []
    for _ in range(12):
        a, b = draw.sample(lab.features, 2)
        edits = [lab.push(a, 0.5), lab.push(b, 0.5)]
        both = pushes_along(edits[0].push + edits[1].push)(1.0)
        lists = [lab.words(a), lab.words(b)]
        one, other, mix = (e.mean(1) for e in lab.other.effects([*edits, both], lists))
        off.append(float((mix - one - other).norm() / (one + other).norm().clamp(min=1e-3)))
    for n in (1, 2, 3, 5):
        for _ in range(6):
            chosen = [(f, draw.uniform(0.2, 0.9)) for f in draw.sample(lab.features, n)]
            spec = SteeringSpec(features=tuple(Intervention(id=f.id, strength=d) for f, d in chosen))
            resolved = Catalogue([kit.bundle]).resolve(spec)
            (rolled,) = lab.other.run([resolved.edits[kit.bundle.info.hook]])
            loads.append(compose(resolved, kit.bundle).load)
            kls.append(float(rolled.kl.quantile(0.95)))
    rho = _spearman(loads, kls)
    return [
        Check("Q11", "how far effects of pairs are from adding up, relative (median)", _median(off), "≤ 0.25", _median(off) <= 0.25),
        Check("Q11", "rank correlation of a mix's load and its p95 KL, 24 mixes of 1–5", rho, "≥ 0.8", rho >= 0.8),
    ]  # fmt: skip


def _scopes(lab: Lab, concepts: Sequence[Concept]) -> list[Check]:
    """Q12: steered tokens. One persona, three scopes, the same strength."""
    kit, found = lab.kit, []
    concept = next((c for c in concepts if any(p.id == c.name for p in kit.bundle.presets)), None)
    if concept is None:
        return []
    persona = next(p for p in kit.bundle.presets if p.id == concept.name)
    spec = persona.steering.model_copy(update={"scale": 0.7})
    edit = Catalogue([kit.bundle]).resolve(spec, persona.pins).edits[kit.bundle.info.hook]
    scopes: tuple[RoleScope, ...] = ("assistant", "all", "generated")
    for scope in scopes:
        hits = 0
        for i, question in enumerate(kit.test):
            chat = encode_chat(kit.tokenizer, [{"role": "user", "content": question}])
            hits += concept.shows(_sample_next(lab, chat, edit, chat.steered(Where(scope)), seed=i))
        found.append(Check("Q12", f"{persona.name} at 0.7, scope {scope}: share of replies that show it", hits / len(kit.test), "reported", None))  # fmt: skip
    return found


def compare_arms(results: Sequence[Result]) -> list[Check]:
    """Q13: comparisons of the bake-off, with intervals."""
    by = {arm: qualities_of(results, arm) for arm in ARMS}
    found = []
    for one, other, line in (
        ("SAE add", "random direction", "lower end > 0"),
        ("SAE add", "prompt", "reported"),
        ("SAE add", "DiffMean", "reported"),
        ("persona", "prompt", "reported"),
        ("prompt + slider", "prompt", "reported"),
    ):
        if not by[one] or not by[other]:
            continue
        pairs = _paired(results, one, other)
        low, high = interval([a - b for a, b in pairs])
        mean = statistics.mean(a - b for a, b in pairs)
        passed = low > 0 if line != "reported" else None
        found.append(
            Check("Q13", f"quality of {one} over {other}: {mean:+.2f} ({low:+.2f} … {high:+.2f})", mean, line, passed)
        )
    return found


def _paired(results: Sequence[Result], one: str, other: str) -> list[tuple[float, float]]:
    found = []
    for concept in dict.fromkeys(r.concept for r in results):
        rows = {r.arm: r.score.quality for r in results if r.concept == concept}
        if one in rows and other in rows:
            found += list(zip(rows[one], rows[other], strict=True))
    return found


def qualities_of(results: Sequence[Result], arm: str) -> list[float]:
    """Return the composite of each reply of an arm, over all concepts."""
    return [q for r in results if r.arm == arm for q in r.score.quality]


def _row_starts(rows: Sequence[Sequence[int]]) -> list[int]:
    found, at = [], 0
    for row in rows:
        found.append(at)
        at += len(row)
    return found


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def _spearman(xs: Iterable[float], ys: Iterable[float]) -> float:
    a, b = (torch.tensor(list(v)).argsort().argsort().double() for v in (xs, ys))
    a, b = a - a.mean(), b - b.mean()
    bottom = float(a.norm() * b.norm())
    return float(a @ b) / bottom if bottom else math.nan


def _slope(values: Sequence[float]) -> float:
    xs = torch.arange(len(values)).double()
    ys = torch.tensor(values).double()
    return float(((xs - xs.mean()) * (ys - ys.mean())).sum() / (xs - xs.mean()).pow(2).sum())
