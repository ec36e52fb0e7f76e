"""Generate tiller/sync_client.py from tiller/async_client.py, as httpcore generates its synchronous half.

python tools/unasync.py            write it
python tools/unasync.py --check    exit with 1 if it is not what would be written
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE, TARGET = ROOT / "tiller" / "async_client.py", ROOT / "tiller" / "sync_client.py"
NOTE = "# Generated from async_client.py by tools/unasync.py; change that file.\n"
REPLACEMENTS = (
    (r"AsyncTiller", "Tiller"),
    (r"AsyncClient", "Client"),
    (r"AsyncGenerator\[([^\[\]]*), None\]", r"Generator[\1, None, None]"),
    (r"AsyncGenerator", "Generator"),
    (r"AsyncIterator", "Iterator"),
    (r"asynccontextmanager", "contextmanager"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_sse\b", "iter_sse"),
    (r"import asyncio\b", "import time"),
    (r"asyncio\.sleep", "time.sleep"),
    (r"async with", "with"),
    (r"async for", "for"),
    (r"async def", "def"),
    (r"\bawait ", ""),
    (r"Asynchronous client", "Synchronous client"),
)


def synchronous(source: str) -> str:
    """The same client without `async` and `await`."""
    for pattern, replacement in REPLACEMENTS:
        source = re.sub(pattern, replacement, source)
    head, _, rest = source.partition("\n\n")
    return formatted(f"{head}\n\n{NOTE}{rest}")


def formatted(source: str) -> str:
    """Sort its imports and format it as `make format` does."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        words = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        source = subprocess.run(words, input=source, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return source


def main() -> None:
    """Write the file, or compare it."""
    wanted = synchronous(SOURCE.read_text())
    if sys.argv[1:] != ["--check"]:
        TARGET.write_text(wanted)
    elif TARGET.read_text() != wanted:
        raise SystemExit("tiller/sync_client.py is not what tools/unasync.py makes of async_client.py: make format")


if __name__ == "__main__":
    main()
