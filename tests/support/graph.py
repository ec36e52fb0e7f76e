"""Graph of modules: a check that their imports have no cycle."""

from collections.abc import Mapping, Set
from typing import Any


def check_acyclic(graph: Mapping[Any, Set[Any]]) -> None:
    """Fail with the path of a cycle, if there is one; names that are no node of the graph are ignored."""
    done: set[Any] = set()

    def visit(name: Any, path: tuple[Any, ...]) -> None:
        assert name not in path, f"a cycle: {' → '.join(map(str, (*path, name)))}"
        if name not in done:
            for other in graph[name] & graph.keys() - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == graph.keys()
