"""Queue display: two users of a server with one slot see the position of their replies until they start."""

import pytest
import torch

from tests.support import small_bundle
from tests.support.halted_engine import halted
from tests.support.live_server import serving
from tests.support.waiting import until
from tests.ui.test_page import finished, send
from ui.page import mount

pytestmark = pytest.mark.browser
SAID = "[...document.querySelectorAll('.pane .reply-text')].map((said) => said.textContent).sort().join(' | ')"
TURN = "document.querySelector('#steered-pane .turn')"


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("busy")
    with serving(small_bundle.write_bundle(folder / "bundle"), folder / "data", mount=mount, live=1) as (address, app):
        yield address, app.state.served_model.engine


@pytest.fixture
def people(browser, busy):
    contexts = [browser.new_context() for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(busy[0])
        page.wait_for_selector("#cards .card")
    yield pages
    for context in contexts:
        context.close()


def says(page, *words):
    page.wait_for_function(f"{SAID} === {' | '.join(words)!r}")


def test_each_reply_says_how_many_are_before_it_until_it_begins(people, busy):
    one, other = people
    engine = busy[1]
    with halted(engine):
        send(one, "hello there")
        until(lambda: engine.occupancy == (1, 1))
        send(other, "hello there")
        says(other, "in the queue: 1 before you", "in the queue: 2 before you")
        says(one, "in the queue: you are next", "thinking…")
        other.evaluate(f"{TURN}.same = true")

        one.click("#stop")
        says(other, "in the queue: 1 before you", "in the queue: you are next")
        assert other.evaluate(f"{TURN}.same")  # a screen reader is told the change alone
        assert other.get_attribute("#steered-pane .log", "role") == "log"
    finished(other)


def test_where_the_place_is_not_known_the_page_says_how_many_wait(people, busy, monkeypatch):
    one, other = people
    engine = busy[1]
    monkeypatch.setattr(engine, "queue_position", lambda *_: None)  # as another replica would answer
    with halted(engine):
        send(one, "hello there")
        until(lambda: engine.occupancy == (1, 1))
        send(other, "hello there")
        says(other, *["the model is busy: 3 requests are waiting"] * 2)
    finished(other)
    finished(one)
    until(lambda: engine.occupancy == (0, 0))
    assert "the model is busy" not in other.inner_text("#section-chat")
