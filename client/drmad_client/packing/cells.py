"""The cells that a notebook has executed, and the names that their statements bind."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

_PYTHON_MAGICS = ("time", "capture")  # cell magics whose body is executed in the notebook


@dataclass(frozen=True)
class Cell:
    """An executed cell, with its magics as IPython rewrites them.

    Attributes:
        number: The number that the notebook shows beside it, In [number].
    """

    number: int
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def source(self, statement: ast.stmt) -> str:
        """The text of a statement, with its decorators."""
        decorators = getattr(statement, "decorator_list", [])
        if statement.col_offset:  # to move its lines would change the strings in them
            return ast.unparse(statement)
        if not decorators:
            return ast.get_source_segment(self.text, statement) or ast.unparse(statement)
        first = min(decorator.lineno for decorator in decorators)
        return "\n".join(self.text.splitlines()[first - 1 : statement.end_lineno])


@dataclass(frozen=True)
class Binding:
    """A statement of a cell that binds a name; for an import, the alias that does."""

    cell: Cell
    statement: ast.stmt
    alias: ast.alias | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Orders bindings by the time of their execution."""
        return self.cell.number, self.statement.lineno

    @property
    def source(self) -> str:
        if self.alias is None:
            return self.cell.source(self.statement)
        narrowed = (
            ast.ImportFrom(getattr(self.statement, "module", None), [self.alias], level=0)
            if isinstance(self.statement, ast.ImportFrom)
            else ast.Import([self.alias])
        )
        return ast.unparse(ast.fix_missing_locations(narrowed))


def running_shell() -> Any:
    """The IPython shell of this process, or None; IPython is not loaded to find out."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    untyped: Any = get_ipython
    return untyped()


def executed_cells(shell: Any) -> list[Cell]:
    """The cells with Python in them, in the order of their execution."""
    cells = []
    for number, text in enumerate(shell.history_manager.input_hist_parsed):
        with contextlib.suppress(SyntaxError):
            cell = Cell(number, _within_magic(text, shell))
            if cell.tree.body:
                cells.append(cell)
    return cells


def bindings(cells: list[Cell]) -> dict[str, list[Binding]]:
    """The bindings of each name, the latest last."""
    found: dict[str, list[Binding]] = {}
    for cell in cells:
        for statement in statements(cell.tree.body):
            for name, alias in _bound(statement):
                found.setdefault(name, []).append(Binding(cell, statement, alias))
    return found


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that a cell runs itself, those in branches and loops included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(statement, part, []))
        for handler in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
            yield from statements(handler.body)


def function_text(value: Any) -> str | None:
    """The text of a function as the kernel compiled it, without comments; None if not kept."""
    if not isinstance(value, FunctionType) or hasattr(value, "__wrapped__"):
        return None
    with contextlib.suppress(OSError, SyntaxError):  # as for a cell with %%time, or a lambda
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(value))))
    return None


def _within_magic(text: str, shell: Any) -> str:
    match ast.parse(text).body:
        case [
            ast.Expr(
                ast.Call(
                    ast.Attribute(attr="run_cell_magic"),
                    [ast.Constant(magic), _, ast.Constant(str(body))],
                )
            )
        ] if magic in _PYTHON_MAGICS:
            return str(shell.transform_cell(body))
    return text


def _bound(statement: ast.stmt) -> Iterator[tuple[str, ast.alias | None]]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name, None
        case ast.Import() | ast.ImportFrom():
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0], alias
        case ast.Assign(targets=targets):
            yield from _stored(targets)
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            yield from _stored([target])
        case ast.For(target=target) | ast.AsyncFor(target=target):
            yield from _stored([target])
        case ast.With(items=items) | ast.AsyncWith(items=items):
            yield from _stored([item.optional_vars for item in items if item.optional_vars])


def _stored(targets: list[ast.expr]) -> Iterator[tuple[str, None]]:
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, None
