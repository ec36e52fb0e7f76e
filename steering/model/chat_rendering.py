"""Chat rendering: one rendering of a whole chat by the model's template, and whose each character is.

The template is traced: its loops over the messages say, inside the text, which message they are at, and each message's
text is marked where it begins and ends. A trace counts only if it is the plain rendering with these marks put in; so a
template may move, fold, strip or drop what it likes, and a wrong owner is not possible. The marks hold a random number.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Literal

from jinja2 import Template, TemplateError, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,  # pyright: ignore[reportPrivateUsage] - the environment in which transformers renders
)

from steering.errors import BadChat
from steering.model.spans import Spans

Message = dict[str, str]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which templates read a message's reasoning; it is given under the first."""
BROKEN = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What a template, which is a program of others, raises for messages that it does not expect."""
_CLOSED = re.compile(r"</\w+>\s*|\[/\w+\]\s*")
Placement = Literal["around", "behind", "inside"]


@dataclass(frozen=True)
class Turn:
    """One message as the template is given it: the texts of one or more messages of the request, by their index."""

    role: str
    parts: tuple[tuple[int, str], ...]
    more: tuple[tuple[str, str], ...] = ()
    """Other fields of the message, such as its reasoning."""

    def message(self, show: Callable[[int, str], str] = lambda _, text: text) -> Message:
        """Return it as a message, with each part as `show` makes it."""
        content = "\n\n".join(show(i, text) for i, text in self.parts)
        return {"role": self.role, "content": content, **dict(self.more)}


@dataclass(frozen=True)
class RenderedChat:
    """A chat's text, with spans of characters in it."""

    text: str
    turns: tuple[tuple[int, int, int], ...]
    """Start, end and index of the turn, in the order of the text; what is between two spans is nobody's."""
    reply: int
    """Where the beginning of the assistant's reply starts; the text's length if there is none."""
    contents: dict[int, tuple[int, int, int]]
    """For the index of a message: start and end of its text without outer whitespace, and how many of its first characters
    the template has dropped. A message that is not here was changed or dropped.
    """
    dropped: frozenset[int]
    """Messages whose text is nowhere in the chat."""

    def up_to_final_text(self, messages: Sequence[Message]) -> "RenderedChat":
        """Return the chat up to the end of its last message's text, for a reply that continues it.

        Raises BadChat where the text has no end, or is not what comes last.
        """
        text, place = messages[-1]["content"], self.contents.get(len(messages) - 1)
        if not (core := text.strip()):
            raise BadChat("the last message has no text to continue; leave it and continue_final_message out")
        if place is None or any(start >= place[1] for start, _, _ in self.contents.values()):
            raise BadChat("this model's chat template changes the last message, so that it cannot be continued")
        after = text[text.index(core) + len(core) :]
        end = place[1] + (len(after) if self.text.startswith(after, place[1]) else 0)
        turns = tuple((a, min(b, end), i) for a, b, i in self.turns if a < end)
        return replace(self, text=self.text[:end], turns=turns, reply=end)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the source of the chat template, of several named ones the default. Raises BadChat if there is none."""
    found: object = tokenizer.chat_template
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}
    if isinstance(found, dict):
        if "default" not in found and len(found) != 1:
            raise BadChat(f"this model has the chat templates {', '.join(found)}, but none is named 'default'")
        found = found["default"] if "default" in found else next(iter(found.values()))
    if not found:
        raise BadChat("this model has no chat template; use /v1/completions, or a model that was tuned for chat")
    return str(found)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generate: bool) -> str:
    """Return a chat's text. Raises BadChat with the template's own reason if it refuses the messages."""
    source = template_of(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=source, tokenize=False, add_generation_prompt=generate
        )
    except BROKEN as error:
        raise BadChat(f"this model's chat template refuses these messages: {error}") from error
    assert isinstance(text, str)
    return text


def render_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, generate: bool) -> RenderedChat:
    """Return the rendering of a whole chat with its owners. Raises BadChat where they cannot be told."""
    text = render(tokenizer, [t.message() for t in turns], generate=generate)
    owned = seen = None
    for seen in _traces(tokenizer, turns, text, generate):
        if seen.owns(turns):
            owned = seen
            break
    spans = owned.spans if owned else _spans_of_prefixes(tokenizer, turns, text)
    if spans is None or (seen and not _Trace(text, spans, seen.marks).owns(turns)):
        raise BadChat(
            "this model's chat template mixes turns, so that it cannot be told which tokens are the assistant's"
        )
    reply = _reply_start(tokenizer, turns, text, spans) if generate else len(text)
    contents, dropped = _contents(turns, seen) if seen else ({}, frozenset[int]())
    return RenderedChat(text, spans, reply, contents, dropped)


@dataclass(frozen=True)
class _Trace:
    """A rendering's spans of turns, and the marks of messages' texts: whether one begins, of which message, where,
    and at which of the message's characters."""

    text: str
    spans: tuple[tuple[int, int, int], ...]
    marks: tuple[tuple[bool, int, int, int], ...]

    def owns(self, turns: Sequence[Turn]) -> bool:
        """Return whether every text lies in a turn of its side, and every turn of the assistant has its place."""
        placed = {i for _, _, i in self.spans}
        side = {part: t.role == "assistant" for t in turns for part, _ in t.parts}
        assistants = Spans((a, b) for a, b, i in self.spans if turns[i].role == "assistant")
        # the character after the mark of a text's beginning, or before that of its end
        return all(i in placed for i, t in enumerate(turns) if t.role == "assistant") and all(
            (at - (not begins) in assistants) == side[part] for begins, part, at, _ in self.marks
        )


