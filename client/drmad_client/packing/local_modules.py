"""The modules beside a script or a notebook that its source imports."""

from __future__ import annotations

import ast
import contextlib
import site
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from drmad_client.files.code_archive import code_files

_INSTALLED_ON_WORKERS = ("drmad_client", "drmad_workers", "drmad_service")


def local_modules(source: str, folder: Path) -> dict[str, Path]:
    """The files of the modules that `source` imports, by their names in an archive.

    A module is local if it lies in `folder`, or on the import path outside of the Python
    installation. Of a local package all files are taken; what local modules import is followed.
    """
    files: dict[str, Path] = {}
    pending, seen = [source], set(_INSTALLED_ON_WORKERS)
    while pending:
        for name in sorted(_imported(pending.pop()) - seen):
            seen.add(name)
            place = _place(name)
            if place is None or (is_installed(place) and place.parent != folder.resolve()):
                continue
            found = [place] if place.is_file() else sorted(code_files(place))
            files |= {path.relative_to(place.parent).as_posix(): path for path in found}
            pending += [path.read_text("utf-8") for path in found if path.suffix == ".py"]
    return files


def is_installed(path: Path) -> bool:
    """Whether the path belongs to Python itself or to an installed package."""
    libraries = [
        sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    roots = {*libraries, *site.getsitepackages(), site.getusersitepackages()}
    return any(path.is_relative_to(Path(root).resolve()) for root in roots)


def _imported(source: str) -> set[str]:
    """The first parts of the names that a module imports, except for relative imports."""
    with contextlib.suppress(SyntaxError):  # a package may hold templates, or code of Python 2
        return {name.partition(".")[0] for name in _imports(ast.parse(source))}
    return set()


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _place(name: str) -> Path | None:
    """The file of a module, or the folder of a package; None for what has neither."""
    with contextlib.suppress(ImportError, ValueError):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))).resolve()
        if spec is not None and spec.has_location and spec.origin:
            return Path(spec.origin).resolve()
    return None
