"""Published models, rebuilt small: each says what transformers' own `generate` says with hooks, or is refused by reason.

`python -m tests.server.engines.test_published_models` writes docs/reference/models.md, which a test compares.
"""

import asyncio
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from transformers import AutoConfig

from server.engines.base import Generation, Sampling
from server.engines.transformers.engine import TransformersEngine
from server.engines.transformers.loading import eos_ids
from steering.edits import ResolvedIntervention, compile_edit
from steering.errors import BadChat, SteeringError
from steering.model.chat_template import EncodedChat, encode_chat
from steering.model.hooks import steer
from tests.support import published_templates, small_bundle
from tests.support.paths import ROOT
from tests.support.published_models import MODELS, Published

PAGE = ROOT / "docs/reference/models.md"
HOOK, TOKENS = "layers.1", 10
EDIT = compile_edit([ResolvedIntervention(3, "add", 40.0), ResolvedIntervention(8, "clamp", 20.0)], small_bundle.sae())
CHAT = [
    {"role": "user", "content": "Hello K"},
    {"role": "assistant", "content": "Paris, the ness."},
    {"role": "user", "content": "Why?"},
]
SYSTEM = {"role": "system", "content": "Be calm."}
KINDS = {
    "byte-level": "byte-level BPE",
    "llama": "byte fallback, Llama 2's",
    "gemma": "byte fallback, Gemma's",
    "metaspace": "byte fallback, Metaspace",
}


class Row(NamedTuple):
    """What came of one model: `problem` is empty if it works."""

    architecture: str
    chat: str
    problem: str


def tried(model: Published, folder: Path) -> Row:
    """Serve a model, and compare an unsteered and a steered reply with transformers' own generation."""
    path = str(model.write(folder))
    architecture = str((AutoConfig.from_pretrained(path).architectures or [""])[0])
    try:
        engine = TransformersEngine.load(path, hooks=[HOOK])
    except SteeringError as error:
        return Row(
            architecture, "", str(error).split("; choose", 1)[0].split("; looked", 1)[0].split(f"{architecture}: ")[-1]
        )
    chat = how_it_chats(engine)
    try:
        prompt = encoded(engine)
        ours = asyncio.run(_replies(engine, prompt))
        theirs = [generated(engine, prompt, edits) for edits in ({}, {HOOK: EDIT})]
    finally:
        asyncio.run(engine.close())
    return Row(architecture, chat, "" if ours == theirs and ours[0] != ours[1] else f"{ours} is not {theirs}")


def how_it_chats(engine: TransformersEngine) -> str:
    """Where the template puts a system message; `no template` without one."""
    if not engine.tokenizer.chat_template:
        return "no template: completions only"
    rendered = engine.encode_chat([SYSTEM, *CHAT])
    assert all(rendered.contents), "every message has its place in the rendering"
    folded = any(f"Be calm.\n\n{m['content']}" in rendered.text for m in CHAT)
    return "system message in a user's turn" if folded else "system message by itself"


def encoded(engine: TransformersEngine) -> EncodedChat:
    """The chat, or plain text where there is no template: then all of its tokens are steered."""
    if engine.tokenizer.chat_template:
        return engine.encode_chat(CHAT)
    ids = engine.tokenizer("Hello K, the world.")["input_ids"]
    return EncodedChat(tuple(ids), (True,) * len(ids), "Hello K, the world.")


async def _replies(engine, prompt):
    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True)

    async def reply(edits):
        wanted = Generation(prompt.ids, prompt.assistant, True, edits, str(len(edits)), sampling=sampling)
        return "".join([p.text async for p in engine.generate(wanted)])

    return list(await asyncio.gather(reply({}), reply({HOOK: EDIT})))


@torch.no_grad()
def generated(engine, prompt, edits):
    """What transformers' own loop says, without a cache: the hook steers the assistant's tokens and all new ones."""
    ids, steered = list(prompt.ids), list(prompt.assistant)
    ends = sorted(eos_ids(engine.model, engine.tokenizer))
    for _ in range(TOKENS):
        with steer(engine.model, edits, where=torch.tensor([steered])):
            logits = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits[ends] = -torch.inf
        ids.append(int(logits.argmax()))
        steered.append(True)
    return str(engine.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True))


def page() -> str:
    """The matrix as a page of the documentation."""
    rows = []
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            row = tried(model, Path(folder))
        result = "works" if not row.problem else f"refused: {row.problem}"
        rows.append(
            f"| {model.name} | `{row.architecture}` | {KINDS[model.tokenizer]} | {row.chat or '–'} | {result} |"
        )
    return PAGE_TEXT.format(rows="\n".join(rows), templates="\n".join(_template_rows()))


def _template_rows():
    for name in published_templates.NAMES:
        cells = []
        for kind in KINDS:
            tokenizer = published_templates.tokenizer(name, kind)
            try:
                ok = encode_chat(tokenizer, [SYSTEM, *CHAT]).text and encode_chat(tokenizer, CHAT).contents
                cells.append("works" if ok and all(ok) else "wrong")
            except BadChat as error:
                cells.append(f"refused: {error}")
        yield f"| {name} | {' | '.join(cells)} |"


PAGE_TEXT = """# Models: what works

Which published models can be steered and served by the engine `transformers`. A test rebuilds each of them small, with
random weights: transformers' own class with what is particular to it, a tokenizer of its kind, its chat template. A model
*works* if a chat of two turns and a system message has an owner for every token, and if its replies, unsteered and steered,
are those of transformers' own forward pass with hooks; the others are refused at import and at start, with the reason that
stands here. `python -m tests.server.engines.test_published_models` writes this page.

At start the same is tried on the real weights: the engine compares its passes with a plain one and refuses an architecture
on which they disagree. The engine `vllm` is compared in `tests/server/engines/vllm/test_architectures.py`, with Gemma 2,
Qwen 2, Qwen 3, Mistral and GPT-2.

| model | architecture | tokenizer | chat | |
|---|---|---|---|---|
{rows}

## Templates and tokenizers

Each chat template with each kind of tokenizer: a system message, a user's turn, an assistant's and a user's again.

| template | byte-level BPE | byte fallback, Llama 2's | byte fallback, Gemma's | byte fallback, Metaspace |
|---|---|---|---|---|
{templates}
"""


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


def test_the_matrix_of_models_is_what_the_page_says():
    assert page() == PAGE.read_text()


def test_at_least_twenty_five_models_work_and_no_template_is_wrong():
    text = PAGE.read_text()
    assert text.count("| works |\n") >= 25
    assert "wrong" not in text
    assert " is not [" not in text


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
