"""What the synchronous client asks of its runtime; `asyncio_runtime` is the counterpart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PIECE_BYTES = 1 << 20


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def run_in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call `function` in the caller's own thread, which has nothing else to do."""
    return function(*args, **options)


def read_pieces(path: Path) -> Iterator[bytes]:
    """Read a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
