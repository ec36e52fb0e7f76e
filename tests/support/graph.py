"""Import graphs: find a cycle."""

from collections.abc import Mapping, Set
from typing import Any


def cycle_in(graph: Mapping[Any, Set[Any]]) -> str:
    """The path of a cycle, or an empty string; names that are no node of the graph are ignored."""
    done: set[Any] = set()

    def visit(name: Any, path: tuple[Any, ...]) -> str:
        if name in path:
            return " → ".join(map(str, (*path, name)))
        if name in done:
            return ""
        found = next(filter(None, (visit(other, (*path, name)) for other in graph[name] & graph.keys() - {name})), "")
        done.add(name)
        return found

    return next(filter(None, (visit(name, ()) for name in graph)), "")
