"""Security headers: every answer has them, errors and streams too."""

import pytest

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.mark.parametrize("path", ["/", "/docs", "/sign-in", "/livez", "/v1/models", "/v1/none", "/none"])
def test_every_answer_keeps_other_sites_from_framing_it_and_browsers_from_guessing_its_type(http, path):
    headers = http.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert ("default-src 'none'" in headers["content-security-policy"]) == path.startswith("/v1/")


def test_streams_and_refusals_have_them_too(http):
    streamed = http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    wrong = http.get("/v1/models", headers={"Host": "evil.example"})
    large = http.post("/v1/chat/completions", content=b"x" * (2 << 20))
    for answer, status in ((streamed, 200), (wrong, 421), (large, 413)):
        assert answer.status_code == status
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
