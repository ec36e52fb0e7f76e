"""Import rules between packages and folders, from tests/architecture.toml."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.graph import cycle_in
from tests.support.paths import ROOT

RULES = tomllib.loads((ROOT / "tests" / "architecture.toml").read_text())


def python_files(place: str) -> list[Path]:
    target = ROOT / place
    found = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert found, f"{place} has no files"
    return found


def imports(path: Path) -> set[str]:
    """All modules that a file imports, for types alone as well, each with the packages that it is in."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 2)}


def type_only(path: Path) -> set[str]:
    """What is imported below `if TYPE_CHECKING:`, which makes no arrow at run time."""
    blocks = (
        n for n in ast.parse(path.read_text()).body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    )
    return {n.module for block in blocks for n in ast.walk(block) if isinstance(n, ast.ImportFrom) and n.module}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", RULES["ladder"])
def test_rooms_import_only_what_is_below_them(package):
    lines = RULES["ladder"][package]
    floor = {room: i for i, rooms in enumerate(lines) for room in rooms}
    rooms = {p.parent.name for p in (ROOT / package).glob("*/*.py")}
    assert rooms == floor.keys()
    wrong = set()
    for room, at in floor.items():
        above = {other for other, line in floor.items() if line <= at and other != room}
        for path in python_files(f"{package}/{room}"):
            wrong |= {(relative(path), o) for o in above if f"{package}.{o}" in imports(path)}
    assert not wrong


@pytest.mark.parametrize("package", RULES["ladder"])
def test_files_at_the_root_of_a_package_import_no_room(package):
    rooms = {f"{package}.{room}" for line in RULES["ladder"][package] for room in line}
    starts = {ROOT / package / "__main__.py"}  # `python -m server` is the command line
    files = {*(ROOT / package).glob("*.py")} - starts
    assert files
    assert not {(relative(p), n) for p in files for n in imports(p) & rooms}


@pytest.mark.parametrize("place", [*RULES["forbidden"], *RULES["also_forbidden"]])
def test_nothing_imports_what_it_must_not_know(place):
    banned = {*RULES["forbidden"].get(place, ()), *RULES["also_forbidden"].get(place, ())}
    patterns = [re.compile(re.escape(b).replace(r"\*", r"\w+")) for b in banned]
    wrong = set()
    for path in python_files(place):
        if path.name == "__init__.py":  # a package lists its own modules
            continue
        exempt = {*RULES["exempt"].get(relative(path), ())}
        wrong |= {(relative(path), n) for n in imports(path) - exempt if any(p.fullmatch(n) for p in patterns)}
    assert not {(path, n) for path, n in wrong if n.split(".")[0] not in RULES["exempt"].get(path, ())}


def test_no_command_imports_a_route():
    assert not {relative(p) for p in python_files("server/cli") if "server.api.routes" in imports(p)}


@pytest.mark.parametrize("package", ["steering", "server", "tiller", "ui"])
def test_files_import_each_other_in_no_circle(package):
    graph = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): imports(p) - type_only(p)
        for p in python_files(package)
        if p.name != "__init__.py"  # to import a module runs its packages first, which is no arrow of its own
    }
    assert graph
    assert not cycle_in(graph)


def test_the_client_needs_three_packages_and_no_more():
    names = {n.split(".")[0] for p in python_files("tiller") for n in imports(p)}
    assert names - sys.stdlib_module_names == {"tiller", "httpx", "httpx_sse", "pydantic"}


def test_the_environment_is_read_in_one_place():
    readers = {
        relative(p)
        for room in ("steering", "server", "tiller", "ui")
        for p in python_files(room)
        if "os.environ" in p.read_text() or "getenv(" in p.read_text()
    }
    assert readers == RULES["environment"].keys()
