"""Writes one module from several, without what the program at hand does not use.

A statement `if "name" in USES` is decided, the definitions that nothing reaches are left out, and
so are the imports of which no name is left. The text of what stays is that of its author.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_INDENT = "    "
_COMPOUND = (ast.For, ast.While, ast.With, ast.FunctionDef, ast.ClassDef)
LINE_LENGTH = 100


@dataclass(frozen=True)
class Definition:
    """A statement of a module with the text below it that describes what it defines.

    Attributes:
        names: what it defines; none of a statement that always stays.
        used: the names that it refers to.
    """

    names: frozenset[str]
    used: frozenset[str]
    text: str


def joined(sources: Iterable[str], uses: Collection[str], own_package: str) -> str:
    """The modules one after the other, as far as the last of them reaches their definitions.

    Args:
        sources: The texts of the modules, in an order in which each uses those before it.
        uses: The names that are in USES.
        own_package: The package whose imports are left out, because its modules are joined.
    """
    imports: list[ast.Import | ast.ImportFrom] = []
    definitions: list[Definition] = []
    for source in sources:
        text = "\n".join(_folded(ast.parse(source).body, source.splitlines(), uses))
        found, defined = _split(text)
        imports += [each for each in found if not _is_of(each, own_package)]
        definitions += defined
    kept = _reached(definitions)
    used = frozenset().union(*(each.used for each in kept))
    texts = [_written(imports, used), *(each.text.strip() for each in kept)]
    return texts[0] + "".join(_below(*pair) for pair in pairwise(texts)) + "\n"


def literal(value: Any, indent: str = "") -> str:
    """Plain values as Python states them, on lines of at most 100 characters."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    if isinstance(value, dict):
        parts = [f"{literal(k)}: {literal(each, indent + _INDENT)}" for k, each in value.items()]
    elif isinstance(value, list):
        parts = [literal(each, indent + _INDENT) for each in value]
    else:
        return text
    one, other = "{}" if isinstance(value, dict) else "[]"
    line = one + ", ".join(parts) + other
    if len(indent) + len(line) <= LINE_LENGTH - 30 and "\n" not in line and indent:
        return line
    return one + "".join(f"\n{indent}{_INDENT}{part}," for part in parts) + f"\n{indent}{other}"


def constants_of(source: str) -> set[object]:
    """The constants in a text, such as the keys by which it reads its settings."""
    return {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}


def _folded(statements: Sequence[ast.stmt], lines: list[str], uses: Collection[str]) -> list[str]:
    """The lines of statements of one block, with what surrounds them."""
    found: list[str] = []
    before = _begin(statements[0])
    for statement in statements:
        begin, end = _begin(statement), statement.end_lineno or statement.lineno
        found += lines[before - 1 : begin - 1]
        before = end + 1
        found += _statement(statement, lines, uses)
        if _ends(statement, uses):
            break
    return found


def _ends(statement: ast.stmt, uses: Collection[str]) -> bool:
    """Whether nothing of a block is reached below a statement, once USES is decided."""
    if not isinstance(statement, ast.If):
        return isinstance(statement, ast.Return | ast.Raise | ast.Continue)
    known = _decided(statement.test, uses)
    chosen = statement.body if known else statement.orelse
    return known is not None and any(_ends(each, uses) for each in chosen)


def _statement(statement: ast.stmt, lines: list[str], uses: Collection[str]) -> list[str]:
    if isinstance(statement, ast.If):
        return _if(statement, lines, uses, "if")
    if isinstance(statement, _COMPOUND):
        first = _begin(statement.body[0])
        return lines[_begin(statement) - 1 : first - 1] + _folded(statement.body, lines, uses)
    return lines[_begin(statement) - 1 : statement.end_lineno]


def _if(statement: ast.If, lines: list[str], uses: Collection[str], word: str) -> list[str]:
    """The lines of an if or an elif; `word` says which of both it is once those before are left."""
    body, other = _folded(statement.body, lines, uses), statement.orelse
    is_chain = (
        len(other) == 1 and isinstance(other[0], ast.If) and _is_elif(other[0], statement, lines)
    )
    known = _decided(statement.test, uses)
    indent = " " * statement.col_offset
    if known is True:
        return [f"{indent}else:", *body] if word == "elif" else _outdented(body)
    if known is False:
        if not other:
            return []
        if is_chain:
            assert isinstance(other[0], ast.If)
            return _if(other[0], lines, uses, word)
        rest = _folded(other, lines, uses)
        return [f"{indent}else:", *rest] if word == "elif" else _outdented(rest)
    header = lines[statement.lineno - 1 : _begin(statement.body[0]) - 1]
    header[0] = indent + word + header[0].strip().removeprefix("el").removeprefix("if")
    if not other:
        return header + body
    if is_chain:
        assert isinstance(other[0], ast.If)
        return header + body + _if(other[0], lines, uses, "elif")
    return [*header, *body, f"{indent}else:", *_folded(other, lines, uses)]


