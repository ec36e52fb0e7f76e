"""Mutations for fuzzing: seeded changes to valid JSON documents and files."""

import copy
import json
import os
import random
import signal
from contextlib import contextmanager

N = int(os.environ.get("TILLER_FUZZ", "8"))
"""Changes of each kind that are tried: `TILLER_FUZZ=2000 pytest tests/fuzz` for a long run."""
LONGEST = 100
"""Seconds that one of them may take: none of them hangs, on a busy machine either."""
HOSTILE = [
    None, True, False, 0, -1, 1, 10**30, -(10**30), 2**63, 1e308, -1e308, 1e-320, float("nan"), float("inf"), -0.0,
    "", " ", "0", "-1", "nan", "\x00", "\ud800", "\U0010ffff", "a" * 5000, "../../etc/passwd", "%00", "{}", "[]",
    "＀", "ﬀ", "‮", "1e999", "small/1", "small/", "/", "small/1/1", "vector/x", "small@bridge", "@",
    [], [None], [[]], [0] * 300, [{}], {}, {"": None}, {"id": None}, {"$ref": "#"}, {"__proto__": {"x": 1}},
]  # fmt: skip


def nested(depth: int):
    """A list in a list in a list."""
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


def changed(document, draw: random.Random):
    """A copy with one to three places that are otherwise."""
    found = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = _one(found, draw)
    return found


def as_json(document) -> str:
    """JSON as loosely as Python writes it: NaN, lone surrogates and all."""
    return json.dumps(document)


def broken(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four places that are otherwise."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, size = draw.randrange(len(found) + 1), draw.choice((1, 1, 2, 4, 8, 64))
        match draw.randrange(6):
            case 0:
                del found[at:]
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = draw.randbytes(size)
            case 3:
                found[at : at + size] = draw.randbytes(size)
            case 4:
                found[at:at] = found[:size]
            case 5 if at < len(found):
                found[at] ^= 1 << draw.randrange(8)
    return bytes(found)


def seeds(kind: str):
    """A source of chance for each try, the same in each run."""
    return ((n, random.Random(f"{kind}-{n}")) for n in range(N))


@contextmanager
def in_time(what: object):
    """Fail if it hangs."""

    def late(*_):
        raise TimeoutError(f"longer than {LONGEST} s: {str(what)[:300]}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _places(document, path=()):
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from _places(value, (*path, key))


def _one(document, draw: random.Random):
    places = [p for p in _places(document) if p]
    if not places:
        return draw.choice(HOSTILE)
    *way, last = draw.choice(places)
    around = document
    for key in way:
        around = around[key]
    match draw.randrange(8):
        case 0:
            around.pop(last)
        case 1 if isinstance(around, dict):
            around[draw.choice(("extra", "", "__class__", "model_config", str(last).upper()))] = draw.choice(HOSTILE)
        case 2 if isinstance(around, list):
            around += [copy.deepcopy(around[last])] * draw.choice((1, 2, 70))
        case 3:
            around[last] = nested(draw.choice((5, 60, 150)))
        case 4 if isinstance(around[last], str):
            text = around[last]
            at = draw.randrange(len(text) + 1)
            around[last] = text[:at] + str(draw.choice(HOSTILE)) + text[at:]
        case 5 if isinstance(around[last], int | float) and not isinstance(around[last], bool):
            around[last] *= draw.choice((-1, 0, 1e3, 1e300, 0.5))
        case _:
            around[last] = copy.deepcopy(draw.choice(HOSTILE))
    return document
