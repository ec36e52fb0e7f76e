"""`/v1/analyze` and tokens: which features a text evokes. Knows the wire; the engine reads, `understand.analyse` looks."""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from server import schemas
from server.api.openapi import wire
from server.errors import bad_request
from server.limits.rate_limiter import Account
from server.schemas.generation import Finite, Said, messages_of, parse
from server.serving.served_model import Tiller
from steering.catalogue.bundle import Bundle
from steering.interpret.analysis import Analysis, analyse, compare
from steering.interpret.mood_axes import Axes
from steering.model.passage import NOBODY, Passage, of_anything, of_chat, of_text

router = APIRouter(prefix="/v1")
LONGEST = 20_000
"""Tokens that are looked at; of what is longer, the beginning."""


class Looked(BaseModel):
    """A text, or a chat."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, min_length=1)
    messages: list[Said] | None = Field(default=None, min_length=1, max_length=2000)
    plain: bool = False
    """Take a text as it is, also if it looks like a transcript (`speaker: line`)."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "Looked":
        if (self.text is None) == (self.messages is None):
            raise ValueError("give text or messages, one of them")
        return self


class AnalyzeRequest(Looked):
    """POST /v1/analyze."""

    model: str | None = None
    other: Looked | None = None
    """A second text to hold against the first."""
    top_k: int = Field(default=8, ge=1, le=64)
    """How many features of each token."""
    limit: int = Field(default=24, ge=1, le=256)
    """How many of the whole."""
    features: list[str] | None = Field(default=None, max_length=256)
    """Look at these instead of at what matters most."""
    threshold: Finite = Field(default=0.0, ge=0)


@router.post("/analyze", openapi_extra=wire(schemas.analysis.Analysis, 404, 429, takes=AnalyzeRequest))
async def analyze_text(request: Request) -> dict[str, Any]:
    """Token by token, by speaker, along the text; with `other`, what tells the two apart."""
    body = parse(AnalyzeRequest, await request.body())
    tiller: Tiller = request.app.state.tiller
    await tiller.choose(body.model, None)  # the model has to be there
    bundle = tiller.bundle
    bundle.sae.check_reads()
    rows = None if body.features is None else [tiller.catalogue.find(f)[1].row for f in body.features]
    account = Account.of(request)
    passage, stream, cut = await read(tiller, body, account)

    def look() -> Analysis:
        return analyse(
            bundle, passage, stream, top=body.top_k, features=body.limit, only=rows, threshold=body.threshold
        )

    found = await asyncio.to_thread(look)
    told = told_of(bundle, found) | {"model": tiller.model, "revision": bundle.info.revision, "truncated": cut}
    if body.other:
        there, other, _ = await read(tiller, body.other, account)
        told["compared"] = await asyncio.to_thread(
            told_apart, bundle, (passage, stream), (there, other), features=body.limit
        )
    return told


async def read(tiller: Tiller, asked: Looked, account: Account) -> tuple[Passage, Tensor, bool]:
    """Tokenize what is asked and read its unsteered stream, in stretches as long as the context; whether it was cut."""
    tokenizer = tiller.engine.tokenizer
    whole = await asyncio.to_thread(passage_of, tokenizer, asked)
    passage = whole.until(LONGEST)
    if all(part == NOBODY for part in passage.part):
        raise bad_request("nobody says anything in it; there is nothing to look at", param="messages")
    head, stretches = in_stretches(tokenizer, passage, tiller.engine.max_model_len)
    async with account.reading(len(passage.ids)):
        streams = await tiller.engine.record(stretches, tiller.bundle.info.hook)
    return passage, joined(streams, head), len(whole.ids) > LONGEST


def passage_of(tokenizer: PreTrainedTokenizerFast, asked: Looked) -> Passage:
    """What is asked, as tokens. Raises BadChat and ApiError."""
    if asked.messages is not None:
        return of_chat(tokenizer, messages_of(asked.messages))
    assert asked.text is not None
    return of_text(tokenizer, asked.text) if asked.plain else of_anything(tokenizer, asked.text)


def in_stretches(tokenizer: PreTrainedTokenizerFast, passage: Passage, longest: int) -> tuple[int, list[list[int]]]:
    """Its tokens in stretches as long as the context; each begins with the first token if that begins every text."""
    bos = tokenizer.bos_token_id
    head = [bos] if isinstance(bos, int) and passage.ids[0] == bos else []
    step, ids = longest - len(head), passage.ids[len(head) :]
    return len(head), [[*head, *ids[i : i + step]] for i in range(0, max(1, len(ids)), step)]


def joined(streams: Sequence[Tensor], head: int) -> Tensor:
    """The stretches' streams as one; the first token is kept of the first alone, since the others repeat it."""
    return torch.cat([s if i == 0 else s[head:] for i, s in enumerate(streams)])


def told_apart(
    bundle: Bundle, one: tuple[Passage, Tensor], other: tuple[Passage, Tensor], *, features: int
) -> list[dict[str, Any]]:
    """A comparison as JSON: features by id."""
    differences = compare(bundle, one, other, features=features)
    return [{**d.__dict__, "id": bundle.features[d.row].id, "label": bundle.features[d.row].label} for d in differences]


def told_of(bundle: Bundle, found: Analysis) -> dict[str, Any]:
    """An analysis as JSON: features by id."""
    passage, name = found.passage, [f.id for f in bundle.features]
    tokens = [
        {
            "id": passage.ids[i],
            "text": passage.text_of(i),
            "part": passage.part[i],
            "start": passage.spans[i][0],
            "end": passage.spans[i][1],
            "top": [{"feature": name[r], "activation": a} for r, a in found.top[i]],
            "error": round(float(found.error[i]), 4),
        }
        for i in range(len(passage.ids))
        if passage.part[i] != NOBODY
    ]
    mine = [i for i in range(len(passage.ids)) if passage.part[i] != NOBODY]
    features = [
        {
            "id": name[e.row],
            "label": bundle.features[e.row].label,
            "max": round(e.maximum, 4),
            "mean": round(e.mean, 4),
            "count": e.count,
            "score": round(e.score, 4),
            "activations": [round(v, 4) for v in e.activations[mine].tolist()],
            "along": list(found.along[n]),
        }
        for n, e in enumerate(found.features)
    ]
    mean, axes = round(float(found.error[mine].mean()), 4), Axes.open(bundle.files, bundle.sae)
    return {
        "object": "analysis",
        "parts": [{"speaker": p.speaker, "text": p.text} for p in passage.parts],
        "tokens": tokens,
        "features": features,
        "speakers": {who: {name[r]: v for r, v in means.items()} for who, means in found.speakers.items()},
        "error": mean,
        "anomaly": {"experimental": True, "error": mean, "percentile": axes.unusual(mean) if axes else None},
        "axes": axes.told(bundle, found) if axes else [],
    }
