"""A file that arrives in pieces, and from a second request after the first one broke."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import re
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import httpx

from drmad_client.errors import ConnectionFailed
from drmad_client.http.protocol.calls import Call

T = TypeVar("T")

_DIGEST = re.compile(r"sha-256=:([^:]*):")


class Draft:
    """The file as far as it has arrived; `finished` gives it its name."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f"{target.name}.part")
        self._etag = self._stated = ""
        self._file: BinaryIO | None = None
        self._furthest = 0
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget what has arrived."""
        self._close()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("wb")
        self._digest, self._size, self._etag = hashlib.sha256(), 0, ""

    def continued(self, call: Call[T]) -> Call[T]:
        """The call for the part of the same file that is missing."""
        if not (self._size and self._etag):
            return call
        missing = {"Range": f"bytes={self._size}-", "If-Match": self._etag}
        return dataclasses.replace(call, headers={**call.headers, **missing})

    def begin(self, response: httpx.Response) -> None:
        """Take the pieces of this response from now on."""
        expected = f"bytes {self._size}-"
        is_rest = response.headers.get("content-range", "").startswith(expected)
        if response.status_code != 206 or not is_rest:
            self.restart()
        self._etag = response.headers.get("etag", "")
        self._stated = stated_digest(response)

    def add(self, piece: bytes) -> bool:
        """Write a piece. Returns whether more has arrived than ever before."""
        assert self._file is not None
        self._digest.update(piece)
        self._size += self._file.write(piece)
        is_further = self._size > self._furthest
        self._furthest = max(self._size, self._furthest)
        return is_further

    def finished(self) -> Path:
        """
        Raises:
            ConnectionFailed: the digest is not the one that the service stated.
        """
        self._close()
        require_digest(self._digest.hexdigest(), self._stated, self._target.name)
        self._path.replace(self._target)
        return self._target

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def stated_digest(response: httpx.Response) -> str:
    """The SHA-256 of the whole file in hexadecimal, by Repr-Digest (RFC 9530); empty without it."""
    found = _DIGEST.search(response.headers.get("repr-digest", ""))
    try:
        return base64.b64decode(found[1], validate=True).hex() if found else ""
    except binascii.Error:
        return ""


def require_digest(found: str, stated: str, what: str) -> None:
    """
    Raises:
        ConnectionFailed: the digests differ, and the service stated one.
    """
    if stated and found != stated:
        raise ConnectionFailed(
            f"{what} was damaged on its way: its SHA-256 must be {stated}, got {found}; fetch it "
            "again"
        )
