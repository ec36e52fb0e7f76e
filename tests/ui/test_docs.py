"""API docs page: loads everything from this server."""

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_the_api_is_shown_without_any_other_host(opened, address):
    page = opened()
    page.goto(f"{address}/docs")
    page.wait_for_selector(".opblock-tag[data-tag=Chat]")
    page.click(".opblock-tag[data-tag=Chat]")
    page.click("#operations-Chat-create_chat_completion .opblock-summary-control")
    page.wait_for_selector("#operations-Chat-create_chat_completion .body-param__example, .opblock-body .example")
    expect(page.locator("#operations-Chat-create_chat_completion")).to_contain_text('"strength": 0.6')
    for status in ("200", "400", "429", "503"):
        page.wait_for_selector(f"td.response-col_status:text('{status}')")
