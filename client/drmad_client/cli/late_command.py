"""Commands of other packages, whose modules are slow to import: they wait until they are used."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import typer.core
import typer.main


class LateCommand(typer.core.TyperCommand):
    """A command in the list of commands: it has its name and its help, and none of its options."""

    def __init__(self, name: str, target: str) -> None:
        """
        Args:
            target: `module:function`, or `module:app` of a typer.Typer whose help is the module's
                docstring.
        """
        super().__init__(name, help=_docstring(*target.split(":")))
        self._target = target

    def imported(self) -> Any:
        """The command itself.

        Raises:
            ImportError: a package that the command needs is not installed.
        """
        module, name = self._target.split(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        app = typer.Typer(add_completion=False)
        app.command(self.name)(found)
        return typer.main.get_command(app)


def _docstring(module: str, name: str) -> str | None:
    """The docstring of a function of a module, or that of the module, from its source."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return ast.get_docstring(functions[0] if functions else tree)
