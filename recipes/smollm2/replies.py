"""Stage `replies`: the model's own replies, sampled in batches.

A third are plain; in a third a system prompt asks for a tone or a subject; in a third the stream after layer 12 is
pushed from plain lines towards a tone's lines (difference of means), which makes tones that system prompts don't. The
text of all of them is read unpushed later. Shards are whole or not there; the stage ends when it has `TOKENS`, or has
used `CPU_SECONDS`.
"""

import json
import time
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recipes.smollm2.concepts import concepts, sentence
from recipes.smollm2.files import Record, finish, read_lines, say, write_json, write_lines
from recipes.smollm2.lean import Lean, Writing
from recipes.smollm2.text import Chat
from recipes.smollm2.text import questions as corpus_questions
from steering.model.chat_template import encode_chat

TOKENS, CPU_SECONDS = 600_000, 3_000
LAYER = 12
WIDE = 128
"""Replies sampled at once."""
MOST = 160
"""Tokens of a reply."""
TOP_P, PENALTY, AMONG = 0.9, 1.1, 64
END = (0, 2)


def make_replies(out: Path, text: Path, threads: int, seed: int = 0) -> None:
    """Leave shards of chats in `out/replies`."""
    torch.set_num_threads(threads)
    folder = out / "replies"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model = Lean(out / "model")
    pushes = directions(model, tokenizer)
    questions = _questions(text, seed)
    tokens, cpu, number = 0, 0.0, 0
    while tokens < TOKENS and cpu < CPU_SECONDS:
        shard, figures = folder / f"{number:04}.jsonl", folder / f"{number:04}.json"
        if not figures.exists():
            started, wall = time.process_time(), time.time()
            rows = _shard(model, tokenizer, pushes, questions, Random(f"{seed} {number}"))
            write_lines(shard, rows)
            used = {"tokens": sum(r["tokens"] for r in rows), "cpu_seconds": time.process_time() - started}
            write_json(figures, used | {"seconds": time.time() - wall})
        done = json.loads(figures.read_text())
        tokens, cpu, number = tokens + done["tokens"], cpu + done["cpu_seconds"], number + 1
        say(f"replies: {number} shards, {tokens} tokens, last {done['tokens'] / done['seconds']:.0f} tokens/s")
    kinds: Record = {}
    for path in sorted(folder.glob("*.jsonl")):
        for row in read_lines(path):
            kinds[row["way"]] = kinds.get(row["way"], 0) + 1
    sampling = {"temperature": [0.5, 0.7], "top_p": TOP_P, "repetition_penalty": PENALTY, "at_once": WIDE, "most": MOST}
    push = {"layer": LAYER, "of_typical_length": [0.25, 0.4]}
    record = {"tokens": tokens, "cpu_seconds": round(cpu), "replies": kinds, "sampling": sampling, "push": push}
    finish(out, "replies", record | {"seed": seed})


