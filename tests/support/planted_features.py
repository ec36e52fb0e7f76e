"""A small bundle with planted features: each fires on one word in the stream of a random model."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from steering.catalogue.feature import Feature
from steering.model.hooks import read_stream
from steering.sae import SAE
from tests.support import small_bundle

HOOK = "layers.1"
LINES = ("the bridge is red and long", "what should I do this weekend", "hello there, how are you")
PLANTED = (" red", " weekend", "hello")
"""Words on which features 0, 1 and 2 fire."""


def texts(n: int, seed: int = 0) -> list[str]:
    """Lines of the few words that the small tokenizer has, in random order."""
    g = torch.Generator().manual_seed(seed)
    words = " ".join(LINES).split()
    pick = lambda most: int(torch.randint(0, most, (1,), generator=g))  # noqa: E731
    return [" ".join(["so", *(words[pick(len(words))] for _ in range(4 + pick(8)))]) for _ in range(n)]


def rows(n: int, seed: int = 0) -> list[list[int]]:
    """The same as token ids, beginning-of-text token first."""
    tok = small_bundle.tokenizer()
    return [[0, *tok(text, add_special_tokens=False)["input_ids"]] for text in texts(n, seed)]


def model():
    """The small model with embeddings of large norm, so that the stream identifies the current word."""
    found = small_bundle.model(len(small_bundle.tokenizer()))
    with torch.no_grad():
        found.model.embed_tokens.weight.mul_(40)
    return found


def typical_norm(model) -> float:
    """Median norm of the stream: the large embeddings make it many times the small bundle's."""
    lengths = [read_stream(model, torch.tensor([row]), HOOK)[0, 1:].norm(dim=-1) for row in rows(50)]
    return round(float(torch.cat(lengths).median()), 2)


def planted_sae(model) -> SAE:
    """The small SAE with probes for single tokens in its first rows, and a last row that never fires."""
    tok = small_bundle.tokenizer()
    streams, tokens = [], []
    said = [tok.apply_chat_template([{"role": "user", "content": text}]) for text in [*texts(200, seed=8), *LINES]]
    for row in [*rows(300, seed=9), *(list(chat["input_ids"]) for chat in said)]:
        streams.append(read_stream(model, torch.tensor([row]), HOOK)[0, 1:])
        tokens.append(torch.tensor(row[1:]))
    x, seen = torch.cat(streams), torch.cat(tokens)
    sae = small_bundle.sae()
    W_enc, b_enc = sae.W_enc.clone(), sae.b_enc.clone()
    threshold = torch.linspace(2.0, 12.0, small_bundle.FEATURES)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    for i, word in enumerate(PLANTED):
        (token,) = tok(word, add_special_tokens=False)["input_ids"][-1:]
        wanted = (seen == token).double()
        probe = torch.linalg.lstsq(ones.T @ ones + 1e-3 * torch.eye(ones.shape[1]), ones.T @ wanted).solution
        # 0 on another word, about 4 on this one.
        W_enc[:, i], b_enc[i], threshold[i] = 4 * probe[:-1].float(), 4 * float(probe[-1]), 2.0
    threshold[-1] = 1e6
    return replace(sae, W_enc=W_enc, b_enc=b_enc, threshold=threshold)


def planted_bundle(folder: Path) -> Path:
    """The small bundle with the planted SAE, described."""
    from steering.interpret.describe import describe
    from steering.model.activations import padded_batches

    small_bundle.write_bundle(folder)
    long = model()
    long.save_pretrained(folder / "model")
    sae = planted_sae(long)
    sae.save(folder / "revisions/r1", hook=HOOK, model="small")
    batches = padded_batches(rows(200), batch=16, longest=64, pad=0)
    features = describe(long, small_bundle.tokenizer(), sae, HOOK, batches, bundle="small")
    measured = {
        0: {"label": "a warm colour", "label_source": "hand", "dose": 4.0, "note": "",
            "calibration": {"knots": [[-1, -4], [0, 0], [1, 4]], "works": True}},
        1: {"label": "crossing over", "label_source": "fit", "words": ["leisure"]},
        2: {"top_logits": {"positive": [" zebra"], "negative": []}},
    }  # fmt: skip
    example = {"text": "he crossed the bridge", "token": " bridge", "at": 3, "activation": 1.0}
    lines = []
    for f in features:
        row = f.model_dump(exclude={"id", "edited"})
        row |= measured.get(f.index, {})
        if f.index == 0:
            row["examples"] = [*row["examples"], example]
        lines.append(Feature.model_validate({"id": f.id, **row}).line())
    (folder / "revisions/r1/features.jsonl").write_text("".join(lines))
    presets = json.loads((folder / "presets.json").read_text())
    (folder / "presets.json").write_text(json.dumps(presets[:1]))
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(info | {"typical_norm": typical_norm(long)}))
    return folder
