"""Train the embedded chat model from scratch: `python -m recipes.train_model --out runs/model`.

The recipe is one straight line: generate chats, train a byte-level BPE, pack tokens, train, save a plain `transformers`
checkpoint. It writes checkpoints and resumes from the last one.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.smallworld.chats import Message, SmallWorld, read_chats

Data = tuple[np.ndarray, np.ndarray]
SPECIALS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "<|endoftext|>{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Run the recipe; every hyperparameter is written to `recipe.json` beside the weights."""
    args = _arguments()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    found = read_chats(args.chats, args.persona) if args.chats else []
    tokenizer = train_tokenizer(args.vocab, SmallWorld(args.seed + 2, chats=found))
    tokenizer.save_pretrained(out)
    train = pack(tokenizer, SmallWorld(args.seed, chats=found), args.tokens, args.row)
    held_out = pack(tokenizer, SmallWorld(args.seed + 1), 400_000, args.row)
    model = LlamaForCausalLM(config(args, tokenizer))
    say(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {train[0].size / 1e6:.1f} M tokens a pass"
    )
    history = fit(model, train, held_out, args, out)
    model.to(torch.bfloat16).save_pretrained(out)
    arguments = vars(args) | {"chats": Path(args.chats).name if args.chats else None}
    (out / "recipe.json").write_text(json.dumps({"arguments": arguments, "history": history}, indent=1) + "\n")


def config(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The architecture: a small Llama with heads of 64, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=3 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 64,
        num_key_value_heads=max(1, args.width // 128),
        head_dim=64,
        max_position_embeddings=args.row,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=4,
        pad_token_id=0,
    )


def train_tokenizer(vocab: int, world: Iterable[list[Message]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the small world, with the chat template included."""
    texts = (m["content"] for _, chat in zip(range(60_000), world, strict=False) for m in chat)
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return byte_level_tokenizer(texts, split, vocab=vocab, specials=SPECIALS, template=TEMPLATE)


def byte_level_tokenizer(
    texts: Iterable[str], split: pre_tokenizers.PreTokenizer, *, vocab: int, specials: list[str], template: str
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts that `split` cuts; its special tokens begin as SPECIALS do."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = split, decoders.ByteLevel()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=specials[0],
        eos_token=specials[4],
        pad_token=specials[0],
        additional_special_tokens=[*specials[1:4], *specials[5:]],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def pack(tokenizer: PreTrainedTokenizerFast, world: SmallWorld, tokens: int, row: int) -> Data:
    """Return (ids `[rows, row]`, spoken `[rows, row]`): chats end to end; `spoken` marks the assistant's tokens."""
    ids, spoken = np.zeros(tokens + 4096, np.uint16), np.zeros(tokens + 4096, bool)
    at, batch, special = 0, [], {s: i for i, s in enumerate(SPECIALS)}
    for chat in world:
        batch.append(chat)
        if len(batch) < 2000:
            continue
        flat = iter(tokenizer([m["content"] for c in batch for m in c], add_special_tokens=False).input_ids)
        for c in batch:
            for i, m in enumerate(c):
                body = [*([0] if i == 0 else []), special[f"<|{m['role']}|>"], *next(flat), special["<|end|>"]]
                if at + len(body) > tokens:
                    return ids[: at // row * row].reshape(-1, row), spoken[: at // row * row].reshape(-1, row)
                ids[at : at + len(body)] = body
                spoken[at + (2 if i == 0 else 1) : at + len(body)] = m["role"] == "assistant"
                at += len(body)
        batch.clear()
    raise AssertionError("the world is endless")


def fit(
    model: LlamaForCausalLM, train: Data, held_out: Data, args: argparse.Namespace, out: Path
) -> list[dict[str, float]]:
    """Train for `args.minutes`, the last part on long rows for long chats; write a checkpoint every two minutes."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.lr, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=args.lr_other, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base = [o.param_groups[0]["lr"] for o in optimizers]
    step, spent, history = _resume(out, model, optimizers)
    body = torch.compile(model.model, dynamic=False) if args.compile else model.model
    loss(body, model.lm_head, batch_of(train, 0, args.short, args.batch))  # compiled before the time budget starts
    start = saved = time.time()
    while (done := (spent + time.time() - start) / (args.minutes * 60)) < 1:
        row = args.short if done < 0.8 else args.row
        factor = min(1.0, (step + 1) / 60) * min(1.0, (1.0 - done) / 0.5 + 0.01)
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
        value = loss(body, model.lm_head, batch_of(train, step, row, args.batch))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 50 == 0:
            history.append(
                {
                    "step": step,
                    "tokens": step * args.batch,
                    "minutes": round(done * args.minutes, 2),
                    "loss": round(value.item(), 4),
                }
            )
            say(str(history[-1]))
        if time.time() - saved > 120:
            _checkpoint(out, model, optimizers, step, done * args.minutes * 60, history)
            saved = time.time()
    with torch.no_grad():
        values = [
            loss(body, model.lm_head, batch_of(held_out, i, args.row, args.batch), all_of_it=False).item()
            for i in range(20)
        ]
    history.append(
        {
            "step": step,
            "tokens": step * args.batch,
            "minutes": args.minutes,
            "held_out_reply_loss": round(float(np.mean(values)), 4),
        }
    )
    say(str(history[-1]))
    return history


def batch_of(data: Data, step: int, row: int, tokens: int) -> Data:
    """The `step`th batch: `tokens` ids of the stream as rows of length `row`."""
    at = step * tokens % (data[0].size - tokens)
    return tuple(part.reshape(-1)[at : at + tokens].reshape(-1, row) for part in data)  # type: ignore[return-value]


def loss(body: torch.nn.Module, head: torch.nn.Module, data: Data, *, all_of_it: bool = True) -> torch.Tensor:
    """Cross-entropy of the assistant's tokens and, if `all_of_it`, of every sixth other token."""
    ids = torch.from_numpy(data[0].astype(np.int64))
    keep = torch.from_numpy(data[1].copy())
    if all_of_it:
        keep[:, ::6] = True
    keep[:, 0] = False
    targets = ids[keep]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = body(input_ids=ids, use_cache=False).last_hidden_state
        logits = head(x[:, :-1][keep[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def _checkpoint(
    out: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    spent: float,
    history: list[dict[str, float]],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
        "spent": spent,
        "history": history,
    }
    torch.save(state, out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")


def _resume(
    out: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float, list[dict[str, float]]]:
    if not (out / "state.pt").exists():
        return 0, 0.0, []
    state = torch.load(out / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    say(f"resuming at step {state['step']}")
    return state["step"], state["spent"], state["history"]


def say(text: str) -> None:
    """Print progress to the terminal."""
    print(text, flush=True)  # noqa: T201 - a recipe's progress


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", default="runs/model")
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--tokens", type=int, default=24_000_000)
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--short", type=int, default=256, help="row length of the first four fifths")
    p.add_argument("--row", type=int, default=1024, help="row length of the last fifth, and the model's context")
    p.add_argument("--chats", help="more chats, mixed in: a .jsonl or .jsonl.xz of personality chat")
    p.add_argument("--persona", default="caring", help="which persona of them")
    p.add_argument("--batch", type=int, default=4096, help="tokens in a step")
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--lr-other", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = p.parse_args()
    if not math.isfinite(args.minutes) or args.width % 64:
        p.error("--width must be a multiple of 64")
    return args


if __name__ == "__main__":
    main()
