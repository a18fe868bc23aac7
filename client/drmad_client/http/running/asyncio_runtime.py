"""What the asynchronous client asks of its runtime; `blocking_runtime` is the counterpart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from drmad_client.http.running.blocking_runtime import read_pieces as read_pieces_blocking

P = ParamSpec("P")
T = TypeVar("T")


async def sleep(seconds: float) -> None:
    import asyncio  # Loading it takes a tenth of the time that the whole client takes.

    await asyncio.sleep(seconds)


async def run_in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Keep the event loop free while `function` works on files."""
    import asyncio

    return await asyncio.to_thread(function, *args, **options)


async def read_pieces(path: Path) -> AsyncIterator[bytes]:
    """Read a file piece by piece, on the event loop.

    A local disk delivers a piece in less time than a change of threads takes.
    """
    for piece in read_pieces_blocking(path):
        yield piece
