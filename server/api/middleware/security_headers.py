"""Security headers: what browsers may do with an answer. No other site's page may show the page in a frame, where a click
would be meant for something else.
"""

from starlette.datastructures import MutableHeaders

PAGE_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio writes its configuration and styles into the document, and makes functions of its components' code.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Nothing of another host is loaded, asked or sent to."""
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Answers of the API are data, whatever they hold."""


def add_security_headers(headers: MutableHeaders, path: str) -> None:
    """Add the headers to an answer that does not bring them itself."""
    headers.setdefault("content-security-policy", API_POLICY if path.startswith("/v1/") else PAGE_POLICY)
    headers.setdefault("x-content-type-options", "nosniff")
    headers.setdefault("x-frame-options", "DENY")
    headers.setdefault("referrer-policy", "same-origin")
