"""Steering methods compared on one concept: prompt, directions, features and null baselines.

EVALUATION §3 and §6: every arm has six settings, is tuned on one half of the questions and scored on the other, with
the same judge-free composite. Directions are scaled by their own measured dose (iso-KL), so that a setting means the
same for all of them. The cost of an arm (labels, prompt tokens) is reported with its score.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.bakeoff.concepts import Concept
from steering.bakeoff.replies import Replies, SamplingArguments, reply
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.catalogue.resolve import Catalogue
from steering.doses.bundle_doses import prepare_rollouts
from steering.doses.measure import Subject, calibrate, pushes_along, reads_direction
from steering.doses.rollouts import Rollouts
from steering.edits import ResidualEdit, ResolvedIntervention, compile_edit
from steering.evaluate.coherence import rep3
from steering.interpret.directions import diff_mean, probe
from steering.model.chat_template import encode_chat
from steering.model.hooks import read_stream, steer

SETTINGS = (0.35, 0.5, 0.7, 0.85, 1.0, 1.3)
"""Doses that are tried; a prompt has at most as many phrasings."""
SCALES = (0.3, 0.45, 0.6, 0.75, 0.9, 1.1)
"""Factors on a persona's own scale."""
PAIRS = 64
TOKENS = 40
SEEDS = (0, 1, 2)
ARMS = (
    "unsteered",
    "prompt",
    "DiffMean",
    "probe",
    "SAE add",
    "SAE clamp",
    "prompt + slider",
    "persona",
    "random direction",
    "other feature",
    "sign flip",
)


def sampling_of(info: BundleInfo) -> SamplingArguments:
    """Sampling parameters of all arms: the bundle's own, else a temperature of 0.7."""
    own = info.sampling
    return {
        "temperature": own.get("temperature", 0.7),
        "top_p": own.get("top_p"),
        "repetition_penalty": own.get("repetition_penalty", 1.0),
    }


@dataclass(frozen=True, eq=False)
class Plain:
    """Unsteered replies to some questions: log-probabilities of sampled ones, and the texts of greedy ones."""

    logprobs: list[float]
    texts: list[str]
    before: list[float]

    @staticmethod
    def generate(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, info: BundleInfo, questions: Sequence[str]
    ) -> "Plain":
        """Generate the replies."""
        drawn = reply(model, tokenizer, questions, {}, **sampling_of(info), tokens=TOKENS, seed=7)
        texts = reply(model, tokenizer, questions, {}, temperature=0, tokens=TOKENS).texts
        return Plain(drawn.logprobs, texts, likely(model, tokenizer, info, Setting("none"), questions, texts))


