"""Fixtures: one live server with the small bundle, and both Python clients behind one interface."""

import asyncio
import inspect

import pytest
import torch

from tests.support import small_bundle
from tests.support.live_server import serving
from tiller import AsyncTiller, Tiller


class Plain:
    """A client without `await`; what it yields, as a list."""

    def __init__(self, address, **options):
        self.address, self.options = address, options

    def __call__(self, method, *args, **given):
        with Tiller(self.address, **self.options) as tiller:
            found = getattr(tiller, method)(*args, **given)
            return list(found) if inspect.isgenerator(found) else found


class Awaited(Plain):
    """The same with `await`."""

    def __call__(self, method, *args, **given):
        async def ask():
            async with AsyncTiller(self.address, **self.options) as tiller:
                found = getattr(tiller, method)(*args, **given)
                return [x async for x in found] if inspect.isasyncgen(found) else await found

        return asyncio.run(ask())


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("client")
    with serving(small_bundle.write_bundle(folder / "bundle"), folder / "data") as (address, app):
        yield address, app


@pytest.fixture
def address(live):
    return live[0]


@pytest.fixture(params=[Plain, Awaited], ids=["plain", "awaited"])
def kind(request):
    return request.param


@pytest.fixture
def ask(kind, address):
    return kind(address)
