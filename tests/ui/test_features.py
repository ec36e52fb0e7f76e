"""Features tab: every search mode, filters, the drawer, names and stars, keyboard, phone layout."""

import re

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from tests.support.live_server import serving
from tests.ui import described
from tests.ui.conftest import Late

pytestmark = pytest.mark.browser

ROW = "#section-features [role=row][data-id]"
STATUS = "#section-features .status [role=status]"
DRAWER = ".drawer .figures"
FULL, UNSAFE = f"small/{described.FULL}", f"small/{described.UNSAFE}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from ui.page import mount

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("features")
    with serving(described.write_bundle(folder / "bundle"), folder / "data", mount=mount) as (address, _):
        yield address


@pytest.fixture
def tab(page):
    """A page with the tab open and the first features listed."""
    page.click("#tab-features")
    page.wait_for_selector(ROW)
    return page


def row(page, feature_id):
    return page.locator(f"#section-features [data-id='{feature_id}']")


def found(page):
    """The ids that are listed when the search has ended."""
    page.wait_for_function(f"!document.querySelector('{STATUS}').textContent.startsWith('Searching')")
    return [node.get_attribute("data-id") for node in page.locator(ROW).all()]


def until_found(page, wanted):
    page.wait_for_function(
        "ids => [...document.querySelectorAll('#section-features [data-id]')].map((r) => r.dataset.id).sort().join() === [...ids].sort().join()",
        arg=wanted,
    )


def mode(page, name):
    page.get_by_role("group", name="How to search").get_by_role("button", name=name, exact=True).click()


def narrow(page, name, value):
    page.locator(".filter-section").evaluate("node => { node.open = true; }")
    control = page.locator(f".filter-section [data-key={name}]")
    control.select_option(value) if control.evaluate("n => n.tagName") == "SELECT" else control.fill(value)
    control.dispatch_event("change")


def show(page, feature_id):
    row(page, feature_id).locator(".feature-cell button").click()
    page.wait_for_selector(DRAWER)


def smaller_pages(page):
    """The same server, fewer features at a time."""
    page.route("**/v1/features?*", lambda r: r.continue_(url=re.sub(r"limit=\d+", "limit=20", r.request.url)))


def test_all_features_are_listed_with_what_is_known_of_them(tab):
    assert tab.inner_text(STATUS) == "48 of 48 features"
    assert found(tab)[0] == FULL

    words = row(tab, FULL).inner_text()
    assert all(w in words for w in ("bridges", FULL, "2.0 %", "by hand", "slider-ready: 0.4–1"))
    assert "label may be stale" in row(tab, f"small/{described.STALE}").inner_text()
    assert "by judge" in row(tab, f"small/{described.STALE}").inner_text()
    assert "dead" in row(tab, f"small/{described.DEAD}").inner_text()
    assert "not measured" in row(tab, "small/9").inner_text()


def test_words_are_searched_while_they_are_typed(tab):
    tab.fill("#features-q", "everyth")
    until_found(tab, [f"small/{described.DENSE}"])
    assert tab.inner_text(STATUS) == "1 of 1 feature"


def test_id_finds_one_feature(tab):
    mode(tab, "Id")
    assert "Enter an id" in tab.inner_text(".below-list")
    tab.fill("#features-q", "small/7")
    until_found(tab, ["small/7"])


@pytest.mark.parametrize(("how", "words"), [("Meaning", "a long bridge"), ("Prompt", "the bridge is red and long")])
def test_text_finds_what_it_evokes_best_first(tab, how, words):
    mode(tab, how)
    tab.fill("#features-q", words)
    tab.click("[data-key=search-go]")
    tab.wait_for_selector(f"{ROW} :text('score')")

    scores = [float(n.inner_text().split()[1]) for n in tab.locator(f"{ROW} :text('score')").all()]
    assert scores == sorted(scores, reverse=True)


def test_several_prompts_have_features_in_common_less_those_of_others(tab):
    mode(tab, "In common")
    tab.fill("#features-prompts", "the bridge is red\nthe bridge is long")
    tab.click("[data-key=search-go]")
    tab.wait_for_selector(ROW)
    common = found(tab)
    tab.fill("#features-without", "the bridge is red")
    tab.click("[data-key=search-go]")
    tab.wait_for_function(
        "n => { const r = document.querySelectorAll('#section-features [role=row][data-id]').length; return r < n; }",
        arg=len(common),
    )

    assert set(found(tab)) < set(common)


