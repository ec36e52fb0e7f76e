"""Map tab: dots, names, selection, the table, keyboard, and the largest number of features of an SAE."""

import math
import re
import struct
from urllib.parse import parse_qs, urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

CANVAS = "#section-map canvas.overlay"
DRAWN = "#section-map .canvas[data-points='48']"
DOTS = "document.querySelector('#section-map canvas.dots')"
MANY, WIDE = 65_536, 256
"""As many dots as a large SAE has features, in a square of so many a side."""


@pytest.fixture
def tab(page):
    return on_map(page)


def on_map(page, drawn=DRAWN):
    page.click("#tab-map")
    page.wait_for_selector(drawn)
    page.evaluate(
        """async () => { const { mapData } = await import('./page/map/map_data.js');
        while (mapData.known < mapData.n) await new Promise((done) => setTimeout(done, 20));
        await new Promise(requestAnimationFrame); }"""  # what was asked for before it is drawn by then
    )
    return page


def place(page, i):
    """Where on the page a dot is when all are in sight, found from what the server said and nothing of the page's own."""
    box = page.locator(CANVAS).bounding_box()
    points = page.evaluate("import('./page/map/map_data.js').then(({ mapData }) => [...mapData.points])")
    xs, ys = points[::2], points[1::2]
    scale = min((box["width"] - 48) / (max(xs) - min(xs)), (box["height"] - 48) / (max(ys) - min(ys)))
    x, y = (xs[i] - (max(xs) + min(xs)) / 2) * scale, (ys[i] - (max(ys) + min(ys)) / 2) * scale
    return box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 - y


def pixels(page):
    """How many pixels are not the ground's."""
    return page.evaluate(
        """() => { const c = document.querySelector('#section-map canvas.dots'), d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
        return d.reduce((n, p) => n + (p !== d[0]), 0); }"""
    )


def picture(page):
    return page.evaluate(f"{DOTS}.toDataURL()")


def drawn_anew(page, before):
    """Wait until the dots are not as they were."""
    page.wait_for_function(f"before => {DOTS}.toDataURL() !== before", arg=before)


def tells(page, name):
    """Wait until what is under the pointer is called so."""
    expect(page.locator("#section-map .tip")).to_have_text(name)


def lasso_all(page):
    box = page.locator(CANVAS).bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.down()
    for x, y in ((1, 0), (1, 1), (0, 1)):
        page.mouse.move(box["x"] + 4 + x * (box["width"] - 8), box["y"] + 4 + y * (box["height"] - 8), steps=3)
    page.mouse.up()