def _traces(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], text: str, generate: bool) -> Iterator[_Trace]:
    """Yield the traces that are the plain text; the marks disturb some templates at one place and not at another."""
    places: tuple[Placement, ...] = ("around", "behind", "inside")
    for place in places:
        try:
            trace = _trace(tokenizer, turns, generate, place)
        except BROKEN:
            continue
        if trace.text == text:
            yield trace


def _trace(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], generate: bool, place: Placement) -> _Trace:
    nonce = secrets.token_hex(8)

    def mark(kind: str, a: int, b: int) -> str:
        return f"\ue000{nonce}{kind}{a}:{b}\ue001"

    messages = [_with_aliases(t.message(lambda i, text: _marked(text, i, place, mark))) for t in turns]
    marked = _traced_template(template_of(tokenizer)).render(
        messages=messages,
        tools=[],
        documents=None,
        add_generation_prompt=generate,
        **tokenizer.special_tokens_map,
        **_tracers(messages, mark),
    )
    return _read_trace(marked, re.compile(rf"\ue000{nonce}([^\d]+)(\d+):(\d+)\ue001"))


def _with_aliases(message: Message) -> Message:
    """Return a message with its reasoning under each name, as transformers gives it to templates."""
    reasoning = message.get(REASONING[0])
    return message if reasoning is None else {**message, **dict.fromkeys(REASONING, reasoning)}


def _marked(text: str, i: int, place: Placement, mark: Callable[[str, int, int], str]) -> str:
    """Return a message's text with its marks, inside its outer whitespace, which templates may strip."""
    core = text.strip()
    if not core:
        return text
    before, after = text[: text.index(core)], text[text.index(core) + len(core) :]
    if place == "inside":
        half = next((at for at, c in enumerate(core) if c.isspace()), min(1, len(core) - 1))
        return before + core[:half] + mark("inside", i, 0) + core[half:] + after
    if place == "behind":
        return before + core + mark("end", i, 0) + after
    cut = max((found.end() for found in _CLOSED.finditer(core)), default=0)  # templates drop reasoning, up to here
    middle = mark("begin", i, cut) if 0 < cut < len(core) else ""
    return before + mark("begin", i, 0) + core[:cut] + middle + core[cut:] + mark("end", i, 0) + after


def _tracers(messages: list[Message], mark: Callable[[str, int, int], str]) -> dict[str, Callable[..., str]]:
    """Return the functions that a traced template calls."""
    index = {id(m): i for i, m in enumerate(messages)}
    source = dict[int, int]()
    """For each loop the statement that says which message it is at: its own variable, or an assignment in it."""

    def at(loop: int, statement: int, *values: object) -> str:
        found = next((index[id(v)] for v in values if id(v) in index), None)
        if found is None or source.setdefault(loop, statement) != statement:
            return ""
        return mark("turn", loop, found)

    return {"tiller_at": at, "tiller_after": lambda loop: mark("after", loop, 0)}


@lru_cache(maxsize=16)
def _traced_template(source: str) -> Template:
    """Return a template whose loops call `tiller_at` for each item, and `tiller_after` behind the loop."""
    environment = _compile_jinja_template(source).environment
    tree = environment.parse(source)
    tree.body = _traced(tree.body, count(), None)
    tree.set_environment(environment)
    return environment.template_class.from_code(environment, environment.compile(tree), environment.make_globals(None))


