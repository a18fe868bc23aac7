"""The steps of a flow: what it asks its runner to do, and what it gets in return."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from drmad_client.http.protocol.calls import Call

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request; the outcome is its response, or the error that prevented one.

    With `stream`, the body of a successful response is left unread.
    """

    call: Call[Any]
    stream: bool = False


@dataclass(frozen=True)
class ReadStream:
    """Read on in the open stream; the outcome is the next piece, None at the end, or an error."""


@dataclass(frozen=True)
class Pause:
    """Wait; the outcome is None."""

    seconds: float


@dataclass(frozen=True)
class Item(Generic[T]):
    """Yield this value to the caller; the outcome is None."""

    value: T


FlowStep = Send | ReadStream | Pause
FlowOutcome = httpx.Response | httpx.RequestError | bytes | None
Flow = Generator[FlowStep, FlowOutcome, T]
Stream = Generator[FlowStep | Item[T], FlowOutcome, None]
