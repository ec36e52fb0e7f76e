"""A linear probe on the raw stream: does a text speak of something forbidden? Knows streams and one folder; no engines.

A token's logit is `z = ((x − mean) / scale) · direction + bias`. It is smoothed along the text, `s₁ = z₁` and
`s_t = s_{t−1} + pace · (z_t − s_{t−1})`; a token's score is `σ(s_t)`, a text's the largest of its tokens'. Above the
threshold it is forbidden.

It is a logistic regression of texts, not of tokens: what is fitted is the text's score, so that a text is forbidden if
somewhere it is, and the words that forbidden texts share with benign ones need not be. (Fitted token by token, the same
probe found a quarter of the questions in frames that it had not seen; so, nine tenths.)

It reads *below* the hook that is steered: what is added to the output of a block changes nothing that enters that block,
so on the same tokens the reading is the same whether or not somebody steers. It reads the text, not the steering. The
price is depth: early layers know less.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedTokenizerBase

from steering.errors import BadBundle, SteeringError
from steering.evaluate.classifiers import Auroc, auroc_with_interval, fit_logistic
from steering.files import write_atomic
from steering.model.chat_template import Message, encode_chat
from steering.model.hooks import layer_number

WEIGHTS, CARD = "probe.safetensors", "probe.json"
PARTS = ("direction", "bias", "mean", "scale", "witness")
WITNESS = (1, 2, 3, 5, 8, 13, 21)
"""Token ids on which a model is told from another: the stream after them is kept with the probe."""
ALIKE = 0.98
"""The least cosine of that stream with the model's that is asked; another number format keeps far more."""
SURE = 0.5
"""No threshold is lower: where held-out texts are told apart with ease, others needn't be."""
PACE, PENALTY, STEPS, HELD_OUT = 0.25, 1e-2, 100, 3
"""Of the smoothing, of the regression and its search, and every how many-th text is held out."""
FEWEST = 6
"""Texts of each kind; with fewer nothing can be held out."""

Texts = Sequence[Float[Tensor, "time d"]]


