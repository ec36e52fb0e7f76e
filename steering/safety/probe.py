"""Linear probe for forbidden content on the raw residual stream: training, scoring, save and load.

A token's logit is `z = ((x − mean) / scale) · direction + bias`. It is smoothed along the text, `s₁ = z₁` and `s_t =
s_{t−1} + pace · (z_t − s_{t−1})`; a token's score is `σ(s_t)`, a text's the maximum over its tokens. A text above the
threshold is forbidden.

It is a logistic regression of texts, not of tokens: the text's score is fitted, so that a text is forbidden if any part
of it is, and words that forbidden texts share with benign ones have no influence. (Fitted token by token, the same
probe found a quarter of the questions in phrasings that it had not seen; fitted this way, nine tenths.)

It reads *below* the steered hook point: what is added to the output of a block does not change the input of that block,
so on the same tokens the score is the same with and without steering. It depends on the text, not on the steering. The
cost is depth: early layers represent less.
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
from transformers import PreTrainedTokenizerBase

from steering.errors import BadBundle, SteeringError
from steering.evaluate.classifiers import Auroc, auroc_with_interval, fit_logistic, logistic_objective, minimize
from steering.files import write_atomic
from steering.model.chat_template import Message, encode_chat
from steering.model.hooks import layer_number

WEIGHTS, CARD = "probe.safetensors", "probe.json"
PARTS = ("direction", "bias", "mean", "scale", "witness")
WITNESS = (1, 2, 3, 5, 8, 13, 21)
"""Token ids that identify a model: the stream after them is stored with the probe."""
ALIKE = 0.98
"""Least cosine of that stream with the stream of the model that is checked; another number format keeps far more."""
SURE = 0.5
"""Lower bound of the threshold: held-out texts that are easy to separate say little about others."""
PACE, PENALTY, STEPS, HELD_OUT = 0.25, 1e-2, 100, 3
"""Pace of the smoothing, L2 penalty and steps of the regression, and n, where every n-th text is held out."""
FEWEST = 6
"""Least number of texts of each kind; with fewer, none can be held out."""

Texts = Sequence[Float[Tensor, "time d"]]


class Card(BaseModel):
    """Contents of `probe.json`: hook point, model, threshold and held-out metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hook: str
    model: str
    threshold: float = Field(ge=0, le=1)
    pace: float = Field(gt=0, le=1)
    forbidden: int
    """Number of forbidden texts in training."""
    benign: int
    held_out_forbidden: int
    held_out_benign: int
    auroc: Auroc
    """On the held-out texts."""
    allowed: float
    """Largest share of held-out benign texts that the threshold was allowed to flag."""
    false_positives: float
    """Share of held-out benign texts that it flags."""
    found: float
    """Share of held-out forbidden texts that it flags."""
    sha256: str = ""
    """Of the weights, so that weights and card of two different probes are never combined."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Weights of a probe, with its card."""

    card: Card
    direction: Float[Tensor, " d"]
    bias: Float[Tensor, ""]
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    witness: Float[Tensor, " d"]
    """Stream of its model after `WITNESS`."""

    @property
    def hook(self) -> str:
        """Hook point of the probe."""
        return self.card.hook

    @torch.no_grad()
    def token_scores(self, x: Float[Tensor, "time d"]) -> Float[Tensor, " time"]:
        """Return each token's score. Raises SteeringError where the stream is not finite, or of another width."""
        if x.ndim != 2 or x.shape[1] != len(self.direction):
            raise SteeringError(
                f"this probe reads a stream of width {len(self.direction)}, and was given {list(x.shape)}: "
                "it was trained for another model"
            )
        z = ((x.float().cpu() - self.mean) / self.scale) @ self.direction + self.bias
        if not torch.isfinite(z).all():
            raise SteeringError("the stream holds NaN or infinity; such a text cannot be scored")
        return torch.sigmoid(smoothed(z[:, None], self.card.pace)[:, 0])

    def score(self, x: Float[Tensor, "time d"]) -> float:
        """Return the text's score, the maximum over its tokens; 0 for a text without tokens."""
        return float(self.token_scores(x).max()) if len(x) else 0.0

    def first_hit(self, x: Float[Tensor, "time d"]) -> int | None:
        """Return the first token above the threshold, if there is one."""
        hits = (self.token_scores(x) > self.card.threshold).nonzero()
        return int(hits[0]) if len(hits) else None

    def check_model(self, stream: Float[Tensor, "time d"]) -> None:
        """Compare a model's stream after `WITNESS` with the probe's. Raises SteeringError if it is another model's."""
        mine = stream[-1].float().cpu() if stream.shape[-1] == len(self.witness) else torch.zeros_like(self.witness)
        cosine = float(torch.cosine_similarity(mine, self.witness, dim=0))
        if not cosine >= ALIKE:
            raise SteeringError(
                f"the probe was trained on {self.card.model!r} at {self.hook!r}, and this model's stream there is another "
                f"(cosine {cosine:.2f}); train one for it: tiller guard train"
            )

    def save(self, folder: Path) -> None:
        """Write weights and card; a reader sees the old probe, the new one, or an error that the two do not match."""
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
            raise BadBundle(f"{WEIGHTS} in {str(folder)!r} is not the one that {CARD} lists (SHA-256); {again}")
        if problem := _problem(tensors):
            raise BadBundle(f"{WEIGHTS} in {str(folder)!r}: {problem}; {again}")
        layer_number(card.hook)
        return Probe(card, **{name: tensors[name].float() for name in PARTS})


