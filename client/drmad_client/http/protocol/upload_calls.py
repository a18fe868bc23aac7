"""The calls that upload code and data; see calls.py."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import httpx

from drmad_client.http.protocol.calls import Call


def has_code(sha256: str) -> Call[bool]:
    return Call("HEAD", f"/v1/code/{quote(sha256)}", lambda _: True)


def put_code(sha256: str, content: bytes) -> Call[None]:
    return Call(
        "PUT",
        f"/v1/code/{quote(sha256)}",
        lambda _: None,
        headers={"Content-Type": "application/zip"},
        body=content,
    )


def has_data(sha256: str) -> Call[bool]:
    return Call("HEAD", f"/v1/data/{quote(sha256)}", lambda _: True)


def put_data(sha256: str, body: bytes | Path) -> Call[None]:
    size = body.stat().st_size if isinstance(body, Path) else len(body)
    return Call(
        "PUT",
        f"/v1/data/{quote(sha256)}",
        lambda _: None,
        headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
        body=body,
    )


def part_offset(sha256: str) -> Call[tuple[int, bool]]:
    """Where an upload in parts goes on, and whether it is complete."""
    return Call("GET", f"/v1/data/{quote(sha256)}/parts", _state)


def append_part(sha256: str, offset: int, length: int, part: bytes) -> Call[tuple[int, bool]]:
    return Call(
        "PATCH",
        f"/v1/data/{quote(sha256)}/parts",
        _state,
        params={"offset": offset, "length": length},
        headers={"Content-Type": "application/octet-stream"},
        body=part,
        repeatable=False,  # what has arrived of it decides what is sent next
    )


def _state(response: httpx.Response) -> tuple[int, bool]:
    found = response.json()
    try:
        return int(found["offset"]), bool(found["is_complete"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the state of an upload: {found!r:.100}") from error
