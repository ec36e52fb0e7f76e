"""Stage `layers`: which layer's features do most at equal KL divergence.

For each concept the feature that separates its passages from the others' is taken from each layer's short run, and
pushed at several strengths while the model replies to unrelated questions. What a reply shows is read from the
unsteered model, at one layer for all: a logistic regression on the mean residual stream at `READ` tells a concept's
passages from the others'. The effect is the rise of its log-odds; the price is the mean KL divergence of the next-token
distribution from the unsteered model's, on the reply. Each concept's effect is interpolated at `KL` nats.
"""

from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recipes.smollm2.concepts import concepts
from recipes.smollm2.files import Record, finish, read_lines, say
from recipes.smollm2.lean import Lean
from recipes.smollm2.replies import END, sample
from recipes.smollm2.runs import SHORT
from steering.sae import SAE

READ = 20
"""Layer at which replies are read."""
STRENGTHS = (0.25, 0.35, 0.45)
"""Of the typical norm."""
QUESTIONS, TOKENS = 4, 32
KL = 1.0
"""Nats per token at which layers are compared."""
PASSAGES = 40
"""Passages of each concept."""


class Reply(NamedTuple):
    """Prompt and reply as token ids."""

    prompt: list[int]
    ids: list[int]


def make_layers(out: Path, threads: int) -> None:
    """Record each layer's effect at `KL`, and choose the layer with the largest mean over concepts."""
    torch.set_num_threads(threads)
    tokenizer, model = AutoTokenizer.from_pretrained(out / "model"), Lean(out / "model")
    texts = passage_ids(out, tokenizer)
    names = sorted(texts)
    probe = _probe({n: _means(model, texts[n], READ) for n in names})
    questions = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q in concepts().questions[:QUESTIONS]
    ]
    plain = _measured(model, probe, questions, torch.zeros(len(names), model.d), 12, names)
    figures: Record = {}
    for name, run in SHORT.items():
        sae = SAE.load(out / "sae" / name)
        typical = float(torch.cat([*streams_of(model, texts["poet"], run.layer)]).norm(dim=1).median())
        rows = _features(sae, {n: _activations(model, sae, texts[n], run.layer) for n in names})
        curves = []
        for strength in STRENGTHS:
            push = strength * typical * sae.W_dec[rows].float()
            curves.append(_measured(model, probe, questions, push, run.layer, names))
        effect, kl = (torch.stack([c[i] for c in curves]) for i in (0, 1))
        at = [_interpolated(effect[:, i] - plain[0][i], kl[:, i]) for i in range(len(names))]
        figures[str(run.layer)] = {
            "mean_effect": sum(at) / len(at),
            "median_kl": [round(float(x), 3) for x in kl.median(1).values],
            "effect": {n: round(e, 3) for n, e in zip(names, at, strict=True)},
            "feature": dict(zip(names, rows.tolist(), strict=True)),
        }
        say(
            f"layers: {run.layer}: mean effect {sum(at) / len(at):.3f} at {KL} nats; KL {figures[str(run.layer)]['median_kl']}"
        )
    best = max(figures, key=lambda layer: figures[layer]["mean_effect"])
    settings = {"kl": KL, "strengths": STRENGTHS, "questions": QUESTIONS, "read_at": READ}
    finish(out, "layers", {"layers": figures, "chosen": int(best), **settings})


def passage_ids(out: Path, tokenizer: PreTrainedTokenizerFast, most: int = PASSAGES) -> dict[str, list[list[int]]]:
    """Token ids of plain texts of each concept."""
    found = {}
    for path in sorted((out / "passages").glob("*.jsonl")):
        rows = [r.get("text") or r["messages"][-1]["content"] for r in read_lines(path)]
        some = Random(path.name).sample(rows, min(most, len(rows)))
        found[path.stem.partition("-")[2]] = [
            ids[:96] for ids in tokenizer(some, add_special_tokens=False)["input_ids"]
        ]
    return found


