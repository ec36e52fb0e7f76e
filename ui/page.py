"""The page's layout and what its controls do. Knows Gradio; the texts, sliders and streams are other files'."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when it is imported

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr

from ui import snippet
from ui.api import Api, ApiProblem
from ui.panel import applied, problem, read
from ui.turn import Ask, History, exchange

STATIC = Path(__file__).parent / "static"
FROM_PANEL = "(...all) => { all[0] = window.tiller ? window.tiller.value() : {}; return all; }"


def mount(app: fastapi.FastAPI, *, api_base: str) -> fastapi.FastAPI:
    """Put the page at `/` of the application whose API answers at `api_base`."""
    css = "\n".join((STATIC / name).read_text() for name in ("page.css", "panel.css"))
    return gr.mount_gradio_app(
        app, build(Api(api_base)), path="/", css=css, theme=_theme(), footer_links=[], run_history=False, ssr_mode=False,
        head='<meta name="viewport" content="width=device-width, initial-scale=1">', server_name="127.0.0.1")


def build(api: Api) -> gr.Blocks:
    """Lay the page out and connect it."""
    with gr.Blocks(title="Tiller", analytics_enabled=False, fill_width=True) as page:
        gr.HTML((STATIC / "header.html").read_text(), elem_id="header", apply_default_css=False)
        with gr.Row(elem_id="main", equal_height=False):
            with gr.Column(scale=7, min_width=320, elem_id="talk"):
                conversation = _conversation()
            with gr.Column(scale=4, min_width=320, elem_id="side"):
                panel = gr.HTML(
                    {"rows": []}, html_template=(STATIC / "panel.html").read_text(), js_on_load=(STATIC / "panel.js").read_text(),
                    elem_id="panel", apply_default_css=False)
        _connect(api, panel, conversation)
    return page


def _conversation() -> dict[str, Any]:
    c: dict[str, Any] = {}
    with gr.Row(elem_id="panes", equal_height=True):
        for name, label in (("default", "Default"), ("steered", "Steered")):
            c[name] = gr.Chatbot(
                label=label, elem_id=f"{name}-pane", height=420, allow_tags=False, feedback_options=None, buttons=["copy"],
                render_markdown=False, placeholder=_placeholder(name), min_width=280)
    c["notes"] = gr.HTML("", elem_id="notes", apply_default_css=False)
    with gr.Row(elem_id="ask"):
        c["message"] = gr.Textbox(placeholder="Ask both the same thing…", show_label=False, label="Message", elem_id="message", scale=8, lines=1,
                                  max_lines=6, autofocus=True, container=False)
        c["send"] = gr.Button("Send", variant="primary", elem_id="send", scale=1, min_width=80)
        c["stop"] = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
    with gr.Row(elem_id="again"):
        c["regenerate"] = gr.Button("Regenerate", size="sm", elem_id="regenerate", min_width=110)
        c["clear"] = gr.Button("Clear", size="sm", elem_id="clear", min_width=80)
        c["compare"] = gr.Checkbox(True, label="Show Default", elem_id="compare", container=False, min_width=120)
    with gr.Accordion("Sampling and system prompt", open=False, elem_id="sampling"):
        with gr.Row():
            c["temperature"] = gr.Number(0.5, label="Temperature", minimum=0, maximum=2, step=0.1, min_width=110)
            c["top_p"] = gr.Number(1.0, label="Top-p", minimum=0.05, maximum=1, step=0.05, min_width=110)
            c["max_tokens"] = gr.Number(160, label="Max tokens", minimum=1, maximum=4096, precision=0, min_width=110)
            c["seed"] = gr.Number(7, label="Seed", precision=0, min_width=110, elem_id="seed")
            c["keep_seed"] = gr.Checkbox(True, label="Keep the seed", min_width=130)
        c["system"] = gr.Textbox(label="System prompt (both panes)", lines=2, elem_id="system")
    with gr.Accordion("Use these sliders from code", open=False, elem_id="code"):
        c["code_button"] = gr.Button("Show code for the current sliders", size="sm", elem_id="show-code")
        c["curl"] = gr.Code(label="curl", language="shell", elem_id="curl")
        c["python"] = gr.Code(label="Python (openai)", language="python", elem_id="python")
    return c


def _connect(api: Api, panel: gr.HTML, c: dict[str, Any]) -> None:
    asked = [panel, c["message"], c["default"], c["steered"], c["compare"], c["system"], c["temperature"], c["top_p"], c["max_tokens"],
             c["seed"], c["keep_seed"]]
    shown = [c["default"], c["steered"], c["notes"], c["message"], c["seed"]]

    async def send(
        sliders: object, message: str, default: History, steered: History, compare: bool, system: str, temperature: float, top_p: float,
        max_tokens: int, seed: float, keep: bool,
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not (message or "").strip():
            return
        seed = int(seed or 0) if keep else random.randrange(2**31)
        sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens), "seed": seed}
        ask = Ask(message, read(sliders).steering(), system or "", sampling, compare)
        before = _plain(default), _plain(steered)
        yield *before, '<span class="chip">thinking…</span>', "", seed
        try:
            async with aclosing(exchange(api, ask, *before)) as panes:  # type: ignore[type-var]
                async for left, right in panes:
                    yield left.history, right.history, applied(right.steering), "", seed
        except ApiProblem as error:
            yield *before, problem(str(error)), message, seed

    async def again(sliders: object, _message: str, default: History, steered: History, *rest: Any) -> AsyncIterator[tuple[Any, ...]]:  # noqa: ANN401
        steered, default = _plain(steered), _plain(default)
        last = next((m["content"] for m in reversed(steered) if m["role"] == "user"), "")
        async for update in send(sliders, last, _without_last(default), _without_last(steered), *rest):
            yield update

    how: dict[str, Any] = {"inputs": asked, "outputs": shown, "js": FROM_PANEL, "concurrency_limit": 16, "show_progress": "hidden", "api_visibility": "private"}
    running = [gr.on([c["send"].click, c["message"].submit], send, **how), c["regenerate"].click(again, **how)]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    c["stop"].click(None, cancels=running)
    c["clear"].click(lambda: ([], [], ""), outputs=[c["default"], c["steered"], c["notes"]], cancels=running, **quiet)
    c["compare"].change(lambda on: gr.Chatbot(visible=on), inputs=c["compare"], outputs=c["default"], **quiet)
    panel.select(_on_preset, outputs=[c["message"], c["system"]], **quiet)
    c["code_button"].click(
        lambda sliders, message, system: snippet.both(api.base, read(sliders).steering(), message or "Hello!", system or ""),
        inputs=[panel, c["message"], c["system"]], outputs=[c["curl"], c["python"]], js=FROM_PANEL, **quiet)


def _on_preset(event: gr.EventData) -> tuple[str, str]:
    data = event._data if isinstance(event._data, dict) else {}
    return str(data.get("starter") or ""), str(data.get("system") or "")


def _plain(history: list[Any] | None) -> History:
    """Gradio hands content back as parts; the API wants text."""
    out = []
    for message in history or []:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        out.append({"role": message["role"], "content": content})
    return out


def _without_last(history: History) -> History:
    at = max((i for i, m in enumerate(history) if m["role"] == "user"), default=len(history))
    return history[:at]


def _placeholder(name: str) -> str:
    return {"default": "The model as it is.", "steered": "The same model, with your sliders."}[name]


def _theme() -> gr.themes.Base:
    return gr.themes.Soft(
        primary_hue="orange", neutral_hue="slate", radius_size="md", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
