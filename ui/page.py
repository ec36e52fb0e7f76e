"""The page's layout, and which control does what. Knows Gradio; sliders, streams and texts are other files'."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when it is imported

import json
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from gradio.themes import Base

from ui.api import Api
from ui.conversation import Form, Shown, idle, regenerate, send

STATIC = Path(__file__).parent / "static"
PANEL = ("dose.js", "row.js", "master.js", "persona.js", "finder.js", "code.js", "panel.js")
STYLES = ("page.css", "panel.css")
READ_PANEL = "(...all) => { all[0] = window.tiller ? window.tiller.read() : {}; return all; }"
GIVE_PANEL = "(...values) => { window.tiller.given(values); }"
COMPARE = "(on) => { document.body.dataset.compare = on ? 'on' : 'off'; }"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE = 16
LOOKS_EVERY = 0.02
"""Seconds until a press of a button is noticed, at most."""
DRAWN = {"temperature": 0.5, "top_p": 1.0, "repetition_penalty": 1.0}
"""How replies are drawn where a persona says nothing of it."""
CHOSEN = f"(message) => window.tiller.chosen(message, {json.dumps(DRAWN)})"


@dataclass(frozen=True)
class Panes:
    """The two conversations and what is noted below each."""

    default: gr.Chatbot
    steered: gr.Chatbot
    default_notes: gr.HTML
    steered_notes: gr.HTML


@dataclass(frozen=True)
class Box:
    """Where one types, and the buttons around it."""

    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    regenerate: gr.Button
    clear: gr.Button
    compare: gr.Checkbox


@dataclass(frozen=True)
class Knobs:
    """How replies are drawn."""

    temperature: gr.Number
    top_p: gr.Number
    repetition_penalty: gr.Number
    max_tokens: gr.Number
    seed: gr.Number
    keep_seed: gr.Checkbox
    dice: gr.Button
    system: gr.Textbox


def mount(app: fastapi.FastAPI, *, api_base: str) -> fastapi.FastAPI:
    """Put the page at `/` of the application whose API answers at `api_base`."""
    page = build(Api(api_base))
    # Gradio looks a thousand times a second whether somebody pressed a button, in the process that generates.
    page._queue.sleep_when_free = LOOKS_EVERY
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        head=_styles(),
        theme=_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        server_name="127.0.0.1",
        favicon_path=str(STATIC / "favicon.svg"),
    )


def build(api: Api) -> gr.Blocks:
    """Lay the page out and connect it."""
    with gr.Blocks(title="Tiller", analytics_enabled=False, fill_width=True) as page:
        _html("header", "header.html", "header.js")
        with gr.Row(elem_id="main", equal_height=False):
            with gr.Column(scale=7, min_width=300, elem_id="talk"):
                _html("welcome", "welcome.html")
                panes, box, knobs = _panes(), _box(), _knobs()
            with gr.Column(scale=3, min_width=300, elem_id="side"):
                panel = _html("panel", "panel.html", *PANEL)
        _connect(api, panel, panes, box, knobs)
    return page


def _panes() -> Panes:
    _html("switch", "switch.html", "switch.js")
    with gr.Row(elem_id="panes", equal_height=True):
        with gr.Column(min_width=240, elem_id="default-side"):
            default, default_notes = _pane("default", "Default", "The model as it is.")
        with gr.Column(min_width=240, elem_id="steered-side"):
            steered, steered_notes = _pane(
                "steered", "Steered", "The same model, same message, same seed: with your sliders."
            )
    return Panes(default, steered, default_notes, steered_notes)


def _pane(name: str, label: str, placeholder: str) -> tuple[gr.Chatbot, gr.HTML]:
    # Replies stay plain text: Markdown would let a reply load an image from anywhere.
    chat = gr.Chatbot(
        label=label,
        elem_id=f"{name}-pane",
        elem_classes="pane",
        height="100%",
        allow_tags=False,
        render_markdown=False,
        feedback_options=None,
        buttons=["copy"],
        placeholder=placeholder,
        layout="bubble",
    )
    return chat, gr.HTML("", elem_id=f"{name}-notes", elem_classes="notes", apply_default_css=False, js_on_load=None)


def _box() -> Box:
    with gr.Row(elem_id="ask", equal_height=False):
        message = gr.Textbox(
            placeholder="Type a message…",
            label="Message",
            show_label=False,
            elem_id="message",
            lines=1,
            max_lines=6,
            scale=8,
            autofocus=True,
            container=False,
        )
        go = gr.Button("Send", variant="primary", elem_id="send", scale=0, min_width=96)
        stop = gr.Button("Stop", variant="stop", elem_id="stop", scale=0, min_width=96, visible=False)
    with gr.Row(elem_id="again"):
        again = gr.Button("Regenerate", size="sm", elem_id="regenerate", scale=0, min_width=110)
        clear = gr.Button("Clear", size="sm", elem_id="clear", scale=0, min_width=70)
        compare = gr.Checkbox(True, label="Show Default", elem_id="compare", container=False, scale=0, min_width=140)
    return Box(message, go, stop, again, clear, compare)


def _knobs() -> Knobs:
    with gr.Accordion("Sampling and system prompt", open=False, elem_id="sampling"):
        with gr.Row(elem_id="knobs"):
            temperature = gr.Number(
                DRAWN["temperature"],
                label="Temperature",
                minimum=0,
                maximum=2,
                step=0.1,
                min_width=100,
                elem_id="temperature",
            )
            top_p = gr.Number(
                DRAWN["top_p"], label="Top-p", minimum=0.05, maximum=1, step=0.05, min_width=100, elem_id="top-p"
            )
            penalty = gr.Number(
                DRAWN["repetition_penalty"],
                label="Repetition penalty",
                minimum=0.5,
                maximum=2,
                step=0.05,
                min_width=100,
                elem_id="repetition-penalty",
            )
            max_tokens = gr.Number(
                160, label="Max tokens", minimum=1, maximum=8192, precision=0, min_width=100, elem_id="max-tokens"
            )
            seed = gr.Number(7, label="Seed", minimum=0, precision=0, min_width=100, elem_id="seed")
        with gr.Row(elem_id="seeds"):
            keep = gr.Checkbox(
                True, label="Keep the seed (same seed, same reply)", container=False, elem_id="keep-seed", min_width=200
            )
            dice = gr.Button("New seed", size="sm", scale=0, min_width=100, elem_id="dice")
        system = gr.Textbox(label="System prompt, for both panes", lines=2, max_lines=8, elem_id="system")
    return Knobs(temperature, top_p, penalty, max_tokens, seed, keep, dice, system)


def _connect(api: Api, panel: gr.HTML, panes: Panes, box: Box, knobs: Knobs) -> None:
    form = [
        panel,
        box.message,
        panes.default,
        panes.steered,
        box.compare,
        knobs.system,
        knobs.temperature,
        knobs.top_p,
        knobs.repetition_penalty,
        knobs.max_tokens,
        knobs.seed,
        knobs.keep_seed,
    ]
    shown = [
        panes.default,
        panes.steered,
        panes.default_notes,
        panes.steered_notes,
        box.message,
        knobs.seed,
        box.send,
        box.stop,
        box.regenerate,
    ]

    async def on_send(*values: Any) -> AsyncGenerator[Shown, None]:  # noqa: ANN401 - Gradio's values; Form names them
        async with aclosing(send(api, Form(*values))) as updates:
            async for update in updates:
                yield update

    async def on_regenerate(*values: Any) -> AsyncGenerator[Shown, None]:  # noqa: ANN401
        async with aclosing(regenerate(api, Form(*values))) as updates:
            async for update in updates:
                yield update

    how = {"inputs": form, "outputs": shown, "js": READ_PANEL, "concurrency_limit": AT_ONCE, **QUIET}
    running: Any = [
        gr.on([box.send.click, box.message.submit], on_send, **how),
        box.regenerate.click(on_regenerate, **how),
    ]
    buttons = [box.send, box.stop, box.regenerate]
    box.stop.click(idle, outputs=buttons, cancels=running, queue=False, **QUIET)
    box.clear.click(
        lambda: ([], [], "", "", *idle()), outputs=[*shown[:4], *buttons], cancels=running, queue=False, **QUIET
    )
    box.compare.change(None, inputs=box.compare, js=COMPARE, **QUIET)
    knobs.dice.click(lambda: random.randrange(1_000_000), outputs=knobs.seed, **QUIET)
    drawn = [knobs.temperature, knobs.top_p, knobs.repetition_penalty]
    told = [box.message, knobs.system, *drawn, knobs.max_tokens, knobs.seed]
    panel.copy(None, inputs=told, js=GIVE_PANEL, **QUIET)
    panel.select(None, inputs=box.message, outputs=told[:5], js=CHOSEN, trigger_mode="multiple", **QUIET)


def _html(name: str, template: str, *scripts: str) -> gr.HTML:
    return gr.HTML(
        {},
        html_template=_static(template),
        js_on_load="\n".join(map(_static, scripts)) or None,
        elem_id=name,
        apply_default_css=False,
    )


def _styles() -> str:
    # Gradio puts its own prefix before each rule of `css`, and then none can look at the body.
    return f"<style>{chr(10).join(map(_static, STYLES))}</style>"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _theme() -> Base:
    return Base(
        primary_hue="orange",
        neutral_hue="stone",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="#f6f5f2",
        body_background_fill_dark="#131417",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1b1d21",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1b1d21",
        background_fill_secondary="#f6f5f2",
        background_fill_secondary_dark="#24272c",
        border_color_primary="#dedad3",
        border_color_primary_dark="#363a41",
        block_border_color="#dedad3",
        block_border_color_dark="#363a41",
        block_border_width="1px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1b1d21",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#24272c",
        button_secondary_border_color="#dedad3",
        button_secondary_border_color_dark="#363a41",
        button_primary_background_fill="#b8400f",
        button_primary_background_fill_hover="#9c350b",
        button_primary_background_fill_dark="#b8400f",
        button_primary_background_fill_hover_dark="#d0501b",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )
