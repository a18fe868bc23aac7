"""References to remote values as asyncio futures."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

Future = TypeVar("Future", bound="asyncio.Future[Any]")


def future_of(reference: Any) -> asyncio.Future[Any]:
    """The future of a reference."""
    return without_warning(asyncio.wrap_future(reference.future()))


def without_warning(future: Future) -> Future:
    """Retrieve the future's error when it ends, so that asyncio never logs it as lost.

    Nobody awaits the answer of a replica that was killed.
    """
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
