"""The definitions in a notebook that a function needs, ordered so that they can be imported."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

from drmad_client.files.code_archive import CodeError
from drmad_client.packing.cells import (
    Binding,
    Cell,
    bindings,
    function_text,
    statements,
)
from drmad_client.packing.global_names import GlobalNames, global_names
from drmad_client.packing.literals import literal

_OF_THE_NOTEBOOK = ("get_ipython", "display", "In", "Out")
_MISSING = object()
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Piece:
    """The source that binds one name.

    Attributes:
        kind: `value` is a constant, in the state in which the kernel holds it.
        binding: The statement of a cell that it was taken from, if it was.
    """

    name: str
    kind: Literal["import", "value", "definition"]
    source: str
    binding: Binding | None = None


class Definitions:
    """Collects, from one function on, the source of every global name that is used.

    Args:
        namespace: The global names of the notebook, with their values.
        cells: The executed cells; the latest definition of a name counts.
        future: The line `from __future__ import ...` under which the cells were compiled.
    """

    def __init__(self, namespace: Mapping[str, Any], cells: list[Cell], future: str = "") -> None:
        self._namespace = namespace
        self._cells = cells
        self._future = future
        self._bindings = bindings(cells)
        self._seen: set[tuple[str, int]] = set()
        self._assigned: set[str] = set()
        self._undefined: list[tuple[str, str]] = []
        self._pieces: list[Piece] = []

    def of(self, name: str) -> list[Piece]:
        """The pieces that `name` needs: imports first, and each after those that its import uses.

        Raises:
            CodeError: A name has a value that has no source, no definition, or is changed by a
                statement that would be left out.
        """
        self._require(name, len(self._bindings.get(name, [])) - 1, name)
        self._refuse_undefined()
        self._refuse_changes()
        return sorted(self._pieces, key=lambda piece: piece.kind != "import")

    def left_out(self) -> Iterator[str]:
        """Statements that may act on imported modules, which nothing packs."""
        imported = {piece.name for piece in self._pieces if piece.kind == "import"}
        for cell, statement in self._statements():
            if not imported.isdisjoint([*_changed(statement), *_called(statement)]):
                yield f"In [{cell.number}] {cell.source(statement).splitlines()[0]}"

    def _require(self, name: str, index: int, user: str) -> None:
        """Place the piece of a binding after what it uses at once, before what it uses later."""
        if (name, index) in self._seen:
            return
        self._seen.add((name, index))
        found = self._bindings.get(name, [])
        is_latest = index == len(found) - 1
        piece = self._current(name, user) if is_latest else _stated(name, found[index])
        if piece is None:
            return
        names = self._names(piece)
        self._assigned |= {*names.assigned}
        self._refuse_stale(piece, names.at_once)
        for used in names.at_once:
            earlier = index - 1 if used == name else None  # as in: loss = partial(loss, ...)
            self._require_used(used, earlier, name)
        self._pieces.append(piece)
        for used in [*names.later, *self._hints(piece)]:
            self._require_used(used, None, name)

    def _names(self, piece: Piece) -> GlobalNames:
        source = f"{self._future}\n{piece.source}"
        try:
            compile(source, piece.name, "exec", dont_inherit=True)
        except SyntaxError as error:  # such as an `await` outside of a function
            raise CodeError(
                f"{piece.name} must be defined by a statement that a module can have: {error.msg}; "
                f"define it inside the function that uses it"
            ) from error
        return global_names(source)

    def _hints(self, piece: Piece) -> Iterator[str]:
        """The types in annotations that nothing evaluates, which dataclasses and others look up."""
        for name in global_names(piece.source).at_once if self._future else ():
            value = self._namespace.get(name)
            if inspect.isclass(value) or self._import_of(name, value):
                yield name

    def _require_used(self, used: str, index: int | None, user: str) -> None:
        latest = len(self._bindings.get(used, [])) - 1
        if index is None or index >= 0:
            self._require(used, latest if index is None else index, user)

    def _current(self, name: str, user: str) -> Piece | None:
        """The piece that gives `name` the value that the kernel holds; None if it holds none."""
        if name not in self._namespace:
            self._undefined.append((name, user))
            return None
        value, found = self._namespace[name], self._bindings.get(name, [])
        if source := self._import_of(name, value):
            return Piece(name, "import", source)
        if source := literal(value):
            return Piece(name, "value", f"{name} = {source}")
        if binding := self._definition_of(value, found):
            return _stated(name, binding)
        raise CodeError(_refusal(name, value, user))

    def _import_of(self, name: str, value: Any) -> str:
        """The statements that import `value` as `name`; empty if no module has it."""
        found = self._bindings.get(name, [])
        dotted = [binding.source for binding in found if _is_dotted(binding)]
        if isinstance(value, ModuleType) and value.__name__ == name and dotted:
            return "\n".join(dict.fromkeys(dotted))
        for binding in reversed(found):
            if _gives(binding, value):
                return binding.source
        if found and isinstance(found[-1].statement, ast.ImportFrom):  # from a reloaded module
            return found[-1].source
        for binding in reversed(self._bindings.get("*", [])):
            module = getattr(binding.statement, "module", "")
            if getattr(sys.modules.get(module), name, _MISSING) is value:
                return f"from {module} import {name}"
        if isinstance(value, ModuleType):
            return f"import {value.__name__} as {name}"
        return "" if found else _import_from_its_module(name, value)

    def _definition_of(self, value: Any, found: list[Binding]) -> Binding | None:
        """The definition whose text the kernel holds, else the latest one.

        They differ where a cell raised an exception before it reached its definition.
        """
        text = function_text(value)
        for binding in reversed(found):
            statement = binding.statement
            if isinstance(statement, _DEFINITIONS) and ast.unparse(statement) == text:
                return binding
        if found and self._states_code(found[-1].statement, value):
            return found[-1]
        return None

    def _states_code(self, statement: ast.stmt, value: Any) -> bool:
        """Whether a statement binds code, or the attribute of a module or a class."""
        if isinstance(statement, _DEFINITIONS):
            return callable(value)
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            return False
        if inspect.isroutine(value) or inspect.isclass(value):
            return True
        if isinstance(value, partial | typing.TypeVar) or typing.get_origin(value) is not None:
            return True
        owner = self._namespace.get(_root(statement.value) or "")
        is_attribute = isinstance(statement.value, ast.Attribute)
        return is_attribute and (isinstance(owner, ModuleType) or inspect.isclass(owner))

    def _refuse_undefined(self) -> None:
        for name, user in self._undefined:
            is_builtin = hasattr(builtins, name) and name not in _OF_THE_NOTEBOOK
            is_given = name.startswith("__") and name.endswith("__")
            if not (is_builtin or is_given or name in self._assigned):
                raise CodeError(
                    f"{user} uses {name}, which is not defined: run the cell that defines it, or "
                    f"define it inside {user}"
                )

    def _refuse_stale(self, piece: Piece, used_at_once: Iterable[str]) -> None:
        """Refuse a definition that was made with an earlier binding of a name than the latest."""
        if piece.binding is None:
            return
        for name in used_at_once:
            found = self._bindings.get(name, [])
            earlier = [binding for binding in found if binding.place < piece.binding.place]
            if name != piece.name and earlier and earlier[-1].source != found[-1].source:
                raise CodeError(
                    f"In [{found[-1].cell.number}] binds {name} again, after {piece.name} was "
                    f"defined with it: run In [{piece.binding.cell.number}] again"
                )

    def _refuse_changes(self) -> None:
        defined = {p.name: p.binding for p in self._pieces if p.kind == "definition" and p.binding}
        for cell, statement in self._statements():
            for name in (*_changed(statement), *_registered_with(statement)):
                changed = defined.get(name)
                if changed and Binding(cell, statement).place > changed.place:
                    raise CodeError(
                        f"In [{cell.number}] changes {name} after its definition, which cannot be "
                        f"packed: move {cell.source(statement)!r} into the definition of {name}"
                    )

    def _statements(self) -> Iterator[tuple[Cell, ast.stmt]]:
        return (
            (cell, statement) for cell in self._cells for statement in statements(cell.tree.body)
        )


def _stated(name: str, binding: Binding) -> Piece:
    return Piece(name, "import" if binding.alias else "definition", binding.source, binding)


def _is_dotted(binding: Binding) -> bool:
    """Whether a binding is `import a.b`, and has not failed."""
    alias = binding.alias
    if alias is None or not isinstance(binding.statement, ast.Import):
        return False
    return alias.asname is None and alias.name in sys.modules


def _gives(binding: Binding, value: Any) -> bool:
    """Whether an import binds this very value."""
    if binding.alias is None:
        return False
    if not isinstance(binding.statement, ast.ImportFrom):
        return sys.modules.get(binding.alias.name, _MISSING) is value
    module = sys.modules.get(binding.statement.module or "")
    return getattr(module, binding.alias.name, _MISSING) is value


def _import_from_its_module(name: str, value: Any) -> str:
    """The import of what no cell binds, such as a name from a startup file of IPython."""
    module, own = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if (
        module in (None, "__main__")
        or getattr(sys.modules.get(module), str(own), None) is not value
    ):
        return ""
    return f"from {module} import {own} as {name}"


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Names to whose parts a statement assigns: Net.forward = f, table[0] = 1."""
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    parts = [node for node in targets if isinstance(node, ast.Attribute | ast.Subscript)]
    yield from (name for name in map(_root, parts) if name)


def _registered_with(statement: ast.stmt) -> Iterator[str]:
    """Names whose methods decorate a definition: @f.register."""
    for decorator in getattr(statement, "decorator_list", []):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and (name := _root(called)):
            yield name


def _called(statement: ast.stmt) -> Iterator[str]:
    """The root of a call whose result is not kept, as in torch.set_num_threads(1)."""
    match statement:
        case ast.Expr(ast.Call(func=called)) if name := _root(called):
            yield name


def _root(node: ast.AST) -> str | None:
    """The name at the root of a dotted or indexed expression."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _refusal(name: str, value: Any, user: str) -> str:
    if callable(value) and (inspect.isroutine(value) or inspect.isclass(value)):
        return (
            f"{user} uses {name}, and no cell of the notebook defines it: define it in a cell, or "
            "import it from a module"
        )
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return (
        f"{user} uses {name}, a {kind}, which cannot be packed as "
        f"source: make it inside {user}, state it in problem.options if it is JSON, or upload "
        "arrays with client.data.upload and name them in problem.data"
    )
