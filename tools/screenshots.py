"""Take the pictures in docs/screenshots: `python tools/screenshots.py [--tabs chat map] [--out docs/screenshots]`.

`--moving` takes the moving picture instead: a persona is chosen, a question is answered with and without it, and again
with half of it. Starts `tiller serve` on a free port with a data folder that is thrown away, and goes through the tabs as a person
would, in light, in dark and on a phone. Knows the page and no model.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 180
KEY = "a-key-for-pictures-and-nothing-else"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 812}, "color_scheme": "light", "device_scale_factor": 2, "has_touch": True},
}  # fmt: skip
TALK = "Ann: I love the stars in winter. What should I do tonight?\n\nBob: Look at the moon and the planets, or drink a cup of coffee."


@contextmanager
def serving() -> Iterator[str]:
    """Yield the address of a ready server. TILLER_BUNDLE names another bundle than the embedded one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--data-dir", data, "--no-browser"]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TILLER_HOST": "127.0.0.1", "TILLER_ADMIN_KEY": KEY},
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def _wait(server: subprocess.Popen[bytes], health: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(health, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        time.sleep(0.2)
    raise SystemExit("the server did not become ready; its messages are above")


def chat(page: Page) -> None:
    """A persona's starter question with both replies."""
    page.click("#cards [data-preset=space]")
    page.wait_for_function("document.querySelector('#message textarea').value.length > 0")
    page.click("#send")
    page.wait_for_selector("#steered-pane .verdict", timeout=SECONDS * 1000)


def compare(page: Page) -> None:
    """Three columns and a sweep."""
    page.click("#cards [data-preset=space]")
    page.click("#tab-compare")
    page.click("#add-column")
    page.get_by_label("Steering of column C").select_option(label="Wizard")
    page.fill("#compare-question", "What should I do this weekend?")
    page.click("#compare-run")
    page.wait_for_selector("[data-act=vote]", timeout=SECONDS * 1000)


def features(page: Page) -> None:
    """What is found for a word, and one feature in full."""
    page.click("#tab-features")
    page.fill("#section-features input[type=search]", "planets")
    page.keyboard.press("Enter")
    page.wait_for_selector("#section-features [role=row][data-id]")
    page.locator("#section-features [role=row][data-id]").first.click()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(800)


def map_(page: Page) -> None:
    """All features in the plane."""
    page.click("#tab-map")
    page.wait_for_selector("#section-map canvas")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)


def analyze(page: Page) -> None:
    """A short talk of two."""
    page.click("#tab-analyze")
    page.fill("#analyze-text", TALK)
    page.click("#analyze-run")
    page.wait_for_selector("#text-features")
    page.locator(".token-button").nth(4).click()


def train(page: Page) -> None:
    """Revisions, drift and jobs."""
    page.click("#tab-train")
    page.wait_for_selector("#revisions")


def settings(page: Page) -> None:
    """Address, keys, limits, privacy, code."""
    page.click("#tab-settings")
    page.wait_for_selector("#key-name")
    for name, role in (("ada", "creator"), ("reading-room", "viewer")):
        if page.locator(f"[aria-label='Delete the key {name}']").count() == 0:
            page.fill("#key-name", name)
            page.select_option("#key-role", role)
            page.click("#create-key")
            page.click("#secret-done")
            page.wait_for_selector(f"[aria-label='Delete the key {name}']")
    page.wait_for_selector("#code-blocks pre")


def sign_in(page: Page) -> None:
    """Who comes without a key."""
    page.context.clear_cookies()
    page.reload()
    page.wait_for_selector("#key")


TABS: dict[str, Callable[[Page], None]] = {
    "chat": chat,
    "compare": compare,
    "features": features,
    "map": map_,
    "analyze": analyze,
    "train": train,
    "settings": settings,
    "sign-in": sign_in,
}


class Film:
    """Frames of a page, at most one for each step in which something changed."""

    def __init__(self, page: Page) -> None:
        self.page, self.frames, self.times = page, list[Image.Image](), list[int]()

    def shoot(self, milliseconds: int) -> None:
        """Add a frame that is shown for so long; a longer time for the last one if nothing has changed."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and picture.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(picture)
        self.times.append(milliseconds)

    def save(self, file: Path) -> None:
        """Write an animated GIF, with one palette for all frames."""
        palette = self.frames[-1].quantize(colors=128, method=Image.Quantize.MEDIANCUT)
        first, *rest = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in self.frames]
        first.save(file, save_all=True, append_images=rest, duration=self.times, loop=0, optimize=True)


def moving(browser: Browser, address: str, file: Path) -> None:
    """Film a question that is answered with and without a persona, and again with half of it."""
    page = _signed_in(
        browser.new_context(viewport={"width": 1080, "height": 720}, color_scheme="light").new_page(), address
    )
    film = Film(page)
    film.shoot(1200)
    page.click("#cards [data-preset=space]")
    page.wait_for_function("document.querySelector('#message textarea').value.length > 0")
    page.fill("#message textarea", "What should I do this weekend?")
    film.shoot(1600)
    page.click("#send")
    _film_reply(film)
    page.fill("[data-key='range total-strength']", "0.5")
    film.shoot(1600)
    page.click("#regenerate")
    _film_reply(film)
    film.save(file)


def _film_reply(film: Film) -> None:
    film.page.wait_for_timeout(300)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and film.page.locator("#stop").is_visible():
        film.shoot(220)
        film.page.wait_for_timeout(350)
    film.page.wait_for_timeout(400)
    film.shoot(3500)


def _signed_in(page: Page, address: str) -> Page:
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#cards .card")
    return page


def main() -> None:
    """Serve, go through the tabs, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tabs", nargs="*", choices=TABS, default=list(TABS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--moving", action="store_true", help="the moving picture instead")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("Chromium is missing; install it with: apt-get install chromium")
    options.out.mkdir(parents=True, exist_ok=True)
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        if options.moving:
            moving(browser, address, options.out / "moving.gif")
            return
        for look, how in LOOKS.items():
            for tab in options.tabs:
                context = browser.new_context(**how)
                page = _signed_in(context.new_page(), address)
                TABS[tab](page)
                page.evaluate("document.activeElement.blur()")
                page.wait_for_timeout(400)  # fonts and the last drawing
                file = options.out / f"{tab}-{look}.png"
                page.screenshot(path=file)
                context.close()
                sys.stdout.write(f"{file}\n")
        browser.close()


if __name__ == "__main__":
    main()
