"""No module of the three packages imports itself through others, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    f"drmad_{folder}": ROOT / folder / f"drmad_{folder}"
    for folder in ("client", "workers", "service")
}

Graph = Mapping[str, frozenset[str]]


def module_files() -> dict[str, list[Path]]:
    """The files of each module; a stub is one of them, for it lists what a package loads lazily."""
    found: dict[str, list[Path]] = {}
    for name, folder in PACKAGES.items():
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.pyi")]):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join([name, *(part for part in parts if part != "__init__")])
            found.setdefault(module, []).append(path)
    return found


def imports_of(module: str, path: Path, modules: Iterable[str]) -> Iterator[str]:
    """The modules that a file imports, at its top, in functions and for type checkers alike.

    Importing a module runs the packages around it too; these implied imports are left out.
    """
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in modules or base in modules:
                    yield inner if inner in modules else base


def import_graph() -> Graph:
    files = module_files()
    return {
        module: frozenset(i for path in paths for i in imports_of(module, path, files)) - {module}
        for module, paths in files.items()
    }


def cycles(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(graph[module]):
            if imported not in order:
                visit(imported)
            if imported in stack:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == order[module]:
            first = stack.index(module)
            component = stack[first:]
            del stack[first:]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(found)


def test_a_cycle_is_found_wherever_it_is_closed(tmp_path: Path) -> None:
    chain = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set[str]()}
    graph = {module: frozenset(imported) for module, imported in chain.items()}
    assert cycles(graph) == [["a", "b", "c"]]
    lazy = tmp_path / "one.py"
    lazy.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.two import Two\n"
        "def f():\n    from . import three\n    import p.four\n"
    )
    names = ["p.one", "p.two", "p.three", "p.four"]
    assert set(imports_of("p.one", lazy, names)) == {"p.two", "p.three", "p.four"}


def test_modules_import_each_other_in_one_direction() -> None:
    graph = import_graph()
    assert len(graph) > 200
    assert cycles(graph) == []
