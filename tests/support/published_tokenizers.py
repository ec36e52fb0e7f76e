"""Small tokenizers in the shapes that models publish: byte fallback (Llama 2, Gemma), and others."""

from collections.abc import Sequence
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "▁",
    "▁▁",
    "▁▁▁▁",
    "▁world",
    "▁Paris",
    "▁Hello",
    "▁the",
    "K",
    "Paris",
    "ness",
    "é",
    "日",
    ".",
    "<",
    ">",
    "/",
    "[",
    "]",
    "|",
    "▁tomato",
]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?,:;#_-'"
Shape = Literal["llama", "gemma", "metaspace"]
Kind = Literal["llama", "gemma", "metaspace", "byte-level"]


def byte_fallback(
    shape: Shape = "llama",
    *,
    added: Sequence[str | AddedToken] = ("<|user|>", "<|assistant|>"),
    template: str | None = None,
    lowercase: bool = False,
    bos: str = "<s>",
    eos: str = "</s>",
) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose unknown characters become `<0x..>`; Llama's decoder drops the first space, Gemma's does not."""
    pieces = ["<unk>", bos, eos, *(f"<0x{b:02X}>" for b in range(256)), *WORDS, *(c for c in LETTERS if c != "K")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocabulary, _merges(vocabulary), unk_token="<unk>", byte_fallback=True))
    first = [normalizers.Lowercase()] if lowercase else []
    if shape == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
        )
    else:
        space = [normalizers.Prepend("▁")] if shape == "llama" else []
        backend.normalizer = normalizers.Sequence([*first, *space, normalizers.Replace(" ", "▁")])
        strip = [decoders.Strip(" ", 1, 0)] if shape == "llama" else []
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
    backend.add_special_tokens([bos, eos, *(t for t in added if isinstance(t, str) or t.special)])
    backend.add_tokens([t for t in added if isinstance(t, AddedToken) and not t.special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, unk_token="<unk>")
    tokenizer.chat_template = template
    return tokenizer


def byte_level(
    *, added: Sequence[str | AddedToken], template: str | None, bos: str = "<s>", eos: str = "</s>"
) -> PreTrainedTokenizerFast:
    """Return a tokenizer over bytes, as those of GPT-2, Llama 3 and Qwen: nothing is unknown, spaces are `Ġ`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [w.replace("▁", "Ġ") for w in WORDS if w.isascii() or w.startswith("▁")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([bos, eos, *letters, *words]))}
    backend = Tokenizer(models.BPE(vocabulary, _merges(vocabulary)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([bos, eos, *(t for t in added if isinstance(t, str) or t.special)])
    backend.add_tokens([t for t in added if isinstance(t, AddedToken) and not t.special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def small_tokenizer(
    kind: Kind, *, added: Sequence[str | AddedToken], template: str | None, eos: str = "</s>"
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one of the kinds."""
    if kind == "byte-level":
        return byte_level(added=added, template=template, eos=eos)
    return byte_fallback(kind, added=added, template=template, eos=eos)


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges that make whole words of letters."""
    found = dict[tuple[str, str], None]()
    for word in [w for w in vocabulary if len(w) > 1 and not w.startswith("<")]:
        left = word[0]
        for letter in word[1:]:
            for piece in (letter, left + letter):
                vocabulary.setdefault(piece, len(vocabulary))
            found[left, letter] = None
            left += letter
    return [*found]
