"""The real page on the real server, in Debian's Chromium."""

import os
import shutil

import pytest
import torch
from playwright.sync_api import sync_playwright

from tests import small
from tests.live import serving

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    from ui.page import mount

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("page")
    with serving(small.write_bundle(folder / "bundle"), folder / "data", mount=mount) as (address, _):
        yield address


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        reason = "Chromium is missing; install it with: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A fresh page; fails on errors in the console and on requests to other hosts."""
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    wrong = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.wait_for_selector(".card")
    yield page
    page.close()
    assert not wrong
