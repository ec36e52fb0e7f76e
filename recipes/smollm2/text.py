"""Stage `text`: training tokens and held-out tokens.

`--text DIR` is any folder of public text, nothing of which is shipped:
  `*.txt` or `*.txt.xz`      prose, documents apart by `<|endoftext|>` or else by blank lines;
  `*.jsonl` or `*.jsonl.xz`  chats, `{"messages": [{"role", "content"}], "source": …}` a line.
What has `_val` in its name is held out; where nothing has, every fiftieth text is. The replies and passages of the
stages before are added, every fiftieth of them held out, too.
"""

import json
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from recipes.smollm2.files import Record, finish, read_lines, record_of, say
from steering.model.token_store import TokenStore

LONGEST = 320
"""TokenStore of one text; longer ones are cut."""
HELD_OUT = 50
WANTED = {"prose": 5_200_000, "chats": 3_700_000}
"""TokenStore to learn from; replies and passages come on top, all of them."""
HELD_TOKENS = 120_000
"""Of each kind, at most."""
PROSE_CAPS = {"dictionary": 0.06, "calendar": 0.005}
"""The largest share of the prose's texts for kinds that are all alike."""
CHAT_CAPS = {"open_trivia": 0.18, "sgd_dialogues": 0.10, "wordset_qa": 0.10, "wiki_qa": 0.30}
"""The largest share of the chats' tokens by `source`; sources that are not named here are not capped."""
KINDS = ("prose", "chats", "replies", "passages")
Chat = list[dict[str, str]]


def make_text(out: Path, folder: Path, seed: int = 0) -> None:
    """Leave `out/text/learn`, shuffled, and `out/text/held-KIND`, with which system line and all as the model reads them."""
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    learn: list[list[int]] = []
    counts: Record = {}
    for kind in KINDS:
        say(f"text: {kind}")
        texts, held = _of_kind(kind, out, folder, tokenizer, seed)
        known = {tuple(t) for t in held}
        fresh = [t for t in texts if tuple(t) not in known]
        TokenStore.write(out / "text" / f"held-{kind}", held)
        learn += fresh
        counts[kind] = {
            "texts": len(fresh),
            "tokens": sum(map(len, fresh)),
            "held_texts": len(held),
            "held_tokens": sum(map(len, held)),
        }
    Random(seed).shuffle(learn)
    TokenStore.write(out / "text" / "learn", learn)
    total = sum(c["tokens"] for c in counts.values())
    names = sorted(p.name for p in folder.iterdir() if ".txt" in p.name or ".jsonl" in p.name)
    settings = {"longest": LONGEST, "caps": {"prose": PROSE_CAPS, "chats": CHAT_CAPS}, "seed": seed}
    finish(out, "text", {"files": names, "kinds": counts, "tokens": total, **settings})


