"""The environment under which Gradio is imported: no analytics, and none of the settings for outgoing traffic.

Gradio makes an httpx client when it is imported. It sends nothing, but httpx reads proxies and certificates from the
environment and raises for an unknown scheme or a missing file: the server would not start because of a setting that
is meant for other traffic.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def gradio_environment() -> Iterator[None]:
    """Switch Gradio's analytics off; hide the variables for proxies and certificates, and put them back."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    hidden = [name for name in os.environ if name.lower().endswith("_proxy") or name in CERTIFICATES]
    values = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(values)