def test_what_was_looked_for_is_there_after_a_reload_and_nowhere_in_an_address(tab):
    seen = []
    tab.on("request", lambda r: seen.append(r.url))
    mode(tab, "Prompt")
    tab.fill("#features-q", "my secret wish")
    tab.click("[data-key=search-go]")
    tab.wait_for_selector(f"{ROW} :text('score')")
    tab.reload()
    tab.wait_for_selector(f"{ROW} :text('score')")

    assert tab.input_value("#features-q") == "my secret wish"
    assert not [url for url in seen if "secret" in url]


@pytest.mark.parametrize(
    ("name", "value", "ids"),
    [
        ("kind", "dead", [described.DEAD]),
        ("dose", "works", [described.FULL]),
        ("dose", "measured", [described.FULL, described.UNSAFE]),
        ("from", "50", [described.DENSE]),
        ("label", "some", [1, 2, 3, described.STALE, described.DEAD, described.DENSE]),
    ],
)
def test_filters_leave_what_passes_them(tab, name, value, ids):
    narrow(tab, name, value)
    until_found(tab, [f"small/{i}" for i in ids])
    assert tab.inner_text(".filter-section summary") == "Filters: 1 on"


def test_features_without_a_label_can_be_listed(tab):
    narrow(tab, "label", "none")
    tab.wait_for_function(f"document.querySelector('{STATUS}').textContent === '42 of 42 features'")
    assert FULL not in found(tab)


def test_order_can_be_chosen(tab):
    tab.select_option("[data-key=sort]", "density")
    tab.wait_for_function(f"document.querySelector('{ROW}')?.dataset.id === 'small/{described.DENSE}'")
    assert tab.input_value("[data-key=sort]") == "density"


def test_nothing_found_is_said_and_filters_can_be_taken_off(tab):
    narrow(tab, "kind", "dead")
    tab.fill("#features-q", "zeppelin")
    tab.wait_for_selector(".below-list :text('No feature matches “zeppelin”.')")
    tab.fill("#features-q", "")
    tab.wait_for_selector(ROW)
    tab.fill("#features-q", "bridges")
    tab.click("[data-key=unfilter]")
    until_found(tab, [FULL])
    assert tab.locator("[data-key=unfilter]").count() == 0


def test_more_are_shown_when_asked_for(page):
    smaller_pages(page)
    page.click("#tab-features")
    page.wait_for_selector(ROW)
    assert page.inner_text("[data-key=more]") == "Show more (20 of 48)"

    page.click("[data-key=more]")
    page.wait_for_selector("text=Show more (40 of 48)")
    page.click("[data-key=more]")
    page.wait_for_selector("[data-key=more]", state="detached")
    ids = found(page)
    assert len(ids) == len(set(ids)) == 48


def test_failure_is_said_in_words_and_can_be_tried_again(page):
    page.route("**/v1/features?*", lambda r: r.fulfill(status=429, json={"error": {"message": "The server is busy."}}))
    page.click("#tab-features")
    page.wait_for_selector(".below-list [role=alert]")
    assert page.inner_text(".below-list [role=alert]") == "The server is busy."

    page.unroute("**/v1/features?*")
    page.click("[data-key=retry]")
    page.wait_for_selector(ROW)


def test_keys_search_move_add_and_show(tab):
    tab.locator("#tab-features").focus()
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "features-q"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.dataset.id") == found(tab)[1]
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")

    tab.wait_for_selector("fieldset.row .label:text('bridges')")
    assert tab.evaluate("document.activeElement.dataset.id") == FULL
    assert row(tab, FULL).locator("[data-plus]").inner_text() == "✓"
    tab.keyboard.press(" ")
    tab.wait_for_selector(DRAWER)
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.dataset.id") == FULL
    assert tab.locator(".drawer").count() == 0
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("document.activeElement.id") == "features-q"


def test_added_feature_begins_in_the_middle_of_its_sweet_spot(tab):
    row(tab, FULL).locator("[data-plus]").click()
    tab.wait_for_selector("fieldset.row")
    assert tab.input_value("fieldset.row .dose") == "0.70"
    row(tab, FULL).locator("[data-plus]").click()
    assert tab.locator("fieldset.row").count() == 1

    tab.click("#undo")
    tab.wait_for_function(f"document.querySelector('[data-plus=\"{FULL}\"]').textContent === '+'")