def _of_kind(
    kind: str, out: Path, folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Texts to learn from and texts to hold out."""
    rng = Random(f"{seed} {kind}")
    if kind in WANTED:
        strings = prose if kind == "prose" else chats
        held_files = any("_val" in p.name for p in folder.iterdir())
        texts = list(_until(_tokenized(tokenizer, strings(folder, rng, val=False)), WANTED[kind]))
        if held_files:
            return texts, list(_until(_tokenized(tokenizer, strings(folder, rng, val=True)), HELD_TOKENS))
    else:
        rows = read_own(out, kind)
        texts = list(
            _tokenized(tokenizer, (rendered(r["messages"], rng) if "messages" in r else r["text"] for r in rows))
        )
        rng.shuffle(texts)
    held = list(_until(iter(texts[::HELD_OUT]), HELD_TOKENS))
    return [t for i, t in enumerate(texts) if i % HELD_OUT], held


def read_own(out: Path, kind: str) -> Iterator[Record]:
    """Replies or passages, in the order of their files."""
    if record_of(out, kind) is None:
        raise SystemExit(f"the stage {kind!r} is not finished")
    for path in sorted((out / kind).glob("*.jsonl")):
        yield from read_lines(path)


def prose(folder: Path, rng: Random, *, val: bool) -> Iterator[str]:
    """One stretch of each document, in random order; dictionary entries and calendar stubs capped."""
    documents = []
    for path in _files(folder, ".txt", val=val):
        whole = _read(path)
        documents += [
            d.strip() for d in (whole.split("<|endoftext|>") if "<|endoftext|>" in whole else whole.split("\n\n"))
        ]
    rng.shuffle(documents)
    seen, counts = 0, Counter[str]()
    for document in documents:
        if len(document) < 80:
            continue
        kind = _kind(document)
        if kind in PROSE_CAPS and counts[kind] > PROSE_CAPS[kind] * seen:
            continue
        counts[kind] += 1
        seen += 1
        yield _stretch(document, rng)


def chats(folder: Path, rng: Random, *, val: bool) -> Iterator[str]:
    """Chats in the model's template, in random order; short ones of one source are put together to one of several turns."""
    rows = [json.loads(line) for path in _files(folder, ".jsonl", val=val) for line in _read(path).splitlines()]
    rng.shuffle(rows)
    sizes, total = Counter[str](), 1
    waiting: dict[str, Chat] = {}
    for row in rows:
        source = row.get("source") or row.get("persona") or "other"
        size = sum(len(m["content"]) for m in row["messages"])
        if sizes[source] > CHAT_CAPS.get(source, 1.0) * total + 20_000:
            continue
        sizes[source] += size
        total += size
        chat = waiting.pop(source, []) + row["messages"]
        if sum(len(m["content"]) for m in chat) < 500 and len(chat) < 10 and rng.random() < 0.75:
            waiting[source] = chat
        else:
            yield rendered(chat, rng)


def questions(folder: Path) -> Iterator[tuple[str, str]]:
    """Source and first user turn of each chat."""
    for path in _files(folder, ".jsonl", val=False):
        for row in map(json.loads, _read(path).splitlines()):
            first = next((m["content"] for m in row["messages"] if m["role"] == "user"), "")
            yield row.get("source") or row.get("persona") or "other", first


def rendered(chat: Chat, rng: Random) -> str:
    """A chat as the model reads it: mostly with the template's own system line, sometimes with none."""
    system = "" if chat[0]["role"] == "system" or rng.random() < 0.3 else DEFAULT_SYSTEM
    return system + "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)


DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def _kind(document: str) -> str:
    head = document[:400]
    if len(re.findall(r"^[\w .'-]+ \((?:noun|verb|adjective|adverb)\):", head, re.M)) >= 2:
        return "dictionary"
    if re.search(r"was a (?:common|leap) year|is a (?:common|leap) year", head):
        return "calendar"
    return "other"


def _stretch(document: str, rng: Random) -> str:
    """At most about `LONGEST` tokens from a beginning of a paragraph."""
    room = LONGEST * 5
    if len(document) <= room:
        return document
    starts = [0, *(m.end() for m in re.finditer(r"\n+", document) if m.end() < len(document) - 400)]
    at = rng.choice(starts)
    return document[at : at + room]


def _files(folder: Path, suffix: str, *, val: bool) -> list[Path]:
    found = [p for p in sorted(folder.iterdir()) if p.name.endswith((suffix, f"{suffix}.xz"))]
    return [p for p in found if ("_val" in p.name) == val]


def _read(path: Path) -> str:
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    return path.read_text(encoding="utf-8")


def _tokenized(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Iterator[list[int]]:
    stream = iter(texts)
    while some := list(islice(stream, 2000)):
        yield from (ids[:LONGEST] for ids in tokenizer(some, add_special_tokens=False)["input_ids"] if len(ids) > 8)


def _until(texts: Iterator[list[int]], tokens: int) -> Iterator[list[int]]:
    n = 0
    for text in texts:
        if n >= tokens:
            return
        n += len(text)
        yield text