def _traced(statements: list[nodes.Node], numbers: Iterator[int], loop: int | None) -> list[nodes.Node]:
    """Return statements with calls put in; `loop` is the number of the loop around them."""
    found = list[nodes.Node]()
    for statement in statements:
        inner = next(numbers) if isinstance(statement, nodes.For) else loop
        for branch in (statement, *getattr(statement, "elif_", ())):
            for name in ("body", "else_"):
                if isinstance(inside := getattr(branch, name, None), list):
                    setattr(branch, name, _traced(inside, numbers, inner))
        found.append(statement)
        if isinstance(statement, nodes.For) and inner is not None:
            statement.body.insert(0, _call(statement, "tiller_at", inner, next(numbers), *_names(statement.target)))
            found.append(_call(statement, "tiller_after", inner))
        elif isinstance(statement, nodes.Assign) and loop is not None and isinstance(statement.target, nodes.Name):
            found.append(_call(statement, "tiller_at", loop, next(numbers), statement.target.name))
    return found


def _names(target: nodes.Node) -> list[str]:
    return [n.name for n in ([target] if isinstance(target, nodes.Name) else target.find_all(nodes.Name))]


def _call(near: nodes.Node, function: str, *arguments: int | str) -> nodes.Output:
    """Return a statement that prints what a function says of numbers and variables."""
    values: list[nodes.Expr] = [nodes.Name(a, "load") if isinstance(a, str) else nodes.Const(a) for a in arguments]
    call = nodes.Call(nodes.Name(function, "load"), values, [], None, None)
    return nodes.Output([call], lineno=near.lineno)


def _read_trace(marked: str, pattern: re.Pattern[str]) -> _Trace:
    """Take the marks out of a rendering."""
    text, spans, marks, before = "", list[tuple[int, int, int]](), list[tuple[bool, int, int, int]](), 0
    open_loops, start = list[tuple[int, int]](), 0
    for found in pattern.finditer(marked):
        text += marked[before : found.start()]
        before, kind, a, b = found.end(), found[1], int(found[2]), int(found[3])
        if kind not in ("turn", "after"):
            marks.append((kind != "end", a, len(text), b))
            continue
        if open_loops and len(text) > start:
            spans.append((start, len(text), open_loops[-1][1]))
        outer = next((n for n, (loop, _) in enumerate(open_loops) if loop == a), len(open_loops))
        open_loops = open_loops[:outer] + ([(a, b)] if kind == "turn" else [])
        start = len(text)
    text += marked[before:]
    if open_loops and len(text) > start:
        spans.append((start, len(text), open_loops[-1][1]))
    return _Trace(text, tuple(spans), tuple(marks))


def _spans_of_prefixes(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], text: str
) -> tuple[tuple[int, int, int], ...] | None:
    """Return the spans for a template that only ever appends: what each turn adds to the chat before it."""
    spans, start = list[tuple[int, int, int]](), 0
    for i in range(len(turns)):
        try:
            before = render(tokenizer, [t.message() for t in turns[: i + 1]], generate=False)
        except BadChat:
            return None
        if not text.startswith(before) or len(before) < start:
            return None
        spans.append((start, len(before), i))
        start = len(before)
    return tuple(spans)


def _reply_start(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], text: str, spans: tuple[tuple[int, int, int], ...]
) -> int:
    """Return where the beginning of the reply starts: what is there only if a reply is wanted."""
    try:
        without = render(tokenizer, [t.message() for t in turns], generate=False)
    except BadChat:
        without = None
    if without is not None and text.startswith(without):
        return len(without)
    return max((end for _, end, _ in spans), default=len(text))  # the last turn ends otherwise where no reply follows


def _contents(turns: Sequence[Turn], trace: _Trace) -> tuple[dict[int, tuple[int, int, int]], frozenset[int]]:
    """Return where each message's text is, and the messages whose text is nowhere."""
    found, cores = dict[int, tuple[int, int, int]](), {i: text.strip() for t in turns for i, text in t.parts}
    begun = dict[int, list[tuple[int, int]]]()
    for begins, i, at, cut in trace.marks:
        if begins:
            begun.setdefault(i, []).append((at, cut))
    for begins, i, end, _ in trace.marks:
        if not begins and i not in found:
            whole = next(((at, cut) for at, cut in begun.get(i, ()) if trace.text[at:end] == cores[i][cut:]), None)
            start, cut = whole or _last_characters(trace.text[:end], cores[i])
            found[i] = (start, end, cut)
    seen = {i for _, i, _, _ in trace.marks}
    return found, frozenset(i for i, core in cores.items() if core and i not in seen)


def _last_characters(text: str, core: str) -> tuple[int, int]:
    """Return where in `text` the longest end of `core` starts that it ends with, and how many characters are before it."""
    cut = next(n for n in range(len(core) + 1) if text.endswith(core[n:]))
    return len(text) - len(core) + cut, cut
