"""The page that shows the API draws itself from this server alone."""

import pytest

pytestmark = pytest.mark.browser


def test_the_api_is_shown_without_any_other_host(opened, address):
    page = opened()
    page.goto(f"{address}/docs")
    page.wait_for_selector(".opblock-tag[data-tag=Chat]")
    page.click(".opblock-tag[data-tag=Chat]")
    page.click("#operations-Chat-create_chat_completion .opblock-summary-control")
    page.wait_for_selector("#operations-Chat-create_chat_completion .body-param__example, .opblock-body .example")
    said = page.locator("#operations-Chat-create_chat_completion").inner_text()
    assert '"strength": 0.6' in said
    assert {"200", "400", "429", "503"} <= set(page.locator("td.response-col_status").all_inner_texts())
