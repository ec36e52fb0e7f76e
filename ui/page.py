"""The page: Gradio components as the frame, and the page's own HTML, CSS and JavaScript (`static/`) inside them.

Gradio gives the layout, the theme and the mount point; it runs no event handler. The JavaScript asks the API itself.
"""

from pathlib import Path

import fastapi
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ui.gradio_environment import gradio_environment

with gradio_environment():
    import gradio as gr
    from gradio.themes import Base

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
QUEUE_POLL_SECONDS = 60.0
"""How often Gradio's queue looks for events; the page sends none, and the default is every millisecond."""


class Assets(StaticFiles):
    """Static files that browsers revalidate on every load, so that an update shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return one file."""
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def mount(app: fastapi.FastAPI) -> fastapi.FastAPI:
    """Mount the page at `/` of the application; its JavaScript asks the API of the host that it came from."""
    page = build()
    page._queue.sleep_when_free = QUEUE_POLL_SECONDS
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


def build() -> gr.Blocks:
    """Lay out the page: header, work area with the tabs, steering panel."""
    with gr.Blocks(title="Tiller", analytics_enabled=False, fill_width=True) as page:
        _part("shell/header")
        with gr.Row(elem_id="main", equal_height=False):
            with gr.Column(scale=7, min_width=300, elem_id="work"):
                _part("chat/chat")
                _part("shell/tabs", code=False)
            with gr.Column(scale=3, min_width=300, elem_id="side"):
                _part("panel/panel")
    return page


def _part(path: str, *, code: bool = True) -> gr.HTML:
    """Return one part of the page: the template `path.html`, drawn by the module `path.js`."""
    module = f'import(new URL("page/{path}.js", new URL(".", location.origin + location.pathname)))'
    return gr.HTML(
        {},
        html_template=(STATIC / f"{path}.html").read_text(encoding="utf-8"),
        js_on_load=f"{module}.then((part) => part.mount(element));" if code else None,
        elem_id=path.rpartition("/")[2],
        apply_default_css=False,
    )


def _head() -> str:
    # Link elements, because Gradio prefixes each rule of its `css` option, and then no rule can match the body.
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
