"""A real `tiller serve` for benchmarks: a process of its own on a free port."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx


def start_server(bundle: Path, data: Path, *options: str, **environment: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server and wait until it answers; returns its process and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--no-browser", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--bundle", str(bundle), "--data-dir", str(data), *options],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return process, url
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.terminate()
    raise RuntimeError("the server did not come up within a minute")


@contextmanager
def serving(bundle: Path, device: str = "cpu") -> Iterator[str]:
    """Yield the address of a server without a prefix cache that ends with the context."""
    with tempfile.TemporaryDirectory() as folder:
        process, url = start_server(bundle, Path(folder), "--device", device, TILLER_PREFIX_MB="0")
        try:
            yield url
        finally:
            process.terminate()
            process.wait(20)


@asynccontextmanager
async def client_of_server(bundle: Path, data: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server that ends with the context."""
    process, url = await asyncio.to_thread(start_server, bundle, data)
    try:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
