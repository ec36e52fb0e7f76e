"""All tabs: no serious axe violations, no horizontal scrolling on a phone, large targets, a message for a lost server."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.ui.test_page import finished, pick, send

pytestmark = pytest.mark.browser
TABS = ["chat", "compare", "features", "map", "analyze", "train", "settings"]
PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True}
READY = {
    "chat": "#message textarea",
    "compare": "#compare-run",
    "features": "#section-features input[type=search]",
    "map": "#section-map canvas",
    "analyze": "#section-analyze textarea",
    "train": "#revisions",
    "settings": "#code-blocks pre",
}


def show(page, tab):
    page.click(f"#tab-{tab}")
    page.wait_for_selector(READY[tab])
    page.wait_for_load_state("networkidle")


def serious(page):
    found = Axe().run(page).response["violations"]
    return [
        (v["id"], n["html"][:160], n.get("failureSummary", "")[:200])
        for v in found
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_axe_finds_nothing_serious(opened, tab, scheme):
    page = opened(color_scheme=scheme)
    pick(page)
    if tab == "chat":
        send(page)
        finished(page)
    show(page, tab)
    assert serious(page) == []


@pytest.mark.parametrize("tab", TABS)
def test_a_phone_scrolls_only_downwards_and_has_large_targets(opened, tab):
    page = opened(**PHONE)
    pick(page)
    show(page, tab)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375

    small = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input:not([type=range]), textarea, a[href], summary')]
        .filter((n) => n.checkVisibility() && !n.closest('label, p, [aria-hidden=true]') && n.type !== 'checkbox')
        .map((n) => [n.outerHTML.slice(0, 120), n.getBoundingClientRect().height]).filter(([, h]) => h > 0 && h < 43.5)"""
    )
    assert small == []


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_reached_and_left_by_keyboard_with_its_focus_seen(page, tab):
    show(page, tab)
    page.focus(f"#tab-{tab}")
    page.keyboard.press("Tab")
    outline = page.evaluate(
        "() => { const n = document.activeElement, s = getComputedStyle(n); return [n.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
    )
    assert outline[0] != "BODY"
    assert outline[1] != "none"
    assert outline[2] >= 1


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_opened_by_its_address_is_shown(opened, address, tab):
    page = opened()
    page.goto(f"{address}/?tab={tab}")
    page.wait_for_selector(READY[tab])
    assert page.get_attribute(f"#tab-{tab}", "aria-selected") == "true"
    assert page.locator("[role=tabpanel]:visible").count() == 1
