"""Fixtures: the real page on the real server with the small bundle, in Debian's Chromium."""

import asyncio
import os
import re
import shutil

import pytest
import torch
from playwright.sync_api import sync_playwright

from tests.support import small_bundle
from tests.support.live_server import serving

ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


EXPECTED = re.compile("status of 4")
"""What the browser says of a refusal."""

PATIENCE = 120_000
"""Milliseconds; what is there at once costs nothing."""


class Patient:
    """A browser whose pages wait long for what is to come: a busy machine may take its time."""

    def __init__(self, browser):
        self._browser = browser

    def new_context(self, **options):
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        return context

    def new_page(self):
        page = self._browser.new_page()
        page.set_default_timeout(PATIENCE)
        return page


class Replies:
    """The engine's replies, slowed down on demand or stopped after so many pieces; counts those that are under way."""

    def __init__(self, engine):
        self._generate, self.pause, self.most, self.open = engine.generate, 0.0, 0, 0

    async def __call__(self, request):
        self.open += 1
        try:
            said = 0
            async for piece in self._generate(request):
                yield piece
                said += 1
                await asyncio.sleep(3600 if said == self.most else self.pause)
        finally:
            self.open -= 1


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    from ui.page import mount

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("page")
    with serving(small_bundle.write_bundle(folder / "bundle"), folder / "data", mount=mount) as (address, app):
        engine = app.state.served_model.engine
        engine.generate = Replies(engine)
        yield address, engine.generate


@pytest.fixture(scope="session")
def address(live):
    return live[0]


@pytest.fixture
def slow(live):
    """Replies that take many seconds."""
    live[1].pause = 0.1
    yield live[1]
    live[1].pause, live[1].most = 0.0, 0


@pytest.fixture(scope="module")
def browser():
    """Chromium, for one file: while it runs, no test in the same process can have an event loop of its own."""
    chromium = shutil.which("chromium")
    if not chromium:
        reason = "Chromium is missing; install it with: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield Patient(browser)
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Open fresh pages; fail at the end on errors in the console and on requests to other hosts."""
    wrong, contexts = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.on(
            "console", lambda m: wrong.append(m.text) if m.type == "error" and not EXPECTED.search(m.text) else None
        )
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
        page.goto(address)
        page.wait_for_selector("#cards .card")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


class Late:
    """Answers that the server gives at once and the page does not hear before they are let come."""

    def __init__(self, page, pattern, **times):
        self._page, self._pattern, self._held = page, pattern, []
        page.route(pattern, lambda route: self._held.append((route, route.fetch())), **times)

    def asked(self):
        """Wait until there is one."""
        while not self._held:
            self._page.wait_for_timeout(20)

    def come(self):
        """Let them come, and no other be late."""
        self.asked()
        while self._held:
            route, answer = self._held.pop(0)
            route.fulfill(response=answer)
        self._page.unroute(self._pattern)  # not before: those that it holds would be let through


@pytest.fixture
def page(opened):
    return opened()