def check_hook_below(hook: str, steered: str) -> None:
    """Raise SteeringError if steering at `steered` would change the stream at `hook`."""
    if layer_number(hook) >= layer_number(steered):
        raise SteeringError(
            f"a probe at {hook!r} would see what steering at {steered!r} changes; train it at {hook_below(steered)!r} or lower"
        )


def hook_below(hook: str) -> str:
    """Return the hook point before the block that is steered at `hook`. Raises SteeringError for the first block."""
    if (number := layer_number(hook)) == 0:
        raise SteeringError("below 'layers.0' there are only token embeddings; steer at a later layer to use a probe")
    return f"layers.{number - 1}"


def tokens_to_score(tokenizer: PreTrainedTokenizerBase, text: str | list[Message]) -> tuple[tuple[int, ...], int]:
    """Return a text's tokens and the index of the first one that is scored.

    Plain text is a user's question, or plain text where there is no chat template. Of a chat that ends with an
    assistant's turn, that turn alone is scored, without its header: so a refusal can be benign although its question is
    not.
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
    """Return the exponential moving average along time, starting with the first row."""
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
    """Fit a probe to the streams of texts; every third text is held out, and both kinds have the same weight.

    The threshold is the lowest, from `SURE` on, at which at most the `allowed` share of the held-out benign texts is
    flagged. Raises SteeringError if there are too few texts.
    """
    for kind, texts in (("forbidden", forbidden), ("benign", benign)):
        if len(texts) < FEWEST:
            raise SteeringError(
                f"{len(texts)} {kind} texts; a probe needs {FEWEST} at least, and some hundreds to be accurate"
            )
    (yes, yes_held), (no, no_held) = _split(forbidden), _split(benign)
    parts = [smoothed(t.float().cpu(), pace) for t in (*yes, *no)]
    x = torch.cat(parts)
    mean, scale = x.mean(0), x.std(0).clamp_min(1e-6)
    weights = _fit((x - mean) / scale, [len(p) for p in parts], len(yes), penalty)
    counts = {"forbidden": len(yes), "benign": len(no)}
    held = {"held_out_forbidden": len(yes_held), "held_out_benign": len(no_held)}
    unknown = {"threshold": 1.0, "auroc": Auroc(value=0.5, low=0.0, high=1.0), "false_positives": 0.0, "found": 0.0}
    about = {"hook": hook, "model": model, "pace": pace, "allowed": allowed}
    card = Card.model_validate(about | counts | held | unknown)
    draft = Probe(card, weights[:-1], weights[-1], mean, scale, witness.float().cpu())
    return replace(draft, card=card.model_copy(update=_held_out_card(draft, yes_held, no_held, allowed)))


def _fit(x: Float[Tensor, "tokens d"], lengths: list[int], n: int, penalty: float) -> Float[Tensor, " d+1"]:
    """Fit direction and bias so that the largest token logit is high for the first `n` texts, and low for the others.

    Initialised by the regression in which every token has its text's label; then each text has the logit of its largest
    token.
    """
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    labels = (torch.arange(len(lengths)) < n).float()
    weight = torch.where(labels > 0, 0.5 / n, 0.5 / (len(lengths) - n))
    begun = fit_logistic(x, labels[owner, None], torch.tensor([penalty]))

    def objective(w: Tensor) -> Tensor:
        largest = torch.zeros(len(lengths)).scatter_reduce(0, owner, x @ w[:-1] + w[-1], "amax", include_self=False)
        return logistic_objective(largest, labels, weight, w, penalty)

    return minimize(objective, torch.cat([begun.weights[:, 0], begun.bias]))


def _held_out_card(probe: Probe, forbidden: Texts, benign: Texts, allowed: float) -> dict[str, float | Auroc]:
    """Return threshold, AUROC and the share of flagged texts, on the held-out texts."""
    yes, no = (np.array([probe.score(t) for t in texts]) for texts in (forbidden, benign))
    flagged = int(allowed * len(no))  # number of benign texts that may be above the threshold
    threshold = max(SURE, float(np.sort(no)[len(no) - 1 - flagged]))
    marks = np.arange(len(yes) + len(no)) < len(yes)
    shares = {"false_positives": float((no > threshold).mean()), "found": float((yes > threshold).mean())}
    return {"threshold": threshold, "auroc": auroc_with_interval(np.concatenate([yes, no]), marks), **shares}


def _split(texts: Texts) -> tuple[list[Tensor], list[Tensor]]:
    """Return the training texts, and every third text, held out."""
    return [t for i, t in enumerate(texts) if i % HELD_OUT], [t for i, t in enumerate(texts) if i % HELD_OUT == 0]


def _problem(tensors: dict[str, Tensor]) -> str:
    """Return what is wrong with a probe's weights, or an empty string."""
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
