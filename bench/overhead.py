"""Cost of HTTP: `python -m bench.overhead` runs sixteen streams through a real server ÷ the same sixteen in the engine.

The server is a process of its own, as in deployment, and shares the machine's cores with the client that reads its
streams. Both sides answer the same chats with the same persona and count the same tokens.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx

from bench.lab import STREAMS, Lab, Ratio, by_turns, show, speed
from bench.live_server import serving
from server.engines.base import Generation, Sampling
from steering.catalogue.bundle import Bundle
from steering.catalogue.resolve import Catalogue
from steering.model.chat_template import EncodedChat, Message
from steering.spec import SteeringSpec

LENGTH = 256
QUESTION = "What should I do this weekend? It is number {}."


async def over_http(url: str, *, stream: bool, preset: str) -> float:
    """Tokens per second of sixteen requests at once, read from bare sockets: a parsing client would take CPU time."""

    async def one(number: int) -> int:
        body = {
            "model": preset,
            "messages": [{"role": "user", "content": QUESTION.format(number)}],
            "max_tokens": LENGTH,
            "ignore_eos": True,
            "temperature": 0,
        } | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
        request = httpx.Request("POST", f"{url}/v1/chat/completions", json=body, headers={"Connection": "close"})
        head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
        reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
        writer.write(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        answer = (await reader.read()).decode()
        writer.close()
        return int(re.findall(r'"completion_tokens": ?(\d+)', answer)[-1])

    start = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(i) for i in range(STREAMS))))
    return tokens / (time.perf_counter() - start)


async def overhead(bundle: Bundle, rounds: int, device: str) -> list[Ratio]:
    """Streams and whole answers through the server, and the same replies from the engine."""
    lab = Lab.named("embedded", str(bundle.folder), device)
    engine = lab.engine()
    preset = next(p for p in bundle.presets if p.id == "golden-gate")
    requests = [_asked(engine.encode_chat, Catalogue([bundle]), preset.steering, i) for i in range(STREAMS)]
    name = f"{bundle.info.name}@{preset.id}"
    with serving(bundle.folder, device) as url:
        m = await by_turns(
            {
                "engine": lambda: speed(engine, requests),
                "streams": lambda: over_http(url, stream=True, preset=name),
                "whole": lambda: over_http(url, stream=False, preset=name),
            },
            rounds,
        )
    await engine.close()
    return [
        Ratio("16 streams over HTTP ÷ engine", m.ratio("streams", "engine"), 0.9),
        Ratio("16 whole answers over HTTP ÷ engine", m.ratio("whole", "engine"), None),
        Ratio("engine, tokens/s", m.median("engine"), None),
    ]


def _asked(
    encode: Callable[[list[Message]], EncodedChat], catalogue: Catalogue, spec: SteeringSpec, number: int
) -> Generation:
    chat, resolved = encode([{"role": "user", "content": QUESTION.format(number)}]), catalogue.resolve(spec)
    plain = Generation(chat.ids, chat.assistant, True, resolved.edits, spec.fingerprint)
    return replace(plain, sampling=Sampling(max_tokens=LENGTH, temperature=0, ignore_eos=True))


def main() -> None:
    """Print the table; `--json` writes it as well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", type=Path, default=Path("sae_weights/harbor"))
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--device", default="cpu")
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    rows = asyncio.run(overhead(Bundle.open(args.bundle), args.rounds, args.device))
    show(f"HTTP, median of {args.rounds}", rows, args.json)


if __name__ == "__main__":
    main()
