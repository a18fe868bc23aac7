"""Functions of the engine that commands of the client call where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


def engine_function(name: str) -> Callable[..., Any]:
    """The function that works on a job file, of the command of this name.

    Raises:
        DrmadError: the engine is not installed.
    """
    from drmad_client.errors import DrmadError

    remedy = 'install it with: pip install ".[all]" in the clone'
    for entry_point in entry_points(group="drmad.commands"):
        if entry_point.name != "workers":
            continue
        try:
            module, function = entry_point.load()()[name].split(":")
            found: Callable[..., Any] = getattr(import_module(module), function)
            return found
        except ImportError as error:
            message = f"drmad {name} FILE needs the engine ({error}); {remedy}"
            raise DrmadError(message) from error
    raise DrmadError(f"drmad {name} FILE needs the engine; {remedy}")
