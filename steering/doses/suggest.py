"""Slider suggestions: calibrated features that reproduce the replies to a prompt that states a wish.

The model itself defines a wish: it answers questions with the wish as its system prompt; then each feature is scored by
how likely it makes those answers without that prompt. One gradient gives the first-order effect of a push along every
direction; the best few are evaluated, at two doses, and added one after another while each makes the answers likelier.
For "less formal" the answers to "formal" are made less likely. So a suggestion is at most as good as the prompt: it
approximates it with sliders.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steering.calibration import raw_at
from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature, dose_of, knots_of
from steering.doses.rollouts import QUESTIONS
from steering.edits import SteeringTable
from steering.errors import SteeringError
from steering.model.chat_template import EncodedChat, Message, encode_chat
from steering.model.hooks import tap
from steering.spec import Scope

LESS = re.compile(r"^(?:less|not(?: so)?|no|without|fewer|never)\s+(?P<rest>.+)$", re.I)
MORE = re.compile(r"^(?:more|very|be|a bit|much)\s+(?P<rest>.+)$", re.I)
TOKENS, ASKED = 32, 8
"""Tokens of each answer, and number of questions."""
TRIED = 12
"""Features that are evaluated: those with the best first-order estimates."""
SHARES = (0.5, 0.9)
"""Evaluated doses, as shares of the sweet spot from its low end."""
LOAD = 1.0
"""Largest load of all features together, in doses."""
LEAST = 0.01
"""Least gain of another feature, nats per token."""


@dataclass(frozen=True)
class Clause:
    """One part of a wish."""

    says: str
    sign: int
    """−1 for "less"."""

    @property
    def prompt(self) -> str:
        """System prompt that asks for it (for "less", for the opposite)."""
        words = self.says.rstrip(".!")
        return f"{words[:1].upper()}{words[1:]}." if " " in words else f"Be {words}."


@dataclass(frozen=True)
class Suggestion:
    """One suggested feature."""

    feature: Feature
    dose: float
    gain: float
    """Gain in log-probability of the wished-for answers when it is added to those before it, nats per token."""
    why: str


@dataclass(frozen=True)
class Proposal:
    """Suggested features, with the gains of the prompt itself and of random features for comparison."""

    suggestions: tuple[Suggestion, ...]
    gain: float
    prompt_gain: float
    random_gain: float
    prompts: tuple[str, ...]


def clauses(wish: str) -> list[Clause]:
    """Split a wish into clauses: "more poetic, less formal and not so long". Raises SteeringError for an empty wish."""
    found = []
    for part in re.split(r"\s*(?:,|;|\band\b|\bbut\b|\.)\s*", wish.strip()):
        if not part:
            continue
        if less := LESS.match(part):
            found.append(Clause(MORE.sub(r"\g<rest>", less["rest"]), -1))
        else:
            found.append(Clause(MORE.sub(r"\g<rest>", part), 1))
    if not found:
        raise SteeringError("say what replies should be like, such as 'more poetic, less formal'")
    return found


def candidates(bundle: Bundle) -> list[Feature]:
    """Return the features with a measured dose and an effect. Raises SteeringError if there are none."""
    found = [f for f in bundle.features if f.sweet_spot and f.calibration and f.calibration.works]
    if not found:
        raise SteeringError("no feature of this bundle has a measured dose that works; run `tiller calibrate` first")
    return found


def propose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    bundle: Bundle,
    wish: str,
    *,
    most: int = 3,
    questions: Sequence[str] = QUESTIONS[:ASKED],
    breathe: Callable[[], None] = lambda: None,
) -> Proposal:
    """Suggest at most `most` features for a wish. `breathe` is called between two forward passes."""
    able, parts = candidates(bundle), clauses(wish)
    answers = [_Answers.prepare(model, tokenizer, bundle.info, c, questions, breathe) for c in parts]
    pull = sum((a.sign * a.pull(breathe) for a in answers), torch.zeros(bundle.sae.d_in))
    ranked = sorted((o for f in able for o in _options(f, bundle, pull)), key=lambda o: -o.hope)
    tried = list({o.feature.id: None for o in ranked})[:TRIED]
    options = [o for o in ranked if o.feature.id in tried]
    chosen, gains = _forward(answers, options, most, breathe)
    others = _random(able, bundle, [o.feature.id for o in chosen], len(chosen))
    return Proposal(
        tuple(
            Suggestion(o.feature, o.dose, round(g, 4), _explain(o, g, wish)) for o, g in zip(chosen, gains, strict=True)
        ),
        round(sum(gains), 4),
        round(sum(a.sign * a.prompted for a in answers) - sum(a.sign * a.plain for a in answers), 4),
        round(_gain(answers, [_sum(others)])[0], 4) if others else 0.0,
        tuple(c.prompt for c in parts),
    )


@dataclass(frozen=True, eq=False)
class _Option:
    """A feature at a dose."""

    feature: Feature
    dose: float
    push: Float[Tensor, " d_in"]
    hope: float
    """First-order estimate of its gain."""


@dataclass(frozen=True, eq=False)
class _Answers:
    """Answers of the model to one clause as system prompt, and their log-probability without that prompt."""

    model: PreTrainedModel
    hook: str
    sign: int
    ids: Tensor
    real: Tensor
    mine: Tensor
    """Mask of the steered tokens."""
    answer: Tensor
    """Mask of the answer's tokens."""
    plain: float
    prompted: float

    @staticmethod
    def prepare(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        info: BundleInfo,
        clause: Clause,
        questions: Sequence[str],
        breathe: Callable[[], None],
    ) -> "_Answers":
        asked, bare = [], []
        for q in questions:
            user: Message = {"role": "user", "content": q}
            prompt = encode_chat(tokenizer, [{"role": "system", "content": clause.prompt}, user])
            breathe()
            reply = _greedy_reply(model, prompt, tokenizer)
            asked.append((prompt, reply))
            bare.append((encode_chat(tokenizer, [user]), reply))
        with_prompt = _Answers(model, info.hook, clause.sign, *_padded(asked, model, info.scope), 0.0, 0.0)
        without = _Answers(model, info.hook, clause.sign, *_padded(bare, model, info.scope), 0.0, 0.0)
        breathe()
        return replace(without, plain=without._likely(None), prompted=with_prompt._likely(None))

    def pull(self, breathe: Callable[[], None]) -> Float[Tensor, " d_in"]:
        """Gradient of the answers' mean log-probability with respect to a push on the steered tokens."""
        breathe()
        width = int(self.model.config.get_text_config().hidden_size)
        push = torch.zeros(width, device=self.ids.device, requires_grad=True)
        with (
            torch.enable_grad(),
            tap(self.model, {self.hook: lambda x: torch.where(self.mine[..., None], x + push, x)}),
        ):
            (gradient,) = torch.autograd.grad(self._mean(self._logits()), push)
        return gradient.detach().float().cpu()

    @torch.no_grad()
    def likely_with(self, pushes: Float[Tensor, "pushes d_in"]) -> list[float]:
        """Mean log-probability of the answers under each push, all in one batch."""
        n = len(pushes)
        table = SteeringTable(n + 1, pushes.shape[1], gates=0, device=self.ids.device)
        table.push[1:] = pushes.to(self.ids.device)
        block = torch.arange(1, n + 1, device=self.ids.device).repeat_interleave(len(self.ids))
        rows = torch.where(self.mine.repeat(n, 1), block[:, None], 0)
        with tap(self.model, {self.hook: lambda x: table.apply(x, rows)}):
            logits = self._logits(n)
        parts = zip(logits.chunk(n), strict=True)
        return [float(self._mean(part)) for (part,) in parts]

    def _likely(self, push: Tensor | None) -> float:
        with torch.no_grad():
            return float(self._mean(self._logits())) if push is None else self.likely_with(push[None])[0]

    def _logits(self, n: int = 1) -> Tensor:
        positions = (self.real.long().cumsum(1) - 1).clamp(min=0)
        return self.model(
            input_ids=self.ids.repeat(n, 1),
            attention_mask=self.real.long().repeat(n, 1),
            position_ids=positions.repeat(n, 1),
            use_cache=False,
        ).logits

    def _mean(self, logits: Tensor) -> Tensor:
        each = logits[:, :-1].float().log_softmax(-1).gather(2, self.ids[:, 1:, None])[..., 0]
        return each[self.answer[:, 1:]].mean()