def test_drawer_shows_examples_doses_tokens_and_neighbours(tab):
    show(tab, FULL)
    drawer = tab.locator(".drawer")

    marks = drawer.locator("mark").all_inner_texts()
    assert [m.strip() for m in marks] == ["bridge", "is", "bridge", "ford"]
    assert "25 %" in drawer.inner_text()
    assert "texts 85 %, tokens 75 % right, of 40" in drawer.inner_text()
    assert "Measured: 16 prompts, 2026-01-01, test, revision r1." in drawer.inner_text()
    curve, bars = (drawer.locator("svg.chart").nth(n).get_attribute("aria-label") for n in (0, 1))
    assert curve == "Effect by dose: 0.10 at -1, 0.00 at 0, 0.20 at 0.5, 0.50 at 1 nats. Sweet spot 0.4–1."
    assert "63 activations" in bars
    assert drawer.locator(".more li").all_text_contents() == [" bridge", " span"]

    drawer.locator(".near button").first.click()
    tab.wait_for_selector(DRAWER)
    tab.click("[data-key=drawer-back]")
    tab.wait_for_selector(".drawer h2:text('bridges')")


def test_feature_of_which_little_is_known_says_so(tab):
    show(tab, "small/9")
    words = tab.inner_text(".drawer")
    assert "The dose is not measured" in words
    assert "No examples yet" in words
    assert tab.locator(".drawer svg.chart").count() == 0


def test_name_note_and_star_are_kept_by_the_server_and_can_be_taken_back(tab, address):
    show(tab, "small/8")
    tab.click("[data-key=rename]")
    tab.fill("[data-key=feature-name]", "the sea at night")
    tab.press("[data-key=feature-name]", "Enter")
    tab.wait_for_selector(".drawer h2:text('the sea at night')")
    tab.fill(".drawer textarea", "also boats")
    tab.locator(".drawer .star").click()
    tab.wait_for_selector(".drawer .star[aria-pressed=true]")
    tab.click("[data-key=note-save]")
    tab.wait_for_selector("#section-features [data-id='small/8'] :text('has a note')")

    told = httpx.get(f"{address}/v1/features/small/8").json()
    assert (told["label"], told["note"], told["starred"]) == ("the sea at night", "also boats", True)
    assert told["edited"]["by"].startswith("page-")
    assert "the sea at night" in row(tab, "small/8").inner_text()
    tab.locator(".filter-section").evaluate("n => { n.open = true; }")
    tab.get_by_label("Starred", exact=True).check()
    until_found(tab, ["small/8"])

    tab.click("[data-key=rename]")
    tab.click("[data-key=name-back]")
    tab.wait_for_selector(".drawer h2:text('small/8')")
    httpx.patch(f"{address}/v1/features/small/8", json={"starred": False, "note": None})


def test_name_that_is_being_written_outlives_that_the_feature_is_starred(tab, address):
    show(tab, "small/9")
    late = Late(tab, "**/v1/features/small/9", times=1)
    tab.click(".drawer .star")
    tab.click("[data-key=rename]")
    tab.fill("[data-key=feature-name]", "half a name")
    late.come()
    tab.wait_for_selector(".drawer .star[aria-pressed=true]")
    assert tab.input_value("[data-key=feature-name]") == "half a name"
    assert tab.evaluate("document.activeElement.dataset.key") == "feature-name"

    tab.press("[data-key=feature-name]", "Enter")
    tab.wait_for_selector(".drawer h2:text('half a name')")
    tab.wait_for_selector("[data-key=feature-name]", state="detached")
    httpx.patch(f"{address}/v1/features/small/9", json={"starred": False, "label": None})


def test_refused_name_is_said(tab):
    tab.route(
        "**/v1/features/small/9",
        lambda r: (
            r.fulfill(status=409, json={"error": {"message": "Not now."}})
            if r.request.method == "PATCH"
            else r.continue_()
        ),
    )
    show(tab, "small/9")
    tab.click("[data-key=rename]")
    tab.fill("[data-key=feature-name]", "anything")
    tab.press("[data-key=feature-name]", "Enter")
    tab.wait_for_selector("#toast.problem:has-text('Not now.')")
    assert tab.inner_text(".drawer h2") == "small/9"


def test_more_goes_on_with_what_was_asked_not_with_what_is_being_typed(page):
    page.route("**/v1/features/search", lambda r: r.continue_(post_data={**r.request.post_data_json, "limit": 2}))
    page.click("#tab-features")
    mode(page, "Prompt")
    page.fill("#features-q", "the bridge is red and long")
    with page.expect_request("**/v1/features/search") as first:
        page.click("[data-key=search-go]")
    page.wait_for_selector("[data-key=more]")
    page.fill("#features-q", "something else")
    with page.expect_request("**/v1/features/search") as second:
        page.click("[data-key=more]")

    assert first.value.post_data_json["prompts"] == second.value.post_data_json["prompts"]
    assert second.value.post_data_json["cursor"] == "2"


