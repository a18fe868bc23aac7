"""Compresses responses for clients that accept gzip, outside the event loop."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping

from fastapi import Request, Response

_MIN_BYTES = 1000
"""Smaller bodies gain nothing."""


async def compressible(
    request: Request, body: bytes, media_type: str, headers: Mapping[str, str] = {}
) -> Response:
    headers = {**headers, "Vary": "Accept-Encoding"}
    if len(body) >= _MIN_BYTES and accepts_gzip(request):
        body = await asyncio.to_thread(gzip.compress, body, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=media_type, headers=headers)


def accepts_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