def _greedy_reply(model: PreTrainedModel, prompt: EncodedChat, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    ids = torch.tensor([prompt.ids], device=model.device)
    with torch.no_grad():
        out = model.generate(  # pyright: ignore[reportCallIssue] - transformers types its mixin as a tensor
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
    return out[0, ids.shape[1] :].tolist()


def _padded(
    rows: Sequence[tuple[EncodedChat, list[int]]], model: PreTrainedModel, scope: Scope
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids and the masks of real, steered and answer tokens; left-padded."""
    longest = max(len(p.ids) + len(r) for p, r in rows)
    kinds = ([], [], [], [])
    for p, r in rows:
        gap = longest - len(p.ids) - len(r)
        kinds[0].append([0] * gap + [*p.ids, *r])
        kinds[1].append([False] * gap + [True] * (longest - gap))
        kinds[2].append([False] * gap + [*p.steered(scope)] + [True] * len(r))
        kinds[3].append([False] * (gap + len(p.ids)) + [True] * len(r))
    ids, real, mine, answer = (torch.tensor(k, device=model.device) for k in kinds)
    return ids, real, mine, answer


def _options(f: Feature, bundle: Bundle, pull: Tensor) -> list[_Option]:
    direction = bundle.sae.W_dec[f.row].float().cpu()
    knots, spots = knots_of(f, dose_of(f, bundle.info)), []
    if f.sweet_spot:
        spots.append((f.sweet_spot.low, f.sweet_spot.high))
    if f.calibration and f.calibration.negative:
        spots.append((f.calibration.negative.high, f.calibration.negative.low))  # from the end nearest 0
    found = []
    for near, far in spots:
        for share in SHARES:
            dose = round(near + share * (far - near), 2)
            push = raw_at(dose, knots) * direction
            found.append(_Option(f, dose, push, float(push @ pull)))
    return found


def _forward(
    answers: Sequence[_Answers], options: Sequence[_Option], most: int, breathe: Callable[[], None]
) -> tuple[list[_Option], list[float]]:
    """Forward selection: add the option with the largest gain while it is at least LEAST and the load at most LOAD."""
    chosen: list[_Option] = []
    gains: list[float] = []
    reached = 0.0
    while len(chosen) < most:
        base = _sum(chosen)
        open_ = [
            o for o in options if o.feature.id not in {c.feature.id for c in chosen} and _load([*chosen, o]) <= LOAD
        ]
        if not open_:
            break
        breathe()
        values = _gain(answers, [o.push + base if chosen else o.push for o in open_])
        best = max(range(len(open_)), key=values.__getitem__)
        if values[best] - reached < LEAST:
            break
        chosen.append(open_[best])
        gains.append(values[best] - reached)
        reached = values[best]
    return chosen, gains


def _gain(answers: Sequence[_Answers], pushes: Sequence[Tensor]) -> list[float]:
    found = [0.0] * len(pushes)
    for a in answers:
        for i, value in enumerate(a.likely_with(torch.stack(list(pushes)))):
            found[i] += a.sign * (value - a.plain)
    return found


def _sum(options: Sequence[_Option]) -> Tensor:
    return torch.stack([o.push for o in options]).sum(0) if options else torch.zeros(1)


def _load(options: Sequence[_Option]) -> float:
    """Load of these options, in doses; as in `catalogue.composition`."""
    directions = torch.stack([torch.nn.functional.normalize(o.push, dim=0) for o in options])
    doses = torch.tensor([abs(o.dose) for o in options])
    return float((doses @ (directions @ directions.T) @ doses).clamp(min=0).sqrt())


def _random(able: Sequence[Feature], bundle: Bundle, taken: Sequence[str], n: int) -> list[_Option]:
    rest = [f for f in able if f.id not in taken]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
    nothing = torch.zeros(bundle.sae.d_in)
    return [_options(rest[i], bundle, nothing)[-1] for i in order[:n]]


def _explain(o: _Option, gain: float, wish: str) -> str:
    words = ", ".join(o.feature.calibration.words[:4]) if o.feature.calibration else ""
    words_note = f"; its words: {words}" if words else ""
    return f"replies that “{wish}” asks for become {gain:.2f} nats a token likelier{words_note}"
