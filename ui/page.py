"""The page: Gradio's components, and which part of the page's own code draws in each. Knows Gradio and no model.

What is drawn is JavaScript (`static/`), which asks the API itself; replies go through `conversation`, so that many
people's streams share one process's connections, and a closed tab ends its replies.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when it is imported

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from gradio.themes import Base
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tiller import AsyncTiller
from ui.conversation import News, talk

STATIC = Path(__file__).parent / "static"
STYLES = (
    "shell/page.css",
    "chat/chat.css",
    "panel/panel.css",
    "shell/tabs.css",
    "features/features.css",
    "map/map.css",
    "analyze/analyze.css",
    "training/training.css",
    "settings/settings.css",
)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE = 64
LOOKS_EVERY = 0.02
"""Seconds until a press of a button is noticed, at most."""


class Assets(StaticFiles):
    """The page's own files; browsers ask whether they have changed, so that an update is seen at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def mount(app: fastapi.FastAPI, *, api_base: str) -> fastapi.FastAPI:
    """Put the page at `/` of the application whose API answers at `api_base`."""
    # The server is this machine's own, whatever the environment says of proxies.
    page = build(AsyncTiller(api_base, trust_env=False))
    # Gradio looks a thousand times a second whether somebody pressed a button, in the process that generates.
    page._queue.sleep_when_free = LOOKS_EVERY
    app.mount("/page", Assets(directory=STATIC))
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        head=_head(),
        theme=_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        server_name="127.0.0.1",
        favicon_path=str(STATIC / "shell" / "favicon.svg"),
    )


def build(api: AsyncTiller) -> gr.Blocks:
    """Lay the page out and connect it."""

    async def on_submit(form: Any, request: gr.Request) -> AsyncGenerator[News, None]:  # noqa: ANN401 - what a browser sent
        cookie = request.headers.get("cookie") or ""  # who has signed in asks as themselves, not as the page
        theirs = api.sending(Cookie=cookie) if cookie else api
        async with aclosing(talk(theirs, form)) as all_news:
            async for news in all_news:
                yield news

    with gr.Blocks(title="Tiller", analytics_enabled=False, fill_width=True) as page:
        _part("shell/header")
        with gr.Row(elem_id="main", equal_height=False):
            with gr.Column(scale=7, min_width=300, elem_id="work"):
                chat = _part("chat/chat")
                _part("shell/tabs", code=False)
            with gr.Column(scale=3, min_width=300, elem_id="side"):
                _part("panel/panel")
        form = "() => window.tiller.form"
        reply = chat.submit(on_submit, inputs=chat, outputs=chat, js=form, concurrency_limit=AT_ONCE, **QUIET)
        chat.stop(None, cancels=[reply], queue=False, **QUIET)
    return page


def _part(path: str, *, code: bool = True) -> gr.HTML:
    """One part of the page: the template `path.html`, drawn by the module `path.js`."""
    begin = f'import(new URL("page/{path}.js", new URL(".", location.origin + location.pathname)))'
    return gr.HTML(
        {},
        html_template=(STATIC / f"{path}.html").read_text(encoding="utf-8"),
        js_on_load=f"{begin}.then((part) => part.mount(element, {{ trigger, watch, props }}));" if code else None,
        elem_id=path.rpartition("/")[2],
        apply_default_css=False,
    )


def _head() -> str:
    # Gradio puts its own prefix before each rule of `css`, and then none can look at the body.
    return "".join(f'<link rel="stylesheet" href="./page/{name}">' for name in STYLES)


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
