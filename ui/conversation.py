"""What Send and Regenerate do: from the form's values to what the page shows. Knows Gradio's updates, not its layout."""

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gradio as gr

from ui.api import Api, ApiProblem
from ui.panel import drawn_with, problem, read, told, waiting
from ui.turn import Ask, History, asked, exchange


@dataclass(frozen=True)
class Form:
    """The values of all inputs, in the order in which the page lists them."""

    sliders: object
    message: str
    default: list[Any]
    steered: list[Any]
    compare: bool
    system: str | None
    temperature: float | None
    top_p: float | None
    repetition_penalty: float | None
    max_tokens: float | None
    seed: float | None
    keep_seed: bool

    def sampling(self) -> dict[str, Any]:
        """How to draw: what is left empty is the server's choice, but the seed, which both panes share."""
        seed = int(self.seed) if self.keep_seed and self.seed is not None else random.randrange(1_000_000)
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "max_tokens": self.max_tokens and int(self.max_tokens),
        }
        return {k: v for k, v in given.items() if v is not None} | {"seed": seed}


class Shown(NamedTuple):
    """The values of all outputs, in the order in which the page lists them; a skip leaves one as it is."""

    default: Any
    steered: Any
    default_notes: Any
    steered_notes: Any
    message: Any
    seed: Any
    send: Any
    stop: Any
    regenerate: Any


BUTTONS = ("send", "stop", "regenerate")


async def send(api: Api, form: Form) -> AsyncGenerator[Shown, None]:
    """Ask both; show the replies as they grow. A refusal gives the text back."""
    if not (form.message or "").strip():
        return
    default, steered, sampling = plain(form.default), plain(form.steered), form.sampling()
    try:
        ask = Ask(form.message.strip(), read(form.sliders).steering(), form.system or "", sampling, form.compare)
        async with aclosing(_replies(api, ask, default, steered)) as updates:
            async for update in updates:
                yield update
    except (ApiProblem, ValueError) as error:
        yield Shown(default, steered, "", problem(str(error)), form.message, gr.skip(), *idle())
    else:
        yield unchanged()._replace(**dict(zip(BUTTONS, idle(), strict=True)))


async def regenerate(api: Api, form: Form) -> AsyncGenerator[Shown, None]:
    """Ask the last question again, with the sliders as they are now."""
    default, steered = plain(form.default), plain(form.steered)
    kept, question = without_last(steered)
    kept_default, default_question = without_last(default)
    if default_question != question or not form.compare:
        kept_default = default  # the default model was not asked this, or is not asked again
    again = replace(form, message=question, default=kept_default, steered=kept)
    async with aclosing(send(api, again)) as updates:
        async for update in updates:
            yield update._replace(message=gr.skip())


async def _replies(api: Api, ask: Ask, default: History, steered: History) -> AsyncGenerator[Shown, None]:
    seed = ask.sampling["seed"]
    left = asked(default, ask.message) if ask.compare else default
    yield Shown(left, asked(steered, ask.message), "", waiting(), "", seed, *busy())
    temperature = {"temperature": 1.0, **ask.sampling}
    async with aclosing(exchange(api, ask, default, steered)) as panes:
        async for one, other in panes:
            notes = drawn_with(temperature) if ask.compare else ""
            yield unchanged()._replace(
                default=one.history, steered=other.history, default_notes=notes, steered_notes=told(other.steering)
            )


def unchanged() -> Shown:
    """Leave every output as it is."""
    return Shown(*(gr.skip() for _ in Shown._fields))


def busy() -> tuple[Any, Any, Any]:
    """Send, Stop and Regenerate while replies grow."""
    return gr.Button(visible=False), gr.Button(visible=True), gr.Button(interactive=False)


def idle() -> tuple[Any, Any, Any]:
    """Send, Stop and Regenerate while nothing happens."""
    return gr.Button(visible=True), gr.Button(visible=False), gr.Button(interactive=True)


def plain(history: list[Any] | None) -> History:
    """Gradio hands content back as parts; the API wants text."""
    return [{"role": m["role"], "content": _text(m["content"])} for m in history or []]


def without_last(history: History) -> tuple[History, str]:
    """The history before its last question, and that question."""
    at = max((i for i, m in enumerate(history) if m["role"] == "user"), default=-1)
    return (history[:at], history[at]["content"]) if at >= 0 else (history, "")


def _text(content: Any) -> str:  # noqa: ANN401 - what Gradio hands back
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))
