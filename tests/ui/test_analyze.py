"""Analyze tab: token strip, features, speakers, two texts, exports."""

import csv
import io
import json
from pathlib import Path

import httpx
import pytest

from tests.ui.test_page import RANGE, finished, send

pytestmark = pytest.mark.browser
TALK = "Ann: red long 🌉  red\n\nBob: long long 漢字 <b>red</b>"


@pytest.fixture
def analyze(page):
    page.click("#tab-analyze")
    page.wait_for_selector("#analyze-text")
    return page


def run(page, text=TALK):
    page.fill("#analyze-text", text)
    page.click("#analyze-run")
    page.wait_for_selector("#text-features")


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text()


def test_the_strip_is_the_text_with_all_its_signs_and_names_the_speakers(analyze):
    run(analyze)
    parts = analyze.locator(".token-strip .part")
    assert parts.locator(".speaker").all_inner_texts() == ["Ann", "Bob"]
    told = json.loads(saved(analyze, "#analysis-json"))
    shown = ["".join(p.locator(".token-button").all_text_contents()) for p in parts.all()]
    for said, part in zip(shown, told["parts"], strict=True):
        assert len(said) >= len(part["text"]) - 2
    assert "<b>" in shown[1]
    assert analyze.locator(".token-strip b:not(.speaker)").count() == 0


def test_clicking_a_feature_colours_the_text_and_shows_it_along_the_text(analyze):
    run(analyze)
    heats = "[...document.querySelectorAll('.token-button')].map((t) => t.style.getPropertyValue('--heat')).join()"
    before = analyze.evaluate(heats)
    analyze.locator("#text-features button.link").nth(1).click()

    assert analyze.evaluate(heats) != before
    assert analyze.locator("#text-features tr[aria-current=true]").count() == 1
    assert "along the text" in analyze.get_attribute("figure .chart", "aria-label")


def test_clicking_a_token_lists_its_features_and_arrows_walk_the_strip(analyze):
    run(analyze)
    analyze.locator(".token-button").nth(2).click()
    assert analyze.locator(".token-facts li, .token-facts .muted").count() >= 1

    analyze.keyboard.press("ArrowRight")
    assert analyze.evaluate("document.activeElement.dataset.i") == "3"
    analyze.keyboard.press("Home")
    assert analyze.evaluate("document.activeElement.dataset.i") == "0"


def test_evoked_feature_goes_onto_a_slider(analyze):
    run(analyze)
    first = analyze.locator("#text-features [data-plus]").first
    first.click()
    analyze.wait_for_selector(RANGE)
    assert "there" in first.get_attribute("class")


def test_speakers_and_two_texts_are_held_against_each_other(analyze):
    analyze.check("#two-texts")
    analyze.fill("#analyze-other", "long long long")
    run(analyze)
    heads = analyze.locator("#by-speaker th").all_inner_texts()
    assert heads[1:] == ["Ann", "Bob"]
    assert analyze.locator("#differences tr").count() > 1


def test_the_last_reply_and_the_conversation_can_be_taken(page):
    send(page, "hello there")
    finished(page)
    page.click("#tab-analyze")
    page.wait_for_selector("#use-conversation:not([disabled])")
    page.click("#use-conversation")
    page.wait_for_selector("#text-features")
    assert set(page.locator(".token-strip .speaker").all_inner_texts()) == {"user", "assistant"}

    page.click("#use-reply")
    page.wait_for_function("document.querySelectorAll('.token-strip .part').length === 1")


def test_table_is_exported_without_formulas(analyze):
    run(analyze, "=1+1 red")
    rows = list(csv.reader(io.StringIO(saved(analyze, "#analysis-csv"))))
    assert rows[0][:4] == ["token", "speaker", "start", "end"]
    assert not [row[0] for row in rows[1:] if row[0][:1] in "=+@"]
    assert all(len(row) == len(rows[0]) for row in rows)


def test_refusal_is_told_with_a_way_to_try_again(analyze):
    analyze.route("**/v1/analyze", lambda route: route.fulfill(status=429, json={"error": {"message": "it broke"}}))
    analyze.fill("#analyze-text", "red")
    analyze.click("#analyze-run")
    analyze.wait_for_selector("#section-analyze [role=alert]")
    assert "it broke" in analyze.inner_text("#section-analyze [role=alert]")

    analyze.unroute("**/v1/analyze")
    analyze.get_by_role("button", name="Try again").click()
    analyze.wait_for_selector("#text-features")


def test_word_that_there_is_no_text_goes_when_one_was_analyzed(analyze):
    analyze.click("#analyze-run")
    analyze.wait_for_selector("#toast")
    run(analyze)
    assert analyze.locator("#toast").count() == 0


def test_text_is_there_after_a_reload(analyze):
    analyze.fill("#analyze-text", "red long")
    analyze.reload()
    analyze.wait_for_selector("#analyze-text")
    assert analyze.input_value("#analyze-text") == "red long"


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_fit_where_labels_are_long(opened, address, width):
    page = opened(viewport={"width": width, "height": 800})
    page.click("#tab-analyze")
    page.check("#two-texts")
    page.fill("#analyze-other", "hello there, how are you")
    run(page)
    ids = page.locator("#text-features code").all_inner_texts()
    for feature in ids:
        label = (
            "on “time / you / coffee” after “all / time / people” near “<|system|>about_something_long_without_a_space”"
        )
        assert httpx.patch(f"{address}/v1/features/{feature}", json={"label": label}).status_code == 200
    run(page, TALK + " ")
    page.wait_for_selector("#text-features :text('about_something')")

    for table in ("#text-features", "#by-speaker", "#differences"):
        wide = page.evaluate(
            "(t) => { const n = document.querySelector(t).parentElement; return n.scrollWidth - n.clientWidth; }", table
        )
        assert wide <= 0, table
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for feature in ids:
        httpx.patch(f"{address}/v1/features/{feature}", json={"label": None})
