"""Sends a stored file, or a range of it (RFC 9110), in pieces and with its digest (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from drmad_service.api.etags import matches
from drmad_service.api.problem_details import problem_response
from drmad_service.api.routes.dependencies import PROBLEM
from drmad_service.store.files.stored_file import StoredFile

SAFETENSORS = "application/vnd.safetensors"
_BINARY = {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": _BINARY},
    206: {"description": "The range that was asked for.", "content": _BINARY},
    304: {"description": "The file has the ETag of If-None-Match."},
    404: PROBLEM,
    412: PROBLEM,
    416: PROBLEM,
    422: PROBLEM,
    503: PROBLEM,
}
"""The documented answers of a route that sends a file."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def file_response(
    request: Request, file: StoredFile, media_type: str, headers: Mapping[str, str] = {}
) -> Response:
    """The file, or the range that the request asks for.

    A request with several ranges, or with If-Range of another file, is answered with all of it.
    """
    etag = f'"{file.sha256}"'
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    described = {
        **headers,
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{digest}:",
    }
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=described)
    stated = request.headers.get("if-match")
    if stated is not None and not matches(stated, etag):
        detail = f"the file has changed: expected {stated}, it is {etag}; get it from its beginning"
        return problem_response(412, "file_changed", detail, instance=request.url.path)
    found = None
    if request.headers.get("if-range", etag) == etag:
        found = _range(request.headers.get("range", ""), file.size)
    start, end = found or (0, file.size)
    if start >= end and file.size:
        detail = f"the file has {file.size} bytes, the range must begin before its end"
        unsatisfied = {"Content-Range": f"bytes */{file.size}"}
        code = "range_not_satisfiable"
        return problem_response(416, code, detail, instance=request.url.path, headers=unsatisfied)
    described["Content-Length"] = str(end - start)
    if found is not None:
        described["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    pieces = file.pieces(start, end)
    first = await anext(pieces, b"")  # a file that is gone is an error, and not half an answer
    return StreamingResponse(
        _all(first, pieces),
        status_code=200 if found is None else 206,
        media_type=media_type,
        headers=described,
    )


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _range(stated: str, size: int) -> tuple[int, int] | None:
    """The first byte of a range and the one after its last; None if there is no single range."""
    found = _RANGE.fullmatch(stated.strip())
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