def large(page):
    """A server that has 65,536 features on a square."""
    step = 2 / (WIDE - 1)
    points = [v for i in range(MANY) for v in (i % WIDE * step - 1, i // WIDE * step - 1)]
    clusters = [{"name": f"quarter {c}", "x": c % 2 - 0.5, "y": c // 2 - 0.5, "size": MANY // 4} for c in range(4)]

    def meta(route):
        asked = parse_qs(urlparse(route.request.url).query)
        start, limit = int(asked["cursor"][0]), int(asked["limit"][0])
        rows = [
            {"id": f"large/{i}", "label": f"dot {i}", "density": 0.01, "max_activation": 1, "cluster": i % 4}
            for i in range(start, min(MANY, start + limit))
        ]
        more = str(start + limit) if start + limit < MANY else None
        route.fulfill(json={"clusters": clusters, "method": "umap", "total": MANY, "data": rows, "next_cursor": more})

    page.route("**/v1/features-map?format=bin", lambda r: r.fulfill(body=struct.pack(f"<{2 * MANY}f", *points)))
    page.route("**/v1/features-map/meta?*", meta)
    return page


def test_every_feature_is_a_dot_and_is_named_under_the_pointer(tab):
    assert pixels(tab) > 48 * 4
    page_at = place(tab, 1)
    tab.mouse.move(*page_at)
    tells(tab, "bridges")

    tab.mouse.click(*page_at)
    tab.wait_for_selector(".drawer h2:text('bridges')")
    tab.keyboard.press("Escape")
    assert tab.locator(".drawer").count() == 0
    assert tab.evaluate("document.activeElement.className").startswith("over")


def test_wheel_and_dragging_move_the_view_and_reset_takes_it_back(tab):
    x, y = place(tab, 1)
    tab.mouse.move(x, y)
    before = picture(tab)
    tab.mouse.wheel(0, -400)
    drawn_anew(tab, before)
    tab.mouse.move(x + 1, y)
    tells(tab, "bridges")  # one zooms towards the pointer

    tab.mouse.down()
    tab.mouse.move(x + 60, y - 40, steps=4)
    tab.mouse.up()
    tab.mouse.move(x + 60, y - 41)
    tells(tab, "bridges")
    assert tab.locator(".drawer").count() == 0

    tab.click("#map-reset")
    tab.mouse.move(*place(tab, 1))
    tells(tab, "bridges")


def test_two_fingers_zoom(opened):
    tab = on_map(opened(has_touch=True))
    x, y = place(tab, 1)
    touch = tab.context.new_cdp_session(tab)

    def fingers(kind, gap):
        points = [{"x": x - gap, "y": y, "id": 0}, {"x": x + gap, "y": y, "id": 1}] if gap else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = picture(tab)
    fingers("touchStart", 20)
    for gap in (40, 80, 160):
        fingers("touchMove", gap)
    fingers("touchEnd", 0)
    drawn_anew(tab, before)
    assert tab.locator(".drawer").count() == 0

    tab.mouse.move(x, y)
    tells(tab, "bridges")


@pytest.mark.parametrize("how", ["button", "shift"])
def test_lasso_chooses_what_it_goes_around(tab, how):
    tab.click("#map-lasso") if how == "button" else tab.keyboard.down("Shift")
    lasso_all(tab)
    tab.keyboard.up("Shift")

    assert tab.inner_text(".selection h3") == "48 features"
    assert tab.is_disabled("#selection-add")
    assert "At most 32 sliders" in tab.inner_text(".selection")
    assert tab.get_attribute("#map-lasso", "aria-pressed") == "false"


def test_chosen_features_go_to_sliders_or_to_the_features_tab(tab):
    x, y = place(tab, 1)
    tab.keyboard.down("Shift")
    tab.mouse.move(x - 12, y - 12)
    tab.mouse.down()
    for dx, dy in ((12, -12), (12, 12), (-12, 12)):
        tab.mouse.move(x + dx, y + dy, steps=3)
    tab.mouse.up()
    tab.keyboard.up("Shift")
    ids = tab.locator(".selection code").all_inner_texts()
    assert "small/1" in ids

    tab.click("#selection-add")
    tab.wait_for_selector("fieldset.row")
    assert tab.locator("fieldset.row code").all_inner_texts() == ids
    assert {tab.locator(".row .dose").nth(n).input_value() for n in range(len(ids))} == {"0.00"}
    tab.click("#selection-show")
    tab.wait_for_selector("#section-features [data-id='small/1']")
    assert tab.locator("#section-features [role=row][data-id]").count() == len(ids)


def test_search_dims_all_other_dots_and_enter_goes_there(tab):
    tab.fill("[data-key=map-find]", "bridges")
    assert tab.inner_text("#section-map .matches") == "1 feature"
    tab.press("[data-key=map-find]", "Enter")
    tab.locator(CANVAS).focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".drawer h2:text('bridges')")


def test_colours_can_tell_how_often_features_fire(tab):
    before = picture(tab)
    tab.select_option("#map-colour", "density")
    drawn_anew(tab, before)
    tab.select_option("#map-colour", "cluster")
    tab.wait_for_function(f"before => {DOTS}.toDataURL() === before", arg=before)
    assert picture(tab) == before


def test_keyboard_moves_zooms_and_opens_what_is_in_the_middle(tab):
    tab.locator("#map-fullscreen").focus()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.matches('canvas.overlay')")
    first = tab.inner_text("#section-map .middle-feature")
    assert re.match("Near the middle: .+", first)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp"):
        tab.keyboard.press(key)
    assert tab.inner_text("#section-map .middle-feature") != first
    tab.keyboard.press("0")
    assert tab.inner_text("#section-map .middle-feature") == first
    tab.keyboard.press("+")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".drawer .figures")
    assert tab.inner_text(".drawer h2") == first.removeprefix("Near the middle: ")


def test_table_has_the_same_features_by_cluster_for_keyboard_and_reader(tab):
    tab.click("#map-list")
    assert tab.is_hidden(CANVAS)
    sizes = [int(n) for n in tab.locator(".clusters td.number").all_inner_texts()]
    assert sum(sizes) == 48

    first = tab.locator(".clusters th button").first
    first.focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert tab.locator(".clusters .points li").count() == sizes[0]
    tab.locator(".clusters .points .plain").first.press("Enter")
    tab.wait_for_selector(".drawer .figures")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Select all of").first.click()
    assert tab.inner_text(".selection h3").startswith(str(sizes[0]))

    tab.fill("[data-key=map-find]", "bridges")
    assert tab.locator(".clusters td.number").all_inner_texts() == ["1"]


def test_feature_can_be_shown_on_the_map_from_elsewhere(page):
    page.evaluate("() => import('./page/shell/header.js').then((m) => m.openTab('map', { feature: 'small/1' }))")
    page.wait_for_selector(".drawer h2:text('bridges')")
    page.get_by_role("button", name="In Features").click()
    page.wait_for_selector("#section-features .drawer h2:text('bridges')")
    assert page.get_attribute("#tab-features", "aria-selected") == "true"


def test_full_screen_is_left_with_escape(tab):
    tab.click("#map-fullscreen")
    tab.wait_for_function(
        """wide => { const box = document.querySelector('#section-map').getBoundingClientRect();
        return box.x === 0 && box.y === 0 && box.width === wide; }""",
        arg=tab.viewport_size["width"],
    )
    tab.locator(CANVAS).focus()
    tab.keyboard.press("Escape")
    tab.wait_for_selector("body:not(.map-fullscreen)")
    assert tab.get_attribute("#map-fullscreen", "aria-pressed") == "false"


def test_map_that_cannot_be_loaded_says_why_and_can_be_tried_again(page):
    page.route("**/v1/features-map?format=bin", lambda r: r.fulfill(status=429, json={"error": {"message": "Torn."}}))
    page.click("#tab-map")
    page.wait_for_selector("#section-map .problem:text('Torn.')")
    page.unroute("**/v1/features-map?format=bin")
    page.click("#section-map .map-status button")
    page.wait_for_selector(DRAWN)
    assert page.locator("#section-map .problem").count() == 0


def test_sixty_five_thousand_dots_are_drawn_named_and_found(page):
    tab = on_map(large(page), f"#section-map .canvas[data-points='{MANY}']")
    assert pixels(tab) > MANY
    for i in (0, 32_896, MANY - WIDE, MANY - 1):
        tab.mouse.move(*place(tab, i))
        tells(tab, f"dot {i}")

    tab.fill("[data-key=map-find]", "large/47111")
    assert tab.inner_text("#section-map .matches") == "1 feature"
    tab.fill("[data-key=map-find]", "")
    tab.keyboard.down("Shift")
    lasso_all(tab)
    tab.keyboard.up("Shift")
    assert tab.inner_text(".selection h3") == f"{MANY:,} features"
    tab.click("#map-list")
    assert tab.locator(".clusters td.number").all_inner_texts() == [f"{MANY // 4:,}"] * 4


def test_names_that_would_touch_are_left_out(page):
    kept = page.evaluate(
        """() => import('./page/map/point_grid.js').then(({ placeLabels }) => placeLabels([['a', 50, 50], ['b', 60, 52], ['c', 50, 90], ['d', 2, 50]], () => 40, 200, 200).map(([n]) => n))"""
    )
    assert kept == ["a", "c"]


def test_grid_finds_what_a_look_at_every_point_finds(page):
    wrong = page.evaluate(
        """() => import('./page/map/point_grid.js').then(({ createGrid }) => {
        let seed = 7; const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647 * 2 - 1;
        const points = Float32Array.from({ length: 6000 }, random), grid = createGrid(points), wrong = [];
        for (let k = 0; k < 300; k++) {
          const x = 1.3 * random(), y = 1.3 * random(), reach = 0.2 * Math.abs(random());
          let best = -1, least = reach * reach;
          for (let i = 0; i < 3000; i++) { const far = (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2; if (far < least) { least = far; best = i; } }
          if (grid.nearest(x, y, reach) !== best) wrong.push([x, y, reach]);
        }
        return wrong; })"""
    )
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_canvas_has_the_pages_ground(opened, scheme):
    tab = on_map(opened(color_scheme=scheme))
    ground = [255, 255, 255] if scheme == "light" else [27, 29, 33]
    tab.wait_for_function(
        f"ground => {DOTS}.getContext('2d').getImageData(0, 0, 1, 1).data.slice(0, 3).join() === ground.join()",
        arg=ground,
    )
    assert tab.locator("#section-map canvas.dots").is_visible()


def test_phone_has_no_sideways_scroll_and_large_targets(opened):
    phone = on_map(opened(viewport={"width": 375, "height": 740}, has_touch=True))
    assert phone.evaluate("document.documentElement.scrollWidth") <= 375
    for name in ("#map-lasso", "#map-list", "#map-fullscreen", "#map-reset"):
        assert phone.locator(name).bounding_box()["height"] >= 44

    phone.locator(CANVAS).evaluate("node => node.scrollIntoView({ block: 'start' })")
    phone.touchscreen.tap(*place(phone, 1))
    phone.wait_for_selector("dialog.drawer[open] h2:text('bridges')")
    assert math.isclose(phone.locator("dialog.drawer").bounding_box()["width"], 375, abs_tol=1)


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 375, "height": 740}}])
def test_axe_finds_nothing_to_complain_of(opened, options):
    page = opened(**options)
    on_map(page)
    page.mouse.click(*place(page, 1))
    page.wait_for_selector(".drawer .figures")

    assert violations(page) == []

    page.keyboard.press("Escape")
    page.click("#map-list")
    page.get_by_role("button", name="Select all of").first.click()
    page.locator(".clusters th button").first.click()
    assert violations(page) == []


def violations(page):
    found = Axe().run(page, "#section-map").response["violations"]
    return [(v["id"], [n["html"] for n in v["nodes"]]) for v in found]
