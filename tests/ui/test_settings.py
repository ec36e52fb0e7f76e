"""Settings tab: server information, stored user data, export and import."""

import ast
import json
from pathlib import Path

import httpx
import pytest

from tests.support.waiting import until
from tests.ui.conftest import Late
from tests.ui.test_page import RANGE, count, dose, finished, pick, send, strength

pytestmark = pytest.mark.browser


@pytest.fixture
def settings(page):
    pick(page)
    page.click("#tab-settings")
    page.wait_for_selector("#code-blocks pre")
    return page


def settings_again(page):
    """Go to the tab once more, and wait until it is drawn from what the server says now: until then a click may meet what goes."""
    page.evaluate("document.querySelector('#api-base').old = true")
    page.click("#tab-settings")
    page.wait_for_function("!document.querySelector('#api-base').old")


def agree(page):
    page.check("#consent")
    page.wait_for_selector("#toast")


def user(page):
    return page.inner_text("#me")


def consent(address, who):
    return httpx.get(f"{address}/v1/training/consent", params={"user": who}).json()


def test_address_server_and_live_code_are_shown(settings, address):
    assert settings.inner_text("#api-base") == f"{address}/v1"
    assert "small" in settings.inner_text("[aria-label='This server']")
    curl, openai, client, request = settings.locator("#code-blocks pre").all_inner_texts()
    assert json.loads(request)["steering"]["features"][0]["strength"] == 0.8
    assert "curl" in curl
    for python in (openai, client):
        assert ast.parse(python)


def test_nothing_is_learnt_until_somebody_agrees_and_all_is_deleted_when_they_take_it_back(settings, address):
    who = user(settings)
    assert not consent(address, who)["consent"]

    agree(settings)
    assert consent(address, who)["consent"]
    settings.click("#tab-chat")
    send(settings, "hello there")
    finished(settings)
    until(lambda: consent(address, who)["texts"])

    settings_again(settings)
    settings.uncheck("#consent")
    settings.wait_for_function("document.querySelector('#toast')?.textContent.includes('deleted')")
    assert consent(address, who) == {**consent(address, who), "consent": False, "texts": 0}


def test_consent_that_is_given_while_the_tab_asks_is_not_taken_back_on_the_page_by_the_older_answer(settings):
    late = Late(settings, "**/v1/training/consent?*", times=1)
    settings.click("#tab-chat")
    settings.click("#tab-settings")
    late.asked()
    agree(settings)
    with settings.expect_response("**/v1/training/consent?*"):
        late.come()
    settings.wait_for_timeout(300)
    assert settings.is_checked("#consent")


def test_who_wants_to_be_forgotten_is_after_a_confirmation(settings, address):
    who = user(settings)
    httpx.put(f"{address}/v1/training/consent", json={"user": who, "consent": True})
    settings.click("#erase-me")
    settings.click("#confirm-no")
    assert consent(address, who)["consent"]
    settings.click("#erase-me")
    settings.click("#confirm-yes")
    settings.wait_for_function("document.querySelector('#toast')?.textContent.includes('Deleted: 1 consents')")
    assert not consent(address, who)["consent"]


def test_conversations_are_deleted_after_a_confirmation(settings, address):
    who = user(settings)
    agree(settings)
    settings.click("#tab-chat")
    send(settings, "hello there")
    finished(settings)
    until(lambda: consent(address, who)["texts"])
    settings_again(settings)
    settings.wait_for_selector("#erase-texts:not([disabled])")
    settings.click("#erase-texts")
    settings.click("#confirm-no")
    assert consent(address, who)["texts"]

    settings.click("#erase-texts")
    settings.click("#confirm-yes")
    settings.wait_for_selector("#erase-texts[disabled]")
    assert consent(address, who)["texts"] == 0


def test_export_and_import_bring_a_persona_back(settings, address):
    body = {"id": "mine", "name": "Mine", "steering": {"features": [{"id": "small/1", "strength": 0.4}]}}
    httpx.post(f"{address}/v1/presets", json=body).raise_for_status()
    with settings.expect_download() as download:
        settings.click("#export-all")
    file = Path(download.value.path())
    assert json.loads(file.read_text())["object"] == "export"
    httpx.delete(f"{address}/v1/presets/mine")

    settings.set_input_files(
        "#import-file", {"name": "x.json", "mimeType": "application/json", "buffer": file.read_bytes()}
    )
    settings.wait_for_function("document.querySelector('#toast')?.textContent.includes('Imported')")
    assert httpx.get(f"{address}/v1/presets/mine").json()["name"] == "Mine"
    assert settings.locator("#preset-select option[value=mine]").count() == 1
    httpx.delete(f"{address}/v1/presets/mine")


@pytest.mark.parametrize("file", [b"no json", b"[]", b'{"object": "export", "version": 99}'])
def test_rubbish_file_is_refused_with_words(settings, file):
    settings.set_input_files("#import-file", {"name": "x.json", "mimeType": "application/json", "buffer": file})
    settings.wait_for_selector("#toast.problem")
    assert settings.inner_text("#toast").strip()


def test_theme_is_chosen_and_kept(settings):
    settings.select_option("#theme", "dark")
    assert settings.evaluate("document.body.classList.contains('dark')")
    settings.reload()
    settings.wait_for_function("document.body.classList.contains('dark')")


def test_browser_forgets_everything_on_request(settings):
    settings.click("#tab-chat")
    dose(settings, "0.4")
    send(settings, "hello there")
    finished(settings)
    before = settings.evaluate("localStorage['tiller.me']")
    settings_again(settings)
    settings.click("#erase-browser")
    settings.click("#confirm-yes")
    settings.wait_for_selector("#cards .card")

    assert settings.locator(RANGE).count() == 0
    assert count(settings, "steered", "user") == 0
    assert settings.evaluate("localStorage['tiller.me']") != before


def test_sliders_stay_while_tabs_are_switched(settings):
    settings.click("#tab-chat")
    assert strength(settings) == 0.8