@dataclass(frozen=True, eq=False)
class Kit:
    """The model under test, and what all arms share."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    bundle: Bundle
    stage: Rollouts
    tune: tuple[str, ...]
    test: tuple[str, ...]
    plain: dict[tuple[str, ...], "Plain"]
    """Unsteered replies to each half."""

    @staticmethod
    def prepare(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        bundle: Bundle,
        tune: Sequence[str],
        test: Sequence[str],
    ) -> "Kit":
        """Compute everything that depends on the model alone."""
        hook = bundle.info.hook
        plain = {tuple(half): Plain.generate(model, tokenizer, bundle.info, half) for half in (tune, test)}
        return Kit(
            model,
            tokenizer,
            bundle,
            prepare_rollouts(model, tokenizer, hook, tune, where=bundle.info.where),
            tuple(tune),
            tuple(test),
            plain,
        )


@dataclass(frozen=True, eq=False)
class Setting:
    """One configuration of an arm."""

    says: str
    edit: ResidualEdit | None = None
    system: str | None = None


@dataclass(frozen=True, eq=False)
class Arm:
    """One method for one concept."""

    name: str
    settings: tuple[Setting, ...]
    labels: int = 0
    """Number of labelled texts that it needed."""


@dataclass(frozen=True)
class Score:
    """Metrics of an arm on one half of the questions, reply by reply."""

    hits: tuple[float, ...]
    surprise: tuple[float, ...]
    """Nats per token, relative to the unsteered replies."""
    repetition: tuple[float, ...]
    lost: tuple[float, ...]
    """By how much the unsteered replies become less likely, nats per token."""
    ms: float

    @property
    def quality(self) -> tuple[float, ...]:
        """Composite of each reply: harmonic mean of concept, fluency and retention; 0 if one of them is 0."""
        rows = zip(self.hits, self.surprise, self.repetition, self.lost, strict=True)
        return tuple(_composite(*row) for row in rows)


@dataclass(frozen=True)
class Result:
    """An arm, tuned on one half and scored on the other."""

    concept: str
    arm: str
    setting: str
    score: Score
    labels: int
    prompt_tokens: int
    tuned: tuple[float, ...] = field(default=())
    """Mean quality of each setting on the tuning half."""


def run_arms(
    kit: Kit, concept: Concept, *, seeds: Sequence[int] = SEEDS, on_progress: Callable[[str], None]
) -> list[Result]:
    """Run every arm on a concept."""
    found = []
    for arm in arms(kit, concept):
        tuned = [
            statistics.mean(score(kit, s, concept, kit.tune, seeds[:1]).quality) if len(arm.settings) > 1 else 0.0
            for s in arm.settings
        ]
        best = arm.settings[max(range(len(tuned)), key=tuned.__getitem__)]
        result = score(kit, best, concept, kit.test, seeds)
        tokens = len(kit.tokenizer(best.system or "")["input_ids"])
        found.append(Result(concept.name, arm.name, best.says, result, arm.labels, tokens, tuple(tuned)))
        on_progress(f"{concept.name}: {arm.name} {statistics.mean(result.quality):.2f}")
    return found


def arms(kit: Kit, concept: Concept) -> list[Arm]:
    """Return all arms of a concept, each with its settings."""
    with_it, without = _contrast(kit, concept)
    sae, n = kit.bundle.sae, PAIRS
    feature = _feature(kit, concept, with_it, without)
    other = _random_feature(kit, feature)
    direction = lambda f: sae.W_dec[f.row].float().cpu()  # noqa: E731
    random_ = torch.nn.functional.normalize(
        torch.randn(sae.d_in, generator=torch.Generator().manual_seed(len(concept.name))), dim=0
    )
    prompts = tuple(Setting(repr(p), system=p) for p in concept.prompts[: len(SETTINGS)])
    pushes = _pushes(
        kit,
        {
            "DiffMean": diff_mean(with_it, without).direction,
            "probe": probe(with_it, without).direction,
            "SAE add": direction(feature),
            "random direction": random_,
            "other feature": direction(other),
            "sign flip": -direction(feature),
        },
    )
    labels = {"DiffMean": 2 * n, "probe": 2 * n, "SAE add": 2 * n, "sign flip": 2 * n}
    found = [Arm("unsteered", (Setting("none"),)), Arm("prompt", prompts)]
    found += [Arm(name, settings, labels.get(name, 0)) for name, settings in pushes.items()]
    clamps = tuple(_clamped(kit, feature, s) for s in pushes["SAE add"])
    found.append(Arm("SAE clamp", clamps, 2 * n))
    both = tuple(
        replace(s, says=f"{prompts[0].says} and {s.says}", system=prompts[0].system) for s in pushes["SAE add"]
    )
    found.append(Arm("prompt + slider", both, 2 * n))
    if persona := next((p for p in kit.bundle.presets if p.id == concept.name), None):
        catalogue, hook = Catalogue([kit.bundle]), kit.bundle.info.hook
        specs = [(s, persona.steering.model_copy(update={"scale": s})) for s in SCALES]
        settings = tuple(Setting(f"scale {s}", catalogue.resolve(spec, persona.pins).edits[hook]) for s, spec in specs)
        found.append(Arm("persona", settings, 300))  # the number of replies to which recipes/personas.py fits it
    return sorted(found, key=lambda a: ARMS.index(a.name))


def score(kit: Kit, setting: Setting, concept: Concept, questions: Sequence[str], seeds: Sequence[int]) -> Score:
    """Generate replies with a setting and score them."""
    hits, surprise, repetition, lost = [], [], [], []
    edits = {kit.bundle.info.hook: setting.edit} if setting.edit is not None else {}
    start, tokens = time.perf_counter(), 0
    replies: list[Replies] = []
    for seed in seeds:
        drawn = reply(
            kit.model,
            kit.tokenizer,
            questions,
            edits,
            system=setting.system,
            **sampling_of(kit.bundle.info),
            tokens=TOKENS,
            seed=seed,
            where=kit.bundle.info.where,
        )
        tokens += sum(len(kit.tokenizer(t)["input_ids"]) for t in drawn.texts)
        replies.append(drawn)
    ms = 1000 * (time.perf_counter() - start) / max(1, tokens)
    plain, kept = kit.plain[tuple(questions)], _retained_likelihood(kit, setting, questions)
    for drawn in replies:
        hits += [float(concept.shows(t)) for t in drawn.texts]
        surprise += [p - s for p, s in zip(plain.logprobs, drawn.logprobs, strict=True)]
        repetition += [rep3(t) for t in drawn.texts]
        lost += kept
    return Score(tuple(hits), tuple(surprise), tuple(repetition), tuple(lost), ms)


def _composite(hit: float, surprise: float, repetition: float, lost: float) -> float:
    concept = 2 * min(1.0, hit)
    fluent = 2 * 2.718281828 ** -max(0.0, abs(surprise) - 0.3) * (1 - min(1.0, repetition / 0.4))
    kept = 2 * max(0.0, 1 - max(0.0, lost))
    return 0.0 if min(concept, fluent, kept) <= 0 else 3 / (1 / concept + 1 / fluent + 1 / kept)


def interval(values: Sequence[float], *, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean."""
    draw = random.Random(seed)
    means = sorted(statistics.mean(draw.choices(values, k=len(values))) for _ in range(rounds))
    return means[int(0.025 * rounds)], means[int(0.975 * rounds)]