def test_label_is_shown_as_text(tab):
    tab.on("dialog", lambda d: pytest.fail("a label ran as a script"))
    show(tab, UNSAFE)
    assert tab.inner_text(".drawer h2") == "<img src=x onerror=alert(1)>"
    assert tab.locator("#section-features img").count() == 0


def test_server_that_cannot_measure_says_so(tab):
    tab.route("**/calibrate", lambda r: r.fulfill(status=404, json={"error": {"message": "No such path."}}))
    show(tab, "small/9")
    tab.click("[data-key=measure]")
    tab.wait_for_selector("#toast:has-text('This server cannot measure')")
    assert tab.is_enabled("[data-key=measure]")


def test_measurement_is_followed_until_it_is_served(tab):
    states = iter(["queued", "running", "succeeded"])
    measured = {"dose": 4.0, "sweet_spot": {"low": 0.3, "high": 0.9, "method": "", "n": 16, "date": ""}}
    tab.route("**/calibrate", lambda r: r.fulfill(status=202, json={"id": "job_1", "state": "queued"}))
    tab.route(
        "**/v1/jobs/job_1",
        lambda r: r.fulfill(json={"id": "job_1", "state": next(states), "progress": 0.5, "error": None}),
    )
    show(tab, "small/9")
    tab.click("[data-key=measure]")
    tab.wait_for_selector(".measuring :text('Measuring: 50 %')")
    tab.route("**/v1/features/small/9", lambda r: r.fulfill(json={**r.fetch().json(), **measured}))
    tab.wait_for_selector(".drawer :text('Sweet spot 0.3–0.9 (16 prompts).')")
    assert next(states, None) is None  # it was asked until it was done, and no more


def test_feature_is_attributed_for_the_last_question(tab):
    show(tab, FULL)
    assert "Send a message in the chat" in tab.inner_text(".drawer")
    tab.click("#tab-chat")
    tab.fill("#message textarea", "hello there")
    tab.click("#send")
    tab.wait_for_selector("#steered-pane .verdict", state="attached")
    tab.click("#tab-features")
    tab.evaluate("id => import('./page/shell/header.js').then((m) => m.openTab('features', { feature: id }))", FULL)
    tab.wait_for_selector("[data-key=attribute]")
    tab.click("[data-key=attribute]")
    tab.wait_for_selector(".drawer .fact :text('first token')")


def test_other_tabs_can_list_and_show_features(page):
    page.evaluate(
        "() => import('./page/shell/header.js').then((m) => m.openTab('features', { ids: ['small/3', 'small/99', 'small/1'] }))"
    )
    until_found(page, ["small/3", FULL])
    assert page.inner_text(STATUS) == "2 of 3 features; 1 no longer exists"
    page.click("[data-key=show-all]")
    page.wait_for_function(f"document.querySelector('{STATUS}').textContent === '48 of 48 features'")


def test_phone_shows_the_feature_in_a_sheet_without_sideways_scroll(opened):
    phone = opened(viewport={"width": 375, "height": 740}, has_touch=True)
    phone.click("#tab-features")
    phone.wait_for_selector(ROW)
    for kind in ("[data-plus]", ".star", ".feature-cell button"):
        assert row(phone, FULL).locator(kind).bounding_box()["height"] >= 44
    show(phone, FULL)

    assert phone.locator("dialog.drawer[open]").count() == 1
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
    phone.keyboard.press("Escape")
    phone.wait_for_selector(".drawer", state="detached")
    assert phone.evaluate("document.activeElement.dataset.id") == FULL

    show(phone, FULL)
    phone.go_back()
    phone.wait_for_selector(".drawer", state="detached")
    phone.fill("#message textarea", "nothing lies over the chat")


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 375, "height": 740}}])
def test_axe_finds_nothing_to_complain_of(opened, options):
    page = opened(**options)
    page.click("#tab-features")
    page.wait_for_selector(ROW)
    show(page, FULL)
    page.locator(".filter-section").evaluate("n => { n.open = true; }")

    assert violations(page) == []


def violations(page):
    found = Axe().run(page, "#section-features").response["violations"]
    return [(v["id"], [n["html"] for n in v["nodes"]]) for v in found]
