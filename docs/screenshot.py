"""Take docs/screenshot.png: `python docs/screenshot.py [--preset golden-gate] [--out docs/screenshot.png]`.

Starts `tiller serve` on a free port with a data folder that is thrown away, chooses a persona in
Chromium, sends its starter question and waits for both replies. Knows the page and no model.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

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
SCHEMES = ("light", "dark")


@contextmanager
def serving() -> Iterator[str]:
    """Yield the address of a ready server. TILLER_BUNDLE names another bundle than the embedded one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--data-dir", data, "--no-browser"]
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "TILLER_HOST": "127.0.0.1"}
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


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


def ask(page: Page, preset: str) -> None:
    """Choose a persona, send its starter question, wait for the judged reply."""
    page.click(f"#cards [data-preset={preset}]")
    page.wait_for_function("document.querySelector('#message textarea').value.length > 0")
    page.click("#send")
    page.wait_for_selector("#steered-notes .verdict", timeout=SECONDS * 1000)
    page.wait_for_selector("#send")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")


def main() -> None:
    """Serve, ask, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="golden-gate")
    parser.add_argument("--scheme", choices=SCHEMES, default="light")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshot.png")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("Chromium is missing; install it with: apt-get install chromium")
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(
            viewport={"width": 1440, "height": 860}, device_scale_factor=1.5, color_scheme=options.scheme
        )
        page.goto(address)
        ask(page, options.preset)
        page.screenshot(path=options.out)
        browser.close()
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
