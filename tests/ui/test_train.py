"""Train tab: revisions, their gates and changes; jobs from start to end; drift. Separate servers, as revisions switch."""

import json
import threading
from dataclasses import replace

import httpx
import pytest

from server.jobs.queue import JobQueue
from server.jobs.runner import Runner
from server.sae.drift_log import DriftLog
from steering.catalogue.feature import Feature
from steering.catalogue.revisions import Revisions
from tests.support import small_bundle
from tests.support.live_server import serving
from tests.ui.conftest import Late
from ui.page import mount

pytestmark = pytest.mark.browser
SAYS = "explains 0.90 of the old text, as much as before"
REPORT = {
    "passed": True,
    "failed": [],
    "gates": [{"name": "quality", "value": 0.9, "limit": 0.8, "passed": True, "says": SAYS}],
    "taken_out": [{"row": 4, "share": 0.6, "users": 1, "why": "60% of where it fires is on texts of one user"}],
}


def publish(revisions):
    """A child in which one feature has gone, one has turned and one is new."""
    before = revisions.open("r1")
    rows = before.sae.W_dec.clone()
    rows[2] = 0.5 * rows[2] + 0.5 * rows[3]
    sae = replace(before.sae, W_dec=rows / rows.norm(dim=1, keepdim=True))
    numbers = revisions.numbers_after("r1", recycled=[1])
    figures = {"explained_variance": 0.9, "l0": 5.0, "dead": 0.0}
    told = [Feature(id="", index=numbers[1], label="something new")]
    revisions.publish(before, sae, told, numbers=numbers, figures=figures, report=REPORT)


@pytest.fixture
def train(browser, tmp_path):
    """The tab on a server with a second revision."""
    bundle = small_bundle.write_bundle(tmp_path / "bundle")
    publish(Revisions(bundle, tmp_path / "data/revisions/small"))
    looks = DriftLog(tmp_path / "data", "small")
    for i, ev in enumerate((0.9, 0.88, 0.8)):
        figures = {"explained_variance": ev, "l0": 5.0, "tokens": 100}
        looks.append(
            {"at": 1e9 + i, "revision": "r1", "alarms": ["corpus: worse"] if ev < 0.85 else [], "corpus": figures}
        )
    with serving(bundle, tmp_path / "data", mount=mount) as (address, app):
        context = browser.new_context(viewport={"width": 1360, "height": 900})
        page = context.new_page()
        page.goto(f"{address}/?tab=train")
        page.wait_for_selector("#revisions")
        yield page, address, app
        context.close()


def served(page):
    return page.locator("#revisions tr[aria-current=true] b").inner_text()


def test_revision_is_served_and_taken_back_after_a_confirmation(train):
    page, address, _ = train
    assert served(page) == "r1"
    page.click("#serve-r2")
    page.click("#confirm-no")
    assert httpx.get(f"{address}/health").json()["revision"] == "r1"

    page.click("#serve-r2")
    page.click("#confirm-yes")
    page.wait_for_selector("#rollback")
    assert served(page) == "r2"
    assert httpx.get(f"{address}/health").json()["revision"] == "r2"

    page.click("#rollback")
    page.click("#confirm-yes")
    page.wait_for_selector("#rollback", state="detached")
    assert served(page) == "r1"


def test_report_tells_gates_changes_and_touched_presets(train):
    page, _, _ = train
    page.click("#report-r2")
    page.wait_for_selector("#touched")
    told = page.inner_text("dialog")
    assert SAYS in told
    assert "60% of where it fires" in told
    assert "something new" in told
    assert "Bridge" in page.inner_text("#touched")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


def test_drift_is_drawn_with_its_alarm(train):
    page, _, _ = train
    drift = page.locator("[aria-label=Drift]")
    assert "0.90, 0.88, 0.80" in drift.locator(".chart").first.get_attribute("aria-label")
    assert "corpus: worse" in drift.inner_text()


def test_job_is_started_followed_and_done_while_the_page_looks_on(train):
    page, address, app = train
    page.select_option("#job-type", "map")
    page.click("#job-start")
    page.wait_for_selector("#jobs td")
    job = httpx.get(f"{address}/v1/jobs").json()["data"][0]
    assert job["type"] == "map"
    page.click(f"#follow-{job['id']}")
    assert "queued" in page.inner_text("dialog [role=status]")

    stop = threading.Event()
    runner = threading.Thread(target=Runner(JobQueue(app.state.settings)).run, args=(stop,))
    runner.start()
    page.wait_for_function("document.querySelector('dialog [role=status]').textContent === 'succeeded'")
    stop.set()
    runner.join(120)
    page.wait_for_selector("dialog details", state="attached")
    assert json.loads(page.locator("dialog details pre").text_content())


def test_queued_job_is_cancelled_after_a_confirmation(train):
    page, address, _ = train
    page.select_option("#job-type", "describe")
    page.click("#job-start")
    page.wait_for_selector("[id^=cancel-]")
    page.click("[id^=cancel-]")
    page.click("#confirm-yes")
    page.wait_for_selector("[id^=delete-]")
    assert httpx.get(f"{address}/v1/jobs").json()["data"][0]["state"] == "cancelled"


def test_what_was_chosen_for_a_job_outlives_the_next_look(train):
    page, address, _ = train
    page.select_option("#job-type", "label")
    page.evaluate("document.activeElement.blur()")
    httpx.post(f"{address}/v1/jobs", json={"type": "describe"}).raise_for_status()
    page.wait_for_selector("[id^=follow-]")
    assert page.input_value("#job-type") == "label"


def test_buttons_are_not_replaced_under_the_pointer_while_nothing_has_changed(train):
    page, _, _ = train
    page.evaluate("document.querySelector('#report-r2').same = true")
    with page.expect_response("**/v1/training/drift?*"):
        pass
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('#report-r2').same")


def test_an_answer_from_before_a_revision_was_served_does_not_take_it_back_on_the_page(train):
    page, _, _ = train
    late = Late(page, "**/v1/saes", times=1)
    late.asked()
    page.click("#serve-r2")
    page.click("#confirm-yes")
    page.wait_for_selector("#rollback")
    late.come()
    page.wait_for_timeout(300)
    assert served(page) == "r2"


def test_an_update_without_anything_new_cannot_be_started_and_the_page_says_why(train):
    page, address, _ = train
    assert page.is_disabled("#job-start")
    assert "no new text to train on" in page.inner_text(".job-form")
    page.fill("#job-text", "new.txt")
    assert page.is_enabled("#job-start")
    page.fill("#job-text", "")
    page.select_option("#job-type", "describe")
    assert page.is_enabled("#job-start")

    page.select_option("#job-type", "sae_update")
    assert page.is_disabled("#job-start")
    httpx.put(f"{address}/v1/training/consent", json={"user": "ada", "consent": True})
    said = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "user": "ada"}
    assert httpx.post(f"{address}/v1/chat/completions", json=said).status_code == 200
    page.evaluate("document.activeElement.blur()")
    page.wait_for_selector("#job-start:enabled")
    assert "Given by users: 1 conversation." in page.inner_text(".job-form")