def directions(model: Lean, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """For each tone and subject: from plain lines to its lines, as long as the stream typically is."""

    def mean(lines: list[str]) -> tuple[Tensor, float]:
        streams = []
        for line in lines:
            ids = tokenizer(line, add_special_tokens=False)["input_ids"]
            streams.append(model.read(torch.tensor([ids]), [LAYER])[LAYER][0, 1:].float())
        rows = torch.cat(streams)
        return rows.mean(0), float(rows.norm(dim=1).median())

    known = concepts()
    plain, typical = mean(list(known.plain))
    lines = {t.name: list(t.lines) for t in known.tones}
    lines |= {s.name: [sentence(s.third(f)) for f in s.facts] for s in known.subjects}
    found = {name: mean(some)[0] - plain for name, some in lines.items()}
    return {name: typical * d / d.norm() for name, d in found.items()}


def _shard(
    model: Lean, tokenizer: PreTrainedTokenizerFast, pushes: dict[str, Tensor], questions: list[str], rng: Random
) -> list[Record]:
    """One batch of replies."""
    asked = [_asked(rng, questions) for _ in range(WIDE)]
    prompts = [list(encode_chat(tokenizer, a["messages"]).ids) for a in asked]
    order = sorted(range(WIDE), key=lambda i: len(prompts[i]))
    asked, prompts = [asked[i] for i in order], [prompts[i][:200] for i in order]
    push = torch.stack([a["strength"] * pushes[a["push"]] if a["push"] else torch.zeros(model.d) for a in asked])
    temperature = torch.tensor([rng.uniform(0.5, 0.7) for _ in asked])
    generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
    written = sample(model, prompts, push.to(model.embedding.dtype), temperature, generator)
    rows = []
    for a, ids in zip(asked, written, strict=True):
        reply = {"role": "assistant", "content": str(tokenizer.decode([i for i in ids if i not in END])).strip()}
        way = {k: a[k] for k in ("way", "push", "strength")}
        rows.append({"messages": [*a["messages"], reply], "tokens": len(ids), **way})
    return rows


@torch.inference_mode()
def sample(
    model: Lean,
    prompts: list[list[int]],
    push: Tensor,
    temperature: Tensor,
    generator: torch.Generator,
    *,
    layer: int = LAYER,
    most: int = MOST,
) -> list[list[int]]:
    """Replies to prompts, at most `most` tokens each; finished rows leave the batch when they are a fifth of it."""
    writing = Writing(model, prompts, max(map(len, prompts)) + most, push, layer)
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    used = torch.zeros(len(prompts), model.embedding.shape[0], dtype=torch.bool)
    going = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(most):
        logits = writing.next.float()
        logits = torch.where(used, torch.where(logits > 0, logits / PENALTY, logits * PENALTY), logits)
        top, index = (logits / temperature[:, None]).topk(AMONG)
        share = top.softmax(-1)
        share = torch.where(share.cumsum(-1) - share < TOP_P, share, 0.0)
        token = index.gather(1, torch.multinomial(share, 1, generator=generator))[:, 0]
        for i, t in zip(rows[going].tolist(), token[going].tolist(), strict=True):
            written[i].append(t)
        used[torch.arange(len(token)), token] = True
        going &= ~torch.isin(token, torch.tensor(END))
        if not going.any():
            break
        if int(going.sum()) <= 0.8 * len(going):
            some = going.nonzero()[:, 0]
            writing.keep(some)
            rows, used, temperature, token, going = rows[some], used[some], temperature[some], token[some], going[some]
        writing.step(token)
    return written


def _asked(rng: Random, questions: list[str]) -> Record:
    known = concepts()
    question = rng.choice(known.questions if rng.random() < 0.25 else questions)
    chat: Chat = [{"role": "user", "content": question}]
    way = rng.choice(("plain", "system", "push"))
    subjects = [s for s in known.subjects for _ in range(s.weight)]
    if way == "system":
        if rng.random() < 0.5:
            ask = rng.choice(rng.choice(known.tones).asks)
        else:
            subject = rng.choice(subjects)
            ask = rng.choice(subject.asks)
            person = subject.first if ask.startswith("You are the Golden") else subject.third
            ask += " " + " ".join(sentence(person(f)) for f in rng.sample(subject.facts, rng.choice((0, 1, 2))))
        chat.insert(0, {"role": "system", "content": ask.strip()})
    pushed = way == "push"
    name = rng.choice(known.tones if rng.random() < 0.7 else subjects).name if pushed else None
    strength = round(rng.uniform(0.25, 0.4), 3) if pushed else 0.0
    return {"messages": chat, "way": way, "push": name, "strength": strength}


def _questions(text: Path, seed: int) -> list[str]:
    """First questions of the corpus' chats, no source more than a fifth."""
    rng, found = Random(seed), {}
    for source, question in corpus_questions(text):
        if 12 < len(question) < 300:
            found.setdefault(source, set()).add(question)
    per = {source: sorted(some) for source, some in found.items()}
    for some in per.values():
        rng.shuffle(some)
    most = 4_000
    return [q for some in per.values() for q in islice(some, most)]