def _contrast(kit: Kit, concept: Concept) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]]:
    """Mean stream of replies that were prompted to show the concept, and of others; both read without the system
    prompt.
    """
    rows: list[list[Tensor]] = [[], []]
    rounds = -(-PAIRS // len(kit.tune))
    for seed in range(rounds):
        system = concept.prompts[seed % len(concept.prompts)]
        for place, asked in ((0, system), (1, None)):
            drawn = sampling_of(kit.bundle.info)
            replies = reply(
                kit.model, kit.tokenizer, kit.tune, {}, system=asked, **drawn, tokens=TOKENS, seed=90 + seed
            )
            rows[place] += _streams(kit, replies.texts)
    one, other = (torch.stack(r[:PAIRS]) for r in rows)
    return one, other


def _streams(kit: Kit, texts: Sequence[str]) -> list[Tensor]:
    found = []
    for question, text in zip(kit.tune, texts, strict=True):
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": text or "."}]
        encoded = encode_chat(kit.tokenizer, chat, generate=False)
        x = read_stream(kit.model, torch.tensor([encoded.ids], device=kit.model.device), kit.bundle.info.hook)[0]
        found.append(x[torch.tensor(encoded.assistant)].float().mean(0).cpu())
    return found


def _feature(kit: Kit, concept: Concept, with_it: Tensor, without: Tensor) -> Feature:
    """Return the working feature whose words match the concept; else the one whose activation differs most."""
    able = [f for f in kit.bundle.features if f.sweet_spot and f.calibration and f.calibration.works]
    if not able:
        raise SystemExit("no feature has a measured dose that works; run `tiller calibrate` first")
    named = [f for f in able if concept.shows(f.label) or sum(concept.shows(w) for w in _words(f)) >= 2]
    rows = torch.tensor([f.row for f in able])
    apart = kit.bundle.sae.only(rows).encode(with_it).mean(0) - kit.bundle.sae.only(rows).encode(without).mean(0)
    by = {f.id: float(v) for f, v in zip(able, apart, strict=True)}
    return max(named or able, key=lambda f: by[f.id])


def _words(f: Feature) -> Sequence[str]:
    return (f.calibration.words if f.calibration else ()) or f.words


def _random_feature(kit: Kit, feature: Feature) -> Feature:
    able = [f for f in kit.bundle.features if f.sweet_spot and f.id != feature.id]
    return random.Random(feature.index).choice(able)


def _pushes(kit: Kit, directions: dict[str, Tensor]) -> dict[str, tuple[Setting, ...]]:
    """Return each direction at six of its own doses, measured for all of them in one batch."""
    norm = kit.bundle.info.typical_norm
    subjects = [Subject(pushes_along(d), reads_direction(d, norm), 2 * norm, signs=(1,)) for d in directions.values()]
    decode = lambda ids: str(kit.tokenizer.decode(ids, skip_special_tokens=True))  # noqa: E731
    doses = calibrate([kit.stage], subjects, None, decode, norm)
    return {
        name: tuple(Setting(f"dose {s}", subject.push(s * found.dose)) for s in SETTINGS)
        for name, subject, found in zip(directions, subjects, doses, strict=True)
    }


def _clamped(kit: Kit, feature: Feature, added: Setting) -> Setting:
    assert added.edit is not None
    raw = float(added.edit.push @ kit.bundle.sae.W_dec[feature.row])
    edit = compile_edit([ResolvedIntervention(feature.row, "clamp", raw)], kit.bundle.sae)
    return Setting(f"clamp, {added.says}", edit)


def _retained_likelihood(kit: Kit, setting: Setting, questions: Sequence[str]) -> list[float]:
    """By how much less likely the unsteered replies are under a setting, nats per token, question by question."""
    plain = kit.plain[tuple(questions)]
    after = likely(kit.model, kit.tokenizer, kit.bundle.info, setting, questions, plain.texts)
    return [b - a for b, a in zip(plain.before, after, strict=True)]


@torch.no_grad()
def likely(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    info: BundleInfo,
    setting: Setting,
    questions: Sequence[str],
    texts: Sequence[str],
) -> list[float]:
    """Return the mean log-probability per token of given replies under a setting."""
    found = []
    edits = {info.hook: setting.edit} if setting.edit is not None else {}
    head = [{"role": "system", "content": setting.system}] if setting.system else []
    for question, text in zip(questions, texts, strict=True):
        chat = [*head, {"role": "user", "content": question}, {"role": "assistant", "content": text or "."}]
        prompt, complete = encode_chat(tokenizer, chat[:-1]), encode_chat(tokenizer, chat, generate=False)
        ids, where = (torch.tensor([v], device=model.device) for v in (complete.ids, complete.steered(info.where)))
        with steer(model, edits, where=where):
            logs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        found.append(float(logs.gather(1, ids[0, 1:, None])[len(prompt.ids) - 1 :, 0].mean()))
    return found
