"""Packs the function that builds a problem, wherever it is defined."""

from __future__ import annotations

import ast
import inspect
import keyword
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from drmad_client.files import code_archive
from drmad_client.files.code_archive import CodeError
from drmad_client.packing.cells import executed_cells, running_shell
from drmad_client.packing.definitions import Definitions, Piece
from drmad_client.packing.local_modules import is_installed, local_modules
from drmad_client.packing.packed_problem import PackedProblem

_NOTEBOOK_MODULE = "notebook_cells"


def pack(build: Callable[..., Any]) -> PackedProblem:
    """Pack the source of a function that returns a `drmad_workers.Problem`. Nothing is pickled.

    From a module, the folder that holds it is packed, as `code_archive.pack` does. From a script,
    its file is packed, with the local modules that it imports. From a notebook, the
    definitions that the function uses are packed, whichever cells they are in, with the local
    modules that they import.

    Raises:
        CodeError: The function has no source, or uses a value that has none; the message says
            which, and what to do.
    """
    function = inspect.unwrap(build)
    if not isinstance(function, FunctionType):
        raise CodeError(
            f"problem must be a function that returns a Problem, got a {type(build).__qualname__}: "
            "give the function, and its arguments in problem.options"
        )
    namespace = function.__globals__
    name = _global_name(build, namespace)
    shell = running_shell()
    if shell is not None and namespace is shell.user_global_ns:
        return _from_cells(name, namespace, shell)
    if "__file__" not in namespace:
        raise CodeError(
            f"{name} must be defined in a module, a script or a notebook, whose source can be read"
        )
    file = Path(namespace["__file__"]).resolve()
    is_program = namespace["__name__"] == "__main__"
    if is_program:
        _refuse_second_submission(namespace, file)
    spec = namespace.get("__spec__")
    if is_program and spec is None:
        return _from_script(name, file)
    return _from_folder(name, spec.name if spec else namespace["__name__"], file)


def _global_name(build: Callable[..., Any], namespace: Mapping[str, Any]) -> str:
    own = getattr(build, "__name__", "")
    if namespace.get(own) is build:
        return own
    for name, value in namespace.items():
        if value is build and not name.startswith("_"):  # IPython binds results to _, _1, ...
            return name
    raise CodeError(
        f"{getattr(build, '__qualname__', build)} must be defined at the top level of its module, "
        "because the workers import it by its name"
    )


def _from_folder(name: str, module: str, file: Path) -> PackedProblem:
    parts = module.split(".")
    place = file.parent if file.stem == "__init__" else file.with_suffix("")
    root = place.parents[len(parts) - 1]
    if file.suffix != ".py" or place != root.joinpath(*parts):
        raise CodeError(f"{name} must be defined in {module}.py, got {file}")
    if is_installed(file):
        raise CodeError(
            f"{name} belongs to {module}, an installed package, which is not packed: define a "
            f"function of your own that calls it, and name the package in problem.requirements"
        )
    source = file.read_text(encoding="utf-8")
    _compile(source, file.name)
    return PackedProblem(f"{module}:{name}", code_archive.pack(root), source, str(root))


def _from_script(name: str, file: Path) -> PackedProblem:
    source = file.read_text(encoding="utf-8")
    _compile(source, file.name)
    module = re.sub(r"\W", "_", file.stem)
    if module[:1].isdigit() or keyword.iskeyword(module):
        module = f"_{module}"
    files = {f"{module}.py": source.encode()} | local_modules(source, file.parent)
    archive = code_archive.pack_files(files, f"of {file}")
    return PackedProblem(f"{module}:{name}", archive, source, str(file))


def _from_cells(name: str, namespace: Mapping[str, Any], shell: Any) -> PackedProblem:
    cells = executed_cells(shell)
    future = _future([statement for cell in cells for statement in cell.tree.body])
    definitions = Definitions(namespace, cells, future)
    pieces = definitions.of(name)
    source = _module_text(pieces, future)
    _compile(source, f"{_NOTEBOOK_MODULE}.py")
    files = {f"{_NOTEBOOK_MODULE}.py": source.encode()} | local_modules(source, Path.cwd())
    numbers = sorted({piece.binding.cell.number for piece in pieces if piece.binding})
    return PackedProblem(
        f"{_NOTEBOOK_MODULE}:{name}",
        code_archive.pack_files(files, "of the notebook"),
        source,
        f"In {numbers}",
        tuple(map(_described, pieces)),
        tuple(definitions.left_out()),
    )


def _module_text(pieces: list[Piece], future: str) -> str:
    imports = [piece.source for piece in pieces if piece.kind == "import"]
    rest = [piece.source for piece in pieces if piece.kind != "import"]
    head = ['"""Packed from the cells of a notebook."""', *([future] if future else [])]
    return "\n\n".join(["\n".join([*head, *dict.fromkeys(imports)]), *rest]) + "\n"


def _described(piece: Piece) -> str:
    if piece.binding and piece.kind == "definition":
        return f"{piece.name}, In [{piece.binding.cell.number}]"
    text = "; ".join(piece.source.splitlines())
    return text if piece.kind == "import" else f"{text[:80]}, by value"


def _future(body: list[ast.stmt]) -> str:
    """The future statements of the notebook, which hold for every later cell, as one line."""
    names = {
        alias.name
        for statement in body
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        for alias in statement.names
    }
    return f"from __future__ import {', '.join(sorted(names))}" if names else ""


def _compile(source: str, name: str) -> None:
    try:
        compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CodeError(f"{name} must be Python that compiles: {error}") from error


def _refuse_second_submission(namespace: Mapping[str, Any], file: Path) -> None:
    """Refuse a script whose import would run the statement that submits the job."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            break
        frame = frame.f_back
    else:
        return
    line = frame.f_lineno
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        is_running = statement.lineno <= line <= (statement.end_lineno or line)
        if is_running and not _is_guard(statement):
            raise CodeError(
                f"line {line} of {file.name} submits the job when the file is imported, and the "
                'workers import it: move it below `if __name__ == "__main__":`'
            )


def _is_guard(statement: ast.stmt) -> bool:
    match statement:
        case ast.If(
            ast.Compare(ast.Name("__name__"), [ast.Eq()], [ast.Constant("__main__")])
            | ast.Compare(ast.Constant("__main__"), [ast.Eq()], [ast.Name("__name__")])
        ):
            return True
    return False
