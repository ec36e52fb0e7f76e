"""JavaScript and CSS files of the page: imports without cycles, and line widths."""

import re

from tests.support.graph import cycle_in
from ui.page import STATIC

IMPORT = re.compile(
    r"""^\s*(?:import|export)\b[^;]*?\bfrom\s+["'](\.[^"']+)["']|^\s*import\s+["'](\.[^"']+)["']""", re.M
)


def imports(path):
    """The modules that a module imports when it is loaded; what it imports later, as tabs are, makes no cycle."""
    found = (a or b for a, b in IMPORT.findall(path.read_text(encoding="utf-8")))
    return {(path.parent / name).resolve() for name in found}


GRAPH = {path: imports(path) for path in sorted(STATIC.resolve().rglob("*.js"))}


def test_every_import_is_a_file_that_is_there():
    assert len(GRAPH) > 30
    assert sum(map(len, GRAPH.values())) > 100
    assert not [other for others in GRAPH.values() for other in others - GRAPH.keys()]


def test_modules_import_each_other_in_no_circle():
    assert len(GRAPH) > 5
    assert not cycle_in(GRAPH)


def test_lib_imports_nothing_outside_lib():
    lib = STATIC.resolve() / "lib"
    inside = {path: others for path, others in GRAPH.items() if path.parent == lib}
    assert inside
    assert not [(p.name, o.name) for p, others in inside.items() for o in others if o.parent != lib]


def test_no_line_is_wider_than_prettier_is_told():
    files = [*STATIC.rglob("*.js"), *STATIC.rglob("*.css")]
    lines = [(p.name, n, line) for p in files for n, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)]
    assert len(lines) > 8000
    assert not [(name, n) for name, n, line in lines if len(line) > 100]