class Card(BaseModel):
    """What a probe reads, and how it was made: `probe.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hook: str
    model: str
    threshold: float = Field(ge=0, le=1)
    pace: float = Field(gt=0, le=1)
    forbidden: int
    """How many forbidden texts it learnt from."""
    benign: int
    held_out_forbidden: int
    held_out_benign: int
    auroc: Auroc
    """On the held-out texts."""
    allowed: float
    """The share of held-out benign texts that the threshold was to flag at most."""
    false_positives: float
    """The share that it flags."""
    found: float
    """The share of held-out forbidden texts that it flags."""
    sha256: str = ""
    """Of the weights, so that half of a new probe is never read with half of an old one."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A direction to read along, and where."""

    card: Card
    direction: Float[Tensor, " d"]
    bias: Float[Tensor, ""]
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    witness: Float[Tensor, " d"]
    """The stream of its model after `WITNESS`."""

    @property
    def hook(self) -> str:
        """The hook point at which it reads."""
        return self.card.hook

    @torch.no_grad()
    def token_scores(self, x: Float[Tensor, "time d"]) -> Float[Tensor, " time"]:
        """Return each token's score. Raises SteeringError where the stream is not a number, or of another width."""
        if x.ndim != 2 or x.shape[1] != len(self.direction):
            raise SteeringError(
                f"this probe reads a stream of width {len(self.direction)}, and was given {list(x.shape)}: "
                "it was trained for another model"
            )
        z = ((x.float().cpu() - self.mean) / self.scale) @ self.direction + self.bias
        if not torch.isfinite(z).all():
            raise SteeringError("the stream holds NaN or infinity; a probe cannot tell what such a text says")
        return torch.sigmoid(smoothed(z[:, None], self.card.pace)[:, 0])

    def score(self, x: Float[Tensor, "time d"]) -> float:
        """Return the text's score, its tokens' largest; 0 for a text without tokens."""
        return float(self.token_scores(x).max()) if len(x) else 0.0

    def first_hit(self, x: Float[Tensor, "time d"]) -> int | None:
        """Return the first token at which the text is forbidden, if it is."""
        hits = (self.token_scores(x) > self.card.threshold).nonzero()
        return int(hits[0]) if len(hits) else None

    def check_model(self, stream: Float[Tensor, "time d"]) -> None:
        """Hold a model's stream of `WITNESS` against the probe's. Raises SteeringError if it is another model's."""
        mine = stream[-1].float().cpu() if stream.shape[-1] == len(self.witness) else torch.zeros_like(self.witness)
        cosine = float(torch.cosine_similarity(mine, self.witness, dim=0))
        if not cosine >= ALIKE:
            raise SteeringError(
                f"the probe was trained on {self.card.model!r} at {self.hook!r}, and this model's stream there is another "
                f"(cosine {cosine:.2f}); train one for it: tiller guard train"
            )

    def save(self, folder: Path) -> None:
        """Write weights and card; a reader finds the old probe, the new one, or is told that they do not match."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = save({name: getattr(self, name).contiguous() for name in PARTS})
        card = self.card.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
        for name, data in ((WEIGHTS, weights), (CARD, (card.model_dump_json(indent=1) + "\n").encode())):
            write_atomic(folder / name, data)

    @staticmethod
    def load(folder: Path) -> "Probe":
        """Read a probe. Raises BadBundle that names what is wrong with it."""
        again = "train it again: tiller guard train"
        try:
            weights = (folder / WEIGHTS).read_bytes()
            card = Card.model_validate(json.loads((folder / CARD).read_text()))
            tensors = load(weights)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BadBundle(f"{CARD} of the probe in {str(folder)!r}: {where}: {first['msg']}; {again}") from error
        except (OSError, ValueError, SafetensorError, RecursionError) as error:
            raise BadBundle(f"cannot read a probe from {str(folder)!r}: {error}; {again}") from error
        if hashlib.sha256(weights).hexdigest() != card.sha256:
            raise BadBundle(f"{WEIGHTS} in {str(folder)!r} is not the one that {CARD} tells of; {again}")
        if problem := _problem(tensors):
            raise BadBundle(f"{WEIGHTS} in {str(folder)!r}: {problem}; {again}")
        layer_number(card.hook)
        return Probe(card, **{name: tensors[name].float() for name in PARTS})


def check_hook_below(hook: str, steered: str) -> None:
    """Raise SteeringError if what is steered at one hook point would reach a probe at the other."""
    if layer_number(hook) >= layer_number(steered):
        raise SteeringError(
            f"a probe at {hook!r} would read what steering at {steered!r} does; train it at {hook_below(steered)!r} or lower"
        )


def hook_below(hook: str) -> str:
    """Return the hook point whose stream enters the block that is steered at `hook`. Raises SteeringError for the first."""
    if (number := layer_number(hook)) == 0:
        raise SteeringError(
            "below 'layers.0' there is nothing but the embedding of single words; steer at a later layer to have a probe"
        )
    return f"layers.{number - 1}"


def tokens_to_score(tokenizer: PreTrainedTokenizerBase, text: str | list[Message]) -> tuple[tuple[int, ...], int]:
    """Return a text's tokens and the first that is read.

    Plain text is a user's question, or, where there is no chat template, a text. Of a chat that ends with an assistant's turn that turn alone is read, its header left
    out: so a refusal can be benign though its question isn't.
    """
    if isinstance(text, str) and not tokenizer.chat_template:
        bos = [tokenizer.bos_token_id] if isinstance(tokenizer.bos_token_id, int) else []
        return (*bos, *tokenizer(text, add_special_tokens=False)["input_ids"]), len(bos)
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    if messages and messages[-1].get("role") == "assistant":
        start = len(encode_chat(tokenizer, messages[:-1]).ids)
        return encode_chat(tokenizer, messages, generate=False).ids, start
    return encode_chat(tokenizer, messages).ids, 1


def smoothed(rows: Float[Tensor, "time d"], pace: float) -> Float[Tensor, "time d"]:
    """Return the exponential moving average along time, which begins at the first row."""
    found = rows.clone()
    for t in range(1, len(rows)):
        found[t] = found[t - 1] + pace * (rows[t] - found[t - 1])
    return found


def train_probe(
    forbidden: Texts,
    benign: Texts,
    witness: Float[Tensor, " d"],
    *,
    hook: str,
    model: str,
    allowed: float = 0.01,
    pace: float = PACE,
    penalty: float = PENALTY,
) -> Probe:
    """Fit a probe to the streams of texts; every third text is held out, and each kind weighs as much as the other.

    The threshold is the lowest, from `SURE` on, at which at most the `allowed` share of the held-out benign texts is
    flagged. Raises SteeringError if there are too few texts.
    """
    for kind, texts in (("forbidden", forbidden), ("benign", benign)):
        if len(texts) < FEWEST:
            raise SteeringError(
                f"{len(texts)} {kind} texts; a probe takes {FEWEST} at least, and some hundred to be good"
            )
    (yes, yes_held), (no, no_held) = _split(forbidden), _split(benign)
    parts = [smoothed(t.float().cpu(), pace) for t in (*yes, *no)]
    x = torch.cat(parts)
    mean, scale = x.mean(0), x.std(0).clamp_min(1e-6)
    weights = _fit((x - mean) / scale, [len(p) for p in parts], len(yes), penalty)
    counts = {"forbidden": len(yes), "benign": len(no)}
    held = {"held_out_forbidden": len(yes_held), "held_out_benign": len(no_held)}
    unknown = {"threshold": 1.0, "auroc": Auroc(value=0.5, low=0.0, high=1.0), "false_positives": 0.0, "found": 0.0}
    told = {"hook": hook, "model": model, "pace": pace, "allowed": allowed}
    card = Card.model_validate(told | counts | held | unknown)
    draft = Probe(card, weights[:-1], weights[-1], mean, scale, witness.float().cpu())
    return replace(draft, card=card.model_copy(update=_held_out_card(draft, yes_held, no_held, allowed)))


def _fit(x: Float[Tensor, "tokens d"], lengths: list[int], n: int, penalty: float) -> Float[Tensor, " d+1"]:
    """Direction and bias at which the largest token of the first `n` texts is high, and of the others low.

    It begins where every token has its text's label; from there each text is as forbidden as its worst token.
    """
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    labels = (torch.arange(len(lengths)) < n).float()
    weight = torch.where(labels > 0, 0.5 / n, 0.5 / (len(lengths) - n))
    begun = fit_logistic(x, labels[owner, None], torch.tensor([penalty]))
    w = torch.cat([begun.weights[:, 0], begun.bias]).requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        largest = torch.zeros(len(lengths)).scatter_reduce(0, owner, x @ w[:-1] + w[-1], "amax", include_self=False)
        each = binary_cross_entropy_with_logits(largest, labels, reduction="none")
        value = (weight * each).sum() + 0.5 * penalty * w[:-1].pow(2).sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)  # pyright: ignore[reportArgumentType] - a closure may return a tensor
    return w.detach()


def _held_out_card(probe: Probe, forbidden: Texts, benign: Texts, allowed: float) -> dict[str, float | Auroc]:
    """What the held-out texts say of a probe: threshold, AUROC, and what the threshold flags."""
    yes, no = (np.array([probe.score(t) for t in texts]) for texts in (forbidden, benign))
    flagged = int(allowed * len(no))  # so many benign texts may lie above
    threshold = max(SURE, float(np.sort(no)[len(no) - 1 - flagged]))
    marks = np.arange(len(yes) + len(no)) < len(yes)
    shares = {"false_positives": float((no > threshold).mean()), "found": float((yes > threshold).mean())}
    return {"threshold": threshold, "auroc": auroc_with_interval(np.concatenate([yes, no]), marks), **shares}


def _split(texts: Texts) -> tuple[list[Tensor], list[Tensor]]:
    """What is learnt from, and every third, which is held out."""
    return [t for i, t in enumerate(texts) if i % HELD_OUT], [t for i, t in enumerate(texts) if i % HELD_OUT == 0]


def _problem(tensors: dict[str, Tensor]) -> str:
    """What is wrong with a probe's weights, if anything."""
    if missing := [n for n in PARTS if n not in tensors]:
        return f"it lacks {', '.join(missing)}"
    shape = tensors["direction"].shape
    if len(shape) != 1 or not len(tensors["direction"]):
        return f"direction must be one row, not {list(shape)}"
    for name in PARTS:
        wanted = () if name == "bias" else shape
        if tensors[name].shape != wanted:
            return f"{name} must be {list(wanted)}, not {list(tensors[name].shape)}"
        if not torch.isfinite(tensors[name]).all():
            return f"{name} holds NaN or infinity"
    return "" if (tensors["scale"] > 0).all() else "scale must be above 0"
