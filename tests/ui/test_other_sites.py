"""CORS in a real browser: a page of another origin may call the API where it is allowed, and nothing else."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support import small_bundle
from tests.support.live_server import serving

pytestmark = pytest.mark.browser
CALL = """async (url) => {
  const body = JSON.stringify({ model: "small", messages: [{ role: "user", content: "hello" }], max_tokens: 4 });
  try {
    const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    return [answer.status, answer.headers.get("x-tiller-steered"), (await answer.json()).object];
  } catch (error) { return String(error); }
}"""


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_another_sites_page_chats_where_it_is_let_in_and_reads_nothing_elsewhere(browser, elsewhere, tmp_path):
    page = browser.new_page()
    page.goto(elsewhere)
    bundle = small_bundle.write_bundle(tmp_path / "bundle")
    with serving(bundle, tmp_path / "in", origins=(elsewhere,)) as (address, _):
        assert page.evaluate(CALL, f"{address}/v1/chat/completions") == [200, "false", "chat.completion"]
    with serving(bundle, tmp_path / "out") as (address, _):
        assert "Failed to fetch" in page.evaluate(CALL, f"{address}/v1/chat/completions")
    page.close()
