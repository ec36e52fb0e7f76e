"""A server with API keys in the browser: sign-in, key creation, separation of two users, and no way around."""

import re

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from server.auth.permissions import MINIMUM_ROLES
from tests.support import small_bundle
from tests.support.live_server import serving
from tests.ui.test_page import RANGE, finished, pick, send
from tests.ui.test_settings import settings_again
from ui.page import STATIC

pytestmark = pytest.mark.browser
ADMIN = "the-first-key-of-this-server-that-nobody-guesses"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    from ui.page import mount

    folder = tmp_path_factory.mktemp("guarded")
    with serving(small_bundle.write_bundle(folder / "bundle"), folder / "data", mount=mount, admin_key=ADMIN) as (
        address,
        _,
    ):
        yield address


@pytest.fixture
def person(browser, guarded):
    """Open the page as somebody with a key; several may be there at once."""
    contexts, wrong = [], []

    def come(secret, **options):
        context = browser.new_context(viewport={"width": 1360, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(guarded)
        page.fill("#key", secret)
        page.click("button[type=submit]")
        page.wait_for_selector("#cards .card")
        return page

    yield come
    for context in contexts:
        context.close()
    assert not wrong


def key(guarded, name, **about):
    headers = {"Authorization": f"Bearer {ADMIN}"}
    answer = httpx.post(f"{guarded}/v1/keys", json={"name": name, **about}, headers=headers)
    return answer.json()["secret"]


def serious(page):
    return [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_who_comes_without_a_key_is_asked_for_one_kindly(browser, guarded, scheme):
    page = browser.new_context(viewport={"width": 375, "height": 700}, color_scheme=scheme).new_page()
    page.goto(guarded)
    assert page.url.endswith("/sign-in")
    page.wait_for_function("document.activeElement.id === 'key'")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("button").bounding_box()["height"] >= 44
    page.fill("#key", "sk-tiller-wrong")
    page.click("button[type=submit]")
    assert "not known here" in page.inner_text("[role=alert]")
    assert serious(page) == []
    page.context.close()


def test_somebody_with_a_key_chats_and_is_known_by_it(person, guarded):
    page = person(key(guarded, "ada", role="creator", tenant="red", days=30))
    pick(page)
    send(page, "hello there")
    finished(page)
    page.click("#tab-settings")
    page.wait_for_selector("#keys")
    assert "You are ada of red, with the role creator." in page.inner_text("#keys")
    assert page.locator("#new-key").count() == 0
    assert page.inner_text("#me") == "ada"
    page.click("#sign-out")
    page.wait_for_url("**/sign-in")
    page.goto(guarded)
    assert page.url.endswith("/sign-in")


def test_an_admin_makes_a_key_sees_it_once_and_deletes_it(person, guarded):
    page = person(ADMIN)
    page.click("#tab-settings")
    page.fill("#key-name", "bob")
    page.select_option("#key-role", "viewer")
    page.click("#create-key")
    secret = page.inner_text("#new-secret")
    me = httpx.get(f"{guarded}/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert (me["owner"], me["role"]) == ("bob", "viewer")
    assert serious(page) == []
    page.click("#secret-done")
    page.wait_for_selector("#new-secret", state="detached")
    assert secret not in page.content()
    page.reload()
    page.wait_for_selector("[aria-label='Delete the key bob']")
    assert secret not in page.content()
    page.click("[aria-label='Delete the key bob']")
    page.click("#confirm-yes")
    page.wait_for_selector("[aria-label='Delete the key bob']", state="detached")
    assert httpx.get(f"{guarded}/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


@pytest.fixture
def unguarded(browser, tmp_path):
    """The settings of a server that has no keys yet, and the server's address."""
    from ui.page import mount

    context = browser.new_context(viewport={"width": 1360, "height": 900})
    with serving(small_bundle.write_bundle(tmp_path / "bundle"), tmp_path / "data", mount=mount) as (address, _):
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#cards .card")
        page.click("#tab-settings")
        page.wait_for_selector("#new-key")
        yield page, address
        context.close()


def test_the_first_key_is_an_admins_is_shown_until_it_is_closed_and_signs_its_maker_in(unguarded):
    page, address = unguarded
    assert page.locator("#key-role option").all_inner_texts() == ["admin"]
    assert "The first key is an admin's" in page.inner_text("#key-role-text")
    page.fill("#key-name", "me")
    page.click("#create-key")
    secret = page.inner_text("#new-secret")
    assert page.locator("dialog button:text('Copy')").count() == 1
    assert "now signed in with it" in page.inner_text("#next-step")
    assert serious(page) == []
    page.mouse.click(5, 5)  # beside the dialog
    page.wait_for_timeout(1500)  # longer than it took until the page went away
    assert page.inner_text("#new-secret") == secret

    page.click("#secret-done")
    page.wait_for_selector("[aria-label='Delete the key me']")
    assert "You are me, with the role admin." in page.inner_text("#keys")
    assert page.locator("#key-role option").count() == 5
    assert httpx.get(f"{address}/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()["role"] == "admin"
    page.reload()
    page.wait_for_selector("#sign-out")
    assert secret not in page.content()


def test_the_first_key_is_shown_even_where_its_maker_cannot_be_signed_in(unguarded):
    page, _ = unguarded
    page.route(
        "**/sign-in", lambda route: route.fulfill(status=429) if route.request.method == "POST" else route.continue_()
    )
    page.fill("#key-name", "me")
    page.click("#create-key")
    page.wait_for_selector("#new-secret")
    assert "sign in with this one" in page.inner_text("#next-step")
    page.evaluate("import('./page/lib/api.js').then(({ api }) => api('me').catch(() => {}))")
    page.wait_for_timeout(500)
    assert page.locator("#new-secret").count() == 1
    page.click("#secret-done")
    page.wait_for_selector("form[action=sign-in]")


def test_a_key_that_is_deleted_takes_its_page_to_the_sign_in(person, guarded):
    page = person(key(guarded, "short"))
    headers = {"Authorization": f"Bearer {ADMIN}"}
    held = next(k for k in httpx.get(f"{guarded}/v1/keys", headers=headers).json()["data"] if k["name"] == "short")
    httpx.delete(f"{guarded}/v1/keys/{held['id']}", headers=headers)
    page.click("#tab-settings")
    page.wait_for_selector("#key:focus")  # a wait for the address fails if the page itself goes there a second time
    assert page.url.endswith("/sign-in")


def test_a_viewers_sliders_are_refused_with_the_reason(person, guarded):
    page = person(key(guarded, "eve", role="viewer"))
    pick(page)
    page.fill(".times", "0.25")  # how much of a persona is anybody's choice
    page.press(".times", "Enter")
    send(page, "hello")
    finished(page)
    link = [{"id": "small/1", "strength": 0.8}, {"id": "small/2", "strength": 0.5}]
    page.evaluate(
        "(features) => import('/page/panel/slider_state.js').then((m) => m.loadSteering({ features, unit: 'dose' }))",
        link,
    )
    page.wait_for_function("document.querySelector('.total-load').innerText.includes('steers at most 0')")
    send(page, "hello")
    page.wait_for_selector(".chat :text('steers at most 0') >> visible=true")
    assert page.locator("#steered-pane .verdict").count() == 1  # what was refused said nothing that could be judged


def sign_in(page, secret):
    page.fill("#key", secret)
    page.click("button[type=submit]")
    page.wait_for_selector("#cards .card", state="attached")


def kept(page):
    """All that the page has in the browser, as one text."""
    return page.evaluate("JSON.stringify([{ ...sessionStorage }, { ...localStorage }])")


def chatted(page, words):
    """Leave something of everything that is kept: sliders, a conversation, a draft."""
    pick(page)
    send(page, words)
    finished(page)
    page.fill("#message textarea", f"a draft after {words}")


def untouched(page, words):
    return words not in page.content() + kept(page) and page.locator(RANGE).count() == 0


def test_nothing_of_who_signs_out_is_left_in_the_browser(person, guarded):
    page = person(key(guarded, "cleo", role="creator"))
    chatted(page, "nobody else may read this")
    other = page.context.new_page()
    other.goto(guarded)
    other.wait_for_selector("#cards .card")
    other.fill("#message textarea", "nor this in another tab")
    page.click("#tab-settings")
    page.click("#sign-out")
    page.wait_for_url("**/sign-in")
    assert kept(page) == "[{},{}]"
    other.wait_for_url("**/sign-in")
    assert kept(other) == "[{},{}]"

    page.go_back()
    page.wait_for_url("**/sign-in")
    sign_in(page, key(guarded, "dora", role="creator"))
    assert untouched(page, "nobody else may read this")
    assert page.input_value("#message textarea") == ""


def test_who_signs_in_after_somebody_whose_key_is_gone_sees_nothing_of_theirs(person, guarded):
    gone, again = (key(guarded, "flora", role="creator") for _ in range(2))
    page = person(gone)
    chatted(page, "for my eyes alone")
    page.context.clear_cookies()
    page.reload()
    sign_in(page, key(guarded, "gina", role="creator"))
    assert page.locator(RANGE).count() == 0
    assert "for my eyes alone" not in page.content()
    assert page.input_value("#message textarea") == ""

    page.context.clear_cookies()
    page.reload()
    sign_in(page, again)  # a person is who they are, whichever key they have
    page.wait_for_selector(RANGE, state="attached")
    assert "for my eyes alone" in page.inner_text("#steered-pane")
    assert page.input_value("#message textarea") == "a draft after for my eyes alone"


def test_what_was_said_before_the_first_key_stays_its_makers(unguarded):
    page, _ = unguarded
    page.click("#tab-chat")
    chatted(page, "said before")
    settings_again(page)
    page.fill("#key-name", "me")
    page.click("#create-key")
    page.click("#secret-done")
    page.wait_for_selector("#sign-out")
    page.reload()
    page.wait_for_selector("#sign-out")
    page.click("#tab-chat")
    assert "said before" in page.inner_text("#steered-pane")
    assert '"tiller.talk"' not in kept(page)


def test_what_is_typed_for_a_new_key_outlives_that_the_card_is_drawn_anew(unguarded):
    page, _ = unguarded
    page.fill("#key-name", "me")
    page.fill("#key-days", "30")
    page.click("#tab-chat")
    settings_again(page)
    assert (page.input_value("#key-name"), page.input_value("#key-days")) == ("me", "30")
    page.click("#create-key")
    page.click("#secret-done")
    page.wait_for_selector("#sign-out")
    assert page.input_value("#key-name") == ""


def test_two_people_never_see_each_others_personas(person, guarded):
    ada, bob = (person(key(guarded, n, role="creator", tenant="red")) for n in ("anna", "ben"))
    pick(ada)
    ada.click("#save-as")
    ada.fill("#preset-name", "Mine alone")
    ada.click("#preset-save")
    ada.wait_for_selector("#cards [data-preset=mine-alone]")
    bob.reload()
    bob.wait_for_selector("#cards .card")
    assert bob.locator("#cards [data-preset=mine-alone]").count() == 0


def opened(page, tab, ready):
    page.click(f"#tab-{tab}")
    page.wait_for_selector(ready)


def refused(page):
    """What the page asks and the server answers with 403."""
    seen = []
    page.on("response", lambda r: seen.append(r.url) if r.status == 403 else None)
    return seen


def test_what_a_viewers_key_does_not_allow_is_off_and_says_why(person, guarded):
    page = person(key(guarded, "vera", role="viewer"))
    seen = refused(page)
    pick(page)
    assert page.is_disabled("#save-as")
    assert "takes a key with the role creator; yours is viewer" in page.get_attribute("#save-as", "title")
    assert page.is_disabled(RANGE)
    assert "steers by personas as they are" in page.inner_text(".rows .about")
    assert page.locator("#wish, #find-feature").count() == 0
    page.locator("#total-strength").press("ArrowLeft")
    send(page, "hello there")
    finished(page)
    opened(page, "features", "#section-features [data-plus]")
    assert page.locator("#section-features [data-plus]:enabled, #section-features .star:enabled").count() == 0
    opened(page, "compare", "#sweep .empty")
    assert page.locator("#sweep-run").count() == 0
    opened(page, "train", "#revisions")
    assert page.locator("#job-start").count() == 0
    assert "takes a key with the role admin" in page.inner_text("#section-train [aria-label=Jobs]")
    opened(page, "settings", "#keys")
    assert page.locator("#import-file").count() == 0
    assert seen == []
    assert serious(page) == []


def test_a_creator_has_all_but_the_trainers_controls(person, guarded):
    page = person(key(guarded, "clara", role="creator"))
    pick(page)
    assert page.is_enabled("#save-as")
    assert page.is_enabled(RANGE)
    assert page.is_enabled("#suggest")
    opened(page, "features", "#section-features .star")
    assert page.is_enabled("#section-features .star >> nth=0")
    opened(page, "train", "#revisions")
    assert page.locator("#job-start").count() == 0


def test_the_page_asks_of_routes_that_there_are():
    names = [
        n
        for f in STATIC.rglob("*.js")
        for n in re.findall(r'"((?:GET|POST|PUT|PATCH|DELETE) /v1/[^"]+)"', f.read_text())
    ]

    assert names
    assert {tuple(n.split(" ")) for n in names} <= MINIMUM_ROLES.keys()
