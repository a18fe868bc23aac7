"""Every public name of the client and the engine is on a page of the reference, and documented."""

from __future__ import annotations

import importlib
import inspect
import re
import typing

import pytest

from tests.docs.pages import ROOT

PAGES = {"drmad_client": "client.md", "drmad_workers": "engine.md"}
WHOLE_MODULES = ("drmad_workers.errors", "drmad_client.errors")  # every class in them is shown


def public(package: str) -> list[str]:
    return sorted(importlib.import_module(package).__all__)


def documented(package: str) -> set[str]:
    page = (ROOT / "docs" / "reference" / PAGES[package]).read_text(encoding="utf-8")
    return set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))


@pytest.mark.parametrize("package", PAGES)
def test_every_public_name_is_on_the_page(package: str) -> None:
    shown = documented(package)
    missing = []
    for name in public(package):
        thing = getattr(importlib.import_module(package), name)
        whole = getattr(thing, "__module__", "") in WHOLE_MODULES
        if not whole and f"{package}.{name}" not in shown and name != "METHODS":
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("package", PAGES)
def test_what_is_on_the_page_has_a_docstring(package: str) -> None:
    silent = []
    for path in documented(package):
        thing = resolved(path)
        if inspect.isclass(thing) and thing.__doc__ is None:
            silent.append(path)
        if inspect.isroutine(thing) and not inspect.getdoc(thing):
            silent.append(path)
    assert not silent


def resolved(path: str) -> typing.Any:
    """The module, class or function at a dotted path."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        parent, _, name = path.rpartition(".")
        return getattr(resolved(parent), name)
