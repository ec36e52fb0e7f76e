"""Every tab on a phone: nothing is cut off at the side, and touch targets are large enough."""

import httpx
import pytest

from tests.ui.test_page import finished, send

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
CUT = """() => [...document.querySelectorAll('.scroll, .card, .chat, .tab, .tiller')]
    .filter((n) => n.getBoundingClientRect().width && n.scrollWidth > n.clientWidth + 1)
    .map((n) => `${n.className} ${n.getAttribute('aria-label') || n.id}: ${n.scrollWidth} of ${n.clientWidth}`)"""
SMALL = """() => [...document.querySelectorAll('button:not(.token-button), select, summary, textarea, input')]
    .map((n) => (n.matches('[type=checkbox]') ? n.closest('label') : n)).filter((n) => n.getBoundingClientRect().height)
    .filter((n) => n.getBoundingClientRect().height < 43.5).map((n) => `${n.tagName} ${n.id} ${n.innerText}`)"""


@pytest.fixture
def phone(opened):
    return opened(**PHONE)


def misfits(phone):
    """What is cut off, too small for a finger, or wider than the screen."""
    wide = phone.evaluate("document.documentElement.scrollWidth")
    return [*phone.evaluate(CUT), *phone.evaluate(SMALL), *([wide] if wide > 390 else [])]


def test_the_chat_with_its_notes_and_its_drawer_fits_a_phone(phone):
    phone.click("#cards [data-preset=calm]")
    phone.wait_for_function("document.querySelector('.tiller .count').innerText === '2 features on'")
    send(phone, "hello there")
    finished(phone)
    phone.click("#steered-pane .warnings > summary")
    assert misfits(phone) == []
    phone.click(".handle")
    phone.wait_for_selector("#total-strength")
    assert misfits(phone) == []


def test_compare_and_settings_fit_a_phone(phone):
    phone.click("#tab-compare")
    phone.wait_for_selector("#compare-run")
    assert misfits(phone) == []
    phone.click("#tab-settings")
    phone.wait_for_selector("#import-file")
    assert misfits(phone) == []


def test_analyze_fits_a_phone(phone):
    phone.click("#tab-analyze")
    phone.fill("#analyze-text", "Ann: red long red\n\nBob: long long red")
    phone.click("#analyze-run")
    phone.wait_for_selector("#text-features")
    assert misfits(phone) == []


def test_revisions_and_jobs_fit_a_phone_with_all_their_buttons(phone, address):
    order = {"type": "sae_update", "config": {"text": ["no-such-file.txt"], "steps": 50}}
    job = httpx.post(f"{address}/v1/jobs", json=order).json()["id"]
    phone.click("#tab-train")
    phone.wait_for_selector(f"#follow-{job}")
    assert misfits(phone) == []
    for button in (f"#follow-{job}", "#report-r1"):
        box = phone.locator(button).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    httpx.post(f"{address}/v1/jobs/{job}/cancel")
