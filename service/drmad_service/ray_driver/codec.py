"""Messages between the scheduler and the process that drives Ray: MessagePack, never pickle.

A message holds plain values, the dataclasses of `MESSAGES` and references to remote objects. What
else a worker may have returned is refused where it is encoded, and again where it is decoded.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import msgpack

from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.artifacts.store import ArtifactLocation
from drmad_workers.ray_actor import messages

MAX_BYTES = 1 << 30
"""Bounds a message, whose length is announced before it is read."""

LENGTH = struct.Struct(">Q")
_REFERENCE, _MESSAGE = 1, 2

MESSAGES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Artifact,
        ArtifactLocation,
        JobArtifacts,
        messages.AttributionResult,
        messages.Failure,
        messages.PackedState,
        messages.PackedTraining,
        messages.Prepared,
        messages.ProgressReport,
        messages.Retrained,
        messages.RollbackRequired,
        messages.StepResult,
        messages.TrialResult,
    )
}


class Undecodable(ValueError):
    """A value or a message that does not belong into this connection."""


def encode(value: Any, number_of: Callable[[Any], int | None] = lambda _: None) -> bytes:
    """The value as one message, its length first.

    Args:
        number_of: the number of a remote object; None for any other value.
    Raises:
        Undecodable: it holds something else than plain values and messages, or is too large.
    """
    content = _packed(value, number_of)
    if len(content) > MAX_BYTES:
        raise Undecodable(f"a message must have at most {MAX_BYTES:,} bytes, got {len(content):,}")
    return LENGTH.pack(len(content)) + content


def decode(content: bytes, object_of: Callable[[int], Any] | None = None) -> Any:
    """The value of a message without its length.

    Args:
        object_of: the remote object of a number; None refuses every reference.
    Raises:
        Undecodable: the content is no such message.
    """

    def extension(code: int, data: bytes) -> Any:
        if code == _REFERENCE and object_of is not None and len(data) == LENGTH.size:
            return object_of(*LENGTH.unpack(data))
        if code == _MESSAGE:
            return _message(unpacked(data))
        raise Undecodable(f"unexpected extension {code} in a message")

    def unpacked(data: bytes) -> Any:
        return msgpack.unpackb(
            data,
            ext_hook=extension,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            max_ext_len=MAX_BYTES,
            max_bin_len=MAX_BYTES,
        )

    try:
        return unpacked(content)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(f"not a message: {type(error).__name__}: {error}") from error


def _packed(value: Any, number_of: Callable[[Any], int | None]) -> bytes:
    def other(found: Any) -> Any:
        if (number := number_of(found)) is not None:
            return msgpack.ExtType(_REFERENCE, LENGTH.pack(number))
        kind = type(found)
        if MESSAGES.get(kind.__name__) is kind:
            fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(kind)}
            return msgpack.ExtType(_MESSAGE, _packed([kind.__name__, fields], number_of))
        if kind.__module__ == "numpy" and hasattr(found, "item"):
            return found.item()
        raise Undecodable(f"{kind.__module__}.{kind.__qualname__} is no message of drmad")

    try:
        packed: bytes = msgpack.packb(value, default=other, unicode_errors="surrogatepass")
    except Undecodable:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise Undecodable(f"cannot be a message: {error}") from error
    return packed


def _message(named: Any) -> Any:
    try:
        name, fields = named
        kind = MESSAGES[name]
        return kind(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise Undecodable(f"not a message of drmad: {error}") from error
