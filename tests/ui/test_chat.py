"""Chat tab: chips, tokens, votes, reloads, links, wishes, a lost connection, many users at once."""

import re

import httpx
import pytest

from tests.support import small_bundle
from tests.support.live_server import serving
from tests.ui.conftest import Late, Replies
from tests.ui.test_page import GROWING, RANGE, count, dose, finished, last, notes, pick, send, strength
from ui.page import mount

pytestmark = pytest.mark.browser


def steered(page, text="hello there"):
    pick(page)
    send(page, text)
    finished(page)


def test_chip_puts_the_sliders_back_as_they_were_for_that_reply(page):
    steered(page)
    dose(page, "0.3")
    send(page, "and then?")
    page.wait_for_function("document.querySelectorAll('#steered-pane .turn').length === 2")
    finished(page)
    assert "bridges +0.30" in notes(page, "steered")

    page.locator("#steered-pane [data-act=restore]").first.click()
    page.wait_for_selector("#toast")
    assert strength(page) == 0.8
    page.click("#undo")
    assert strength(page) == 0.3


def test_persona_that_is_chosen_while_sliders_are_put_back_is_the_one_that_counts(page):
    steered(page)
    late = Late(page, "**/v1/features/small/1")
    page.click("#steered-pane [data-act=restore]")
    page.select_option("#preset-select", "calm")
    page.wait_for_function("document.querySelector('#system').value === 'Be calm.'")
    late.come()
    page.wait_for_timeout(300)

    assert page.input_value("#system") == "Be calm."
    assert strength(page) == -0.5
    assert page.locator("#toast").count() == 0


def test_conversation_draft_and_sliders_survive_a_reload(page):
    steered(page)
    said = last(page, "steered")
    dose(page, "0.35")
    page.fill("#message textarea", "half a thought")
    page.reload()
    page.wait_for_selector(RANGE)

    assert last(page, "steered") == said
    assert strength(page) == 0.35
    assert page.input_value("#message textarea") == "half a thought"


def test_reply_cut_off_by_a_reload_keeps_its_question_and_says_so(page, slow):
    send(page, "hello there")
    page.wait_for_function(GROWING)
    page.reload()
    page.wait_for_selector("#steered-pane .problem")

    assert "reloaded" in notes(page, "steered")
    assert "hello there" in page.inner_text("#steered-pane .user-row")


def test_switching_tabs_loses_nothing_and_is_in_the_address(page):
    steered(page)
    said = last(page, "steered")
    page.fill("#message textarea", "half a thought")
    page.click("#tab-compare")
    page.wait_for_selector("#compare-run")
    page.wait_for_url("**/?tab=compare")
    assert page.is_hidden("#section-chat")

    page.go_back()
    page.wait_for_selector("#section-chat", state="visible")
    assert last(page, "steered") == said
    assert page.input_value("#message textarea") == "half a thought"


def test_tabs_obey_the_arrow_keys(page):
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-compare", "aria-selected") == "true"
    page.keyboard.press("Home")
    assert page.get_attribute("#tab-chat", "aria-selected") == "true"
    assert page.locator("[role=tab][tabindex='0']").count() == 1


def test_last_question_can_be_edited(page):
    steered(page)
    page.click("#edit-last")
    assert page.input_value("#message textarea") == "hello there"
    assert count(page, "steered", "user") == 1

    send(page, "good day")
    finished(page)
    assert page.locator("#steered-pane .user-row").all_inner_texts() == ["good day"]
    assert page.inner_text("#edit-last") == "Edit last"


def test_edit_that_is_left_brings_back_what_was_there(page):
    steered(page)
    reply = last(page, "steered")
    page.fill("#message textarea", "half a thought")
    for leave in (lambda: page.keyboard.press("Escape"), lambda: page.click("#edit-last")):
        page.click("#edit-last")
        page.fill("#message textarea", "something else")
        assert page.inner_text("#edit-last") == "Cancel edit"
        leave()
        assert page.input_value("#message textarea") == "half a thought"
        assert last(page, "steered") == reply


def test_edited_question_that_is_refused_leaves_the_last_one_and_can_be_edited_on(page):
    steered(page)
    page.click("#edit-last")
    page.fill("#message textarea", "hello " * 3000)
    page.click("#send")
    page.wait_for_selector(".refusal .problem")
    assert page.locator("#steered-pane .user-row").all_inner_texts() == ["hello there"]
    send(page, "good day")
    finished(page)
    assert page.locator("#steered-pane .user-row").all_inner_texts() == ["good day"]