def _is_elif(inner: ast.If, outer: ast.If, lines: list[str]) -> bool:
    return inner.col_offset == outer.col_offset and lines[inner.lineno - 1].strip()[:4] == "elif"


def _outdented(lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(_INDENT) for line in lines]


def _decided(test: ast.expr, uses: Collection[str]) -> bool | None:
    """Whether a test on USES holds; None of any other test."""
    match test:
        case ast.Compare(ast.Constant(value=str(name)), [op], [ast.Name(id="USES")]):
            return (name in uses) is isinstance(op, ast.In)
        case ast.BoolOp(op=op, values=values):
            parts = [_decided(value, uses) for value in values]
            if None in parts:
                return None
            return all(parts) if isinstance(op, ast.And) else any(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            known = _decided(operand, uses)
            return None if known is None else not known
    return None


def _begin(statement: ast.stmt) -> int:
    decorators: Sequence[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _split(text: str) -> tuple[list[ast.Import | ast.ImportFrom], list[Definition]]:
    """The imports of a module, and its other statements, but for its docstring."""
    lines, statements = text.splitlines(), ast.parse(text).body
    imports: list[ast.Import | ast.ImportFrom] = []
    found: list[Definition] = []
    before = 0
    for number, each in enumerate(statements):
        begin, end = before, each.end_lineno or each.lineno
        before = end
        if isinstance(each, ast.Import | ast.ImportFrom):
            imports.append(each)
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            if number and found:  # it describes the assignment above
                text = found[-1].text + "\n" + "\n".join(lines[begin:end])
                found[-1] = Definition(found[-1].names, found[-1].used, text)
        else:
            found.append(_definition(each, "\n".join(lines[begin:end])))
    return imports, found


def _definition(statement: ast.stmt, text: str) -> Definition:
    names: set[str] = set()
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            names = {statement.name}
        case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
            root = target
            while isinstance(root, ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                names = {root.id}
    used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return Definition(frozenset(names), frozenset(used), text)


def _reached(definitions: Sequence[Definition]) -> list[Definition]:
    """The definitions that the statements without a name reach, in their order."""
    kept = {number for number, each in enumerate(definitions) if not each.names}
    while True:
        used = frozenset().union(*(definitions[number].used for number in kept))
        more = {number for number, each in enumerate(definitions) if each.names & used} | kept
        if more == kept:
            return [definitions[number] for number in sorted(kept)]
        kept = more


def _below(first: str, second: str) -> str:
    """The second text below the blank lines that part it from the first."""
    blocks = ("def ", "class ", "@", "if ")
    is_block = first.startswith(blocks) or second.startswith(blocks)
    return ("\n\n\n" if is_block else "\n\n") + second


def _is_of(statement: ast.Import | ast.ImportFrom, package: str) -> bool:
    module = statement.module if isinstance(statement, ast.ImportFrom) else statement.names[0].name
    return module == "__future__" or (module or "").partition(".")[0] == package


def _written(imports: Iterable[ast.Import | ast.ImportFrom], used: Collection[str]) -> str:
    """The imports of the names that are used: those of the standard library before the others."""
    modules: set[tuple[str, str | None]] = set()
    names: dict[str, set[str]] = {}
    for each in imports:
        for alias in each.names:
            if (alias.asname or alias.name).partition(".")[0] not in used:
                continue
            if isinstance(each, ast.Import):
                modules.add((alias.name, alias.asname))
            else:
                names.setdefault(each.module or "", set()).add(alias.name)
    lines = [
        (name, f"import {name} as {short}" if short else f"import {name}")
        for name, short in sorted(modules, key=str)
    ] + [(name, _from(name, sorted(names[name]))) for name in sorted(names)]
    own = [line for name, line in lines if name.partition(".")[0] in sys.stdlib_module_names]
    other = [line for name, line in lines if name.partition(".")[0] not in sys.stdlib_module_names]
    blocks = [["from __future__ import annotations"], own, other]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _from(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"{_INDENT}{name},\n" for name in names) + ")"