def streams_of(model: Lean, texts: list[list[int]], layer: int) -> list[Tensor]:
    """The residual stream of each text without its first token."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.tensor(text)
    stream = model.read(ids, [layer])[layer].float()
    return [stream[i, 1 : len(text)] for i, text in enumerate(texts)]


def _means(model: Lean, texts: list[list[int]], layer: int) -> Tensor:
    return torch.stack([x.mean(0) for x in streams_of(model, texts, layer)])


def _probe(means: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `[concepts, d]`, biases and mean of a one-against-all logistic regression with a ridge."""
    x = torch.cat([*means.values()])
    middle, spread = x.mean(0), x.std(0)
    x = (x - middle) / spread
    y = torch.block_diag(*[torch.ones(len(m), 1) for m in means.values()])
    w = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    b = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ w + b, y) + 1e-3 * w.pow(2).sum() / y.shape[1]
        value.backward()
        return value

    optimizer.step(loss)
    return (w.detach() / spread[:, None]).T, b.detach(), middle


def _activations(model: Lean, sae: SAE, texts: list[list[int]], layer: int) -> Tensor:
    """Share of each text's tokens on which each feature fires, `[texts, d_sae]`."""
    return torch.stack([(sae.encode(x) > 0).float().mean(0) for x in streams_of(model, texts, layer)])


def _features(sae: SAE, fired: dict[str, Tensor]) -> Tensor:
    """For each concept the feature that fires most more often on its passages than on the others', in deviations."""
    rows = []
    for name, own in fired.items():
        others = torch.cat([x for n, x in fired.items() if n != name])
        rows.append(int(((own.mean(0) - others.mean(0)) / (others.std(0) + own.std(0) + 0.01)).argmax()))
    assert len(rows) and max(rows) < sae.d_sae
    return torch.tensor(rows)


def _measured(
    model: Lean,
    probe: tuple[Tensor, Tensor, Tensor],
    questions: list[list[int]],
    push: Tensor,
    layer: int,
    names: list[str],
) -> tuple[Tensor, Tensor]:
    """Mean log-odds of the own concept and mean KL, for each concept's push."""
    w, b, middle = probe
    prompts = [q for _ in names for q in questions]
    rows = push.repeat_interleave(len(questions), 0).to(model.embedding.dtype)
    generator = torch.Generator().manual_seed(0)
    written = sample(model, prompts, rows, torch.full((len(prompts),), 0.5), generator, layer=layer, most=TOKENS)
    odds, kls = torch.zeros(len(names)), torch.zeros(len(names))
    for i in range(len(prompts)):
        ids = [t for t in written[i] if t not in END] or [0]
        own = i // len(questions)
        full = torch.tensor([prompts[i] + ids])
        start = len(prompts[i])
        stream = model.read(full, [READ])[READ][0, start:].float().mean(0)
        odds[own] += float(w[own] @ (stream - middle) + b[own]) / len(questions)
        kls[own] += _kl(model, full, start, rows[i], layer) / len(questions)
    return odds, kls


def _kl(model: Lean, ids: Tensor, start: int, push: Tensor, layer: int) -> float:
    """Mean KL divergence of the steered from the unsteered next-token distribution over the reply."""
    plain = model.read(ids, [len(model.blocks) - 1])[len(model.blocks) - 1]
    steered = model.read(ids, [len(model.blocks) - 1], push=(layer, push))[len(model.blocks) - 1]
    p, q = (model.logits(x[0, start - 1 : -1]).float().log_softmax(-1) for x in (steered, plain))
    return float((p.exp() * (p - q)).sum(-1).mean())


def _interpolated(effect: Tensor, kl: Tensor) -> float:
    """The effect at `KL`, between the two strengths around it; beyond the last one, the last one's."""
    before = torch.tensor(0.0), torch.tensor(0.0)
    for e, k in zip(effect, kl, strict=True):
        if k >= KL:
            share = (KL - before[1]) / (k - before[1]).clamp_min(1e-6)
            return float(before[0] + share * (e - before[0]))
        before = e, k
    return float(before[0])