def test_cleared_conversation_can_be_brought_back(page):
    steered(page)
    page.click("#clear")
    assert count(page, "steered", "bot") == 0
    page.locator("#toast").get_by_role("button", name="Undo").click()
    assert count(page, "steered", "bot") == 1


def test_tokens_tell_how_likely_they_were(page):
    steered(page)
    tokens = page.locator("#steered-pane .token")
    assert tokens.count() > 1
    assert "".join(tokens.all_inner_texts()).strip() == last(page, "steered").strip()
    assert re.search(r"“.*” (<0\.1|\d+(\.\d)?) %\n", tokens.first.get_attribute("title"))


def test_thumb_is_remembered_under_this_browsers_name(page, address):
    steered(page)
    with page.expect_response("**/v1/feedback") as answer:
        page.get_by_label("Good reply").click()
    assert answer.value.status == 200
    page.wait_for_selector("[aria-label='Good reply'][aria-pressed=true]")
    user = page.evaluate("JSON.parse(localStorage['tiller.me']).value")
    assert httpx.get(f"{address}/v1/feedback", params={"user": user}).json()["votes"]


def test_strained_reply_offers_to_ease_off(page, address):
    pick(page)
    dose(page, "2")
    page.locator("#total-strength").press("End")
    send(page, "hello there")
    page.wait_for_selector("#steered-pane .turn:last-child .verdict, .chat .problem", state="attached")
    if page.locator("[data-act=ease]").count():
        page.click("[data-act=ease]")
        assert float(page.input_value("#total-strength")) == 1.0


def test_link_carries_sliders_and_question_and_sends_nothing_when_opened(page, opened, address):
    steered(page)
    dose(page, "0.45")
    page.click("#share")
    page.check("#share-question")
    link = page.input_value("#share-link")
    assert link.startswith(f"{address}/#s=")
    assert "hello there" in page.inner_text(".share-contents")

    other, asked = opened(), []
    other.on("request", lambda r: asked.append(r.url) if "completions" in r.url else None)
    other.goto(link)
    other.reload()
    other.goto("about:blank")
    other.goto(link)
    other.wait_for_selector(RANGE)
    other.wait_for_function("document.querySelector('.notice').textContent.includes('nothing was sent')")
    assert strength(other) == 0.45
    assert other.input_value("#message textarea") == "hello there"
    assert "#s=" not in other.evaluate("location.href")
    assert not asked


@pytest.mark.parametrize("fragment", ["#s=rubbish!", "#s=e30", "#s=" + "A" * 200])
def test_broken_link_is_told_and_changes_nothing(opened, address, fragment):
    page = opened()
    page.goto("about:blank")
    page.goto(f"{address}/{fragment}")
    page.wait_for_function("document.querySelector('.notice')?.textContent.includes('cannot be read')")
    assert page.locator(RANGE).count() == 0


def test_link_to_features_of_another_sae_lists_what_is_missing(opened, address):
    page = opened()
    pick(page)
    page.click("#share")
    page.wait_for_selector("#share-link")
    link = page.evaluate(
        """() => { const t = document.querySelector('#share-link').value.split('#s=')[1];
        const s = JSON.parse(atob(t.replaceAll('-', '+').replaceAll('_', '/')));
        s.steering.features.push({ id: 'other/77', strength: 0.5, mode: 'add' }); s.model = 'other';
        return '#s=' + btoa(JSON.stringify(s)); }"""
    )
    page.goto("about:blank")
    page.goto(f"{address}/{link}")
    page.wait_for_function("document.querySelector('.notice')?.textContent.includes('other/77')")
    assert page.locator(RANGE).count() == 1


def test_lost_connection_keeps_what_was_said(browser, tmp_path):
    context = browser.new_context()
    with serving(small_bundle.write_bundle(tmp_path / "bundle"), tmp_path / "data", mount=mount) as (address, app):
        app.state.served_model.engine.generate = Replies(app.state.served_model.engine)
        app.state.served_model.engine.generate.most = 6  # neither reply may end while the server goes down
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#cards .card")
        pick(page)
        send(page, "hello there")
        page.wait_for_function(GROWING)
        page.wait_for_function(GROWING.replace("steered", "default"))
    page.wait_for_selector("#steered-pane .problem")

    for pane in ("default", "steered"):
        assert "broke off" in notes(page, pane)
        assert last(page, pane).strip()
    assert "Bridge ×1.00" in notes(page, "steered")
    assert "not steered" not in notes(page, "steered")
    assert page.is_enabled("#regenerate")
    page.wait_for_selector("[data-state=lost]")
    context.close()


