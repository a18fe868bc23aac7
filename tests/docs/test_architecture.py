"""The paths and names on the architecture and contributing pages exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "development" / "architecture.md"
PATH = re.compile(r"`((?:client|workers|service|tests|docs|deploy|store)/[\w./-]+)`")
ROW = re.compile(r"^\| [^|]+ \| `([^`]+)` \| (?:`(\w+)` )?\|$", re.MULTILINE)


def sources(path: str) -> list[Path]:
    """The modules of a path: a file, a package, or a module named without its suffix."""
    place = ROOT / path
    if place.is_dir():
        return sorted(place.rglob("*.py"))
    return [found for found in (place, place.with_suffix(".py")) if found.is_file()]


def defined(module: Path) -> set[str]:
    """Names of functions, classes, methods and module-level assignments."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", [PAGE, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    paths = PATH.findall(page.read_text(encoding="utf-8"))
    assert len(paths) >= 8
    missing = [path for path in paths if not exists(path)]
    assert not missing


def exists(path: str) -> bool:
    if path.startswith("store/"):
        path = f"service/drmad_service/{path}"
    return (ROOT / path).exists() or bool(sources(path))


def test_every_name_is_defined_in_its_file() -> None:
    rows = [(path, name) for path, name in ROW.findall(PAGE.read_text()) if name]
    assert len(rows) >= 20
    wrong = [
        f"{path}: {name}"
        for path, name in rows
        if not any(name in defined(module) for module in sources(path))
    ]
    assert not wrong


def test_ten_questions_are_answered() -> None:
    text = PAGE.read_text(encoding="utf-8")
    block = text.partition("<!-- questions -->")[2].partition("<!-- /questions -->")[0]
    assert len(ROW.findall(block)) == 10


def test_every_folder_of_the_packages_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    packages = ("client/drmad_client", "workers/drmad_workers", "service/drmad_service")
    folders = {
        found.parent.relative_to(ROOT).as_posix()
        for package in packages
        for found in (ROOT / package).glob("*/__init__.py")
    }
    assert not {folder for folder in folders if f"`{folder}`" not in text}
