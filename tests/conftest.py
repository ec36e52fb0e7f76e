"""Fixtures for all tests: no trainer unless the test is about it, one Redis for all, and generous timeouts."""

import inspect
import os

import pytest

os.environ.setdefault("TILLER_TRAINER", "false")
os.environ.setdefault("TILLER_BUNDLE", "harbor")  # which brings its own model
for name in ("REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):  # of whoever runs the tests
    os.environ.pop(name, None)
os.environ["COLUMNS"] = "160"  # tables of the command line are not cut off, wherever tests run

try:
    import httpx
except ImportError:  # not every environment of the tests has it
    pass
else:
    # Where a test names no limit, httpx's own would be five seconds, which a busy machine may take: who hangs, hangs for longer.
    patience = inspect.signature(httpx.Client).parameters["timeout"].default
    patience.connect = patience.read = patience.write = patience.pool = 120


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """The folder of the small bundle; rooms with another bundle have a fixture of their own."""
    import torch  # not every environment of the tests has what the small bundle needs

    from tests.support import small_bundle

    torch.set_num_threads(1)
    return small_bundle.write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """The address of a real redis-server; whoever writes there takes a database and empties it."""
    from tests.support.redis_server import (
        running,  # needs a web server's packages, which not every environment of the tests has
    )

    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
