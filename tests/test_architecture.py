"""The arrows: who may import whom. One composition root, `server/cli/main.py`, puts the page into the server."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEB = {"fastapi", "starlette", "uvicorn", "gradio", "redis", "sqlite3", "vllm", "httpx"}
FORBIDDEN = {
    "steering": {"server", "client", "ui", "bench", "recipes", *WEB},
    "server": {"ui", "client", "gradio", "bench", "recipes", "tests"},
    "client": {"server", "steering", "ui", "bench", "recipes", "torch", "transformers", *WEB - {"httpx"}},
    "ui": {"server", "steering", "torch", "transformers", "redis", "sqlite3", "bench", "recipes"},
}
WITHIN = {
    "server/engines": {"server.store", "server.api.app", "fastapi", "sqlite3", "json"},
    "server/store": {"server.engines", "torch", "fastapi", "transformers"},
    "steering/train": {"transformers", "steering.model.hooks", "steering.model.activations"},
    "steering/spec.py": {"torch", "steering.sae"},
}
EXEMPT = {("server/cli/main.py", "ui"), ("server/cli/main.py", "bench")}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 2)}


def files(place: str) -> list[Path]:
    target = ROOT / place
    return [target] if target.is_file() else sorted(target.rglob("*.py"))


@pytest.mark.parametrize("place", [*FORBIDDEN, *WITHIN])
def test_arrows_point_one_way(place):
    banned = FORBIDDEN.get(place) or WITHIN[place]
    found = files(place)
    assert found
    wrong = {(p.relative_to(ROOT).as_posix(), n) for p in found for n in imports(p) & banned} - EXEMPT
    assert not wrong


def test_the_core_has_no_cycles():
    graph = {
        f"steering.{'.'.join(p.relative_to(ROOT / 'steering').with_suffix('').parts)}": imports(p)
        for p in files("steering")
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a cycle: {' → '.join((*path, name))}"
        if name not in done:
            for other in graph[name] & graph.keys() - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done


def test_the_client_needs_two_packages_and_no_more():
    names = {n.split(".")[0] for p in files("client") for n in imports(p)}
    assert names - sys.stdlib_module_names == {"client", "httpx", "pydantic"}


def test_the_environment_is_read_in_one_place():
    readers = {
        p.relative_to(ROOT).as_posix()
        for room in ("steering", "server", "client", "ui")
        for p in files(room)
        if {"os.environ", "os.getenv"} & imports(p) or "os.environ" in p.read_text() or "getenv(" in p.read_text()
    }
    set_for_libraries = {"server/cli/main.py", "server/telemetry/logging.py", "server/runtime/startup.py", "ui/page.py"}
    between_processes = {"server/engines/vllm/engine.py", "server/engines/vllm/plugin.py"}
    assert readers <= {"server/settings.py"} | set_for_libraries | between_processes