def test_tab_that_could_not_be_loaded_comes_by_itself_when_the_server_is_back(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("[data-state=ready]")
    page.route("**/*", lambda route: route.abort())
    page.click("#tab-settings")
    page.wait_for_selector("#section-settings .problem")
    page.wait_for_selector("[data-state=lost]")
    assert "could not be loaded" in page.inner_text("#section-settings")
    assert "http" not in page.inner_text("#section-settings")
    page.unroute("**/*")
    page.wait_for_selector("#code-blocks pre")
    assert page.locator("#section-settings .problem").count() == 0
    page.close()


def test_two_people_do_not_see_each_other(opened):
    one, other = opened(), opened()
    steered(one)
    assert other.locator(RANGE).count() == 0
    assert count(other, "steered", "user") == 0


def test_eight_people_are_answered_together(opened, slow):
    pages = [opened() for _ in range(8)]
    slow.most = 3  # nobody is done before the last has begun
    for page in pages:
        send(page, "hello there")
    pages[-1].wait_for_function(GROWING)
    for page in pages:
        page.wait_for_function(GROWING)
    assert slow.open == 16
    for page in pages:
        page.click("#stop")


def test_wish_that_nothing_serves_is_told(page):
    page.fill("#wish", "more zeppelins")
    page.click("#suggest")
    page.wait_for_function(
        "!document.querySelector('#suggest').disabled && document.querySelector('.notice').textContent"
    )
    assert page.inner_text(".notice")


def test_message_sent_at_once_after_a_persona_was_chosen_is_steered(page):
    page.evaluate("document.querySelector('#cards [data-preset=bridge]').click()")
    page.fill("#message textarea", "hello there")
    page.press("#message textarea", "Enter")
    finished(page)

    assert "Bridge ×1.00" in notes(page, "steered")
    assert last(page, "default") != last(page, "steered")


def test_what_is_so_of_many_features_is_said_once_and_what_matters_is_said_first(page, address):
    rows = [{"id": "small/1", "strength": 1.2}, *({"id": f"small/{i}", "strength": 0.1} for i in (3, 4, 5))]
    told = httpx.post(f"{address}/v1/steering/validate", json={"steering": {"features": rows}}).json()["warnings"]
    assert sorted(w["code"] for w in told) == ["above_sweet_spot", *["not_measured"] * 3]
    page.evaluate(
        "(features) => import('/page/panel/slider_state.js').then((m) => m.loadSteering({ features, unit: 'dose' }))",
        rows,
    )
    send(page, "hello there")
    finished(page)

    line = page.locator("#steered-pane .warnings > summary")
    assert line.inner_text() == "⚠ 1 feature is beyond what stays coherent · 4 notes"
    assert not page.is_visible("#steered-pane .warnings ul")
    line.click()
    groups = page.locator("#steered-pane .warnings > ul > li")
    assert groups.count() == 2
    assert groups.nth(0).inner_text() == "bridges: dose 1.20 is beyond what stays coherent"
    groups.nth(1).locator("summary").click()
    assert groups.nth(1).inner_text().splitlines() == [
        "the doses of 3 features are not measured; 1.0 is half of a typical norm",
        "on “red”, says “long”", "small/4", "small/5",
    ]  # fmt: skip


def test_a_reply_without_warnings_has_no_notes(page):
    pick(page)
    send(page)
    finished(page)

    assert page.locator(".warnings").count() == 0


def test_fields_of_a_steering_that_the_page_has_no_controls_for_are_sent_as_they_came(page):
    own = {"scope": "generated", "positions": [[0, 4], -1], "skip_special": True, "norm": "preserve"}
    spec = {"features": [{"id": "small/1", "strength": 0.5, "mode": "add"}], "unit": "dose", "scale": 1, **own}
    sent = page.evaluate(
        "(spec) => import('/page/panel/slider_state.js').then((m) => m.loadSteering(spec).then(() => m.steering()))",
        spec,
    )
    assert sent == spec
