"""The global names that a piece of source uses, by its symbol tables."""

from __future__ import annotations

import symtable
from collections.abc import Iterator
from dataclasses import dataclass

_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")


@dataclass(frozen=True)
class GlobalNames:
    """The names in the order of the alphabet.

    Attributes:
        at_once: Names that the import of the source uses: bases, decorators, defaults, values.
        later: Names that only calls of its functions use.
        assigned: Names that its functions declare global and assign.
    """

    at_once: tuple[str, ...]
    later: tuple[str, ...]
    assigned: tuple[str, ...]


def global_names(source: str) -> GlobalNames:
    """The global names of some statements of a module.

    Raises:
        SyntaxError: `source` is not Python.
    """
    at_once: set[str] = set()
    later: set[str] = set()
    assigned: set[str] = set()
    for table, runs_at_once in _tables(symtable.symtable(source, "<source>", "exec"), True):
        for symbol in table.get_symbols():
            is_global = table.get_type() == "module" or symbol.is_global()
            if is_global and symbol.is_referenced():
                (at_once if runs_at_once else later).add(symbol.get_name())
            if symbol.is_declared_global() and symbol.is_assigned():
                assigned.add(symbol.get_name())
    return GlobalNames(*(tuple(sorted(names)) for names in (at_once, later - at_once, assigned)))


def _tables(
    table: symtable.SymbolTable, runs_at_once: bool
) -> Iterator[tuple[symtable.SymbolTable, bool]]:
    is_function = table.get_type() == "function" and table.get_name() not in _COMPREHENSIONS
    runs_at_once = runs_at_once and not is_function
    yield table, runs_at_once
    for child in table.get_children():
        yield from _tables(child, runs_at_once)
