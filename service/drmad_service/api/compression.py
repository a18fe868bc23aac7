"""Answers that shrink: compressed for whoever takes it, and not on the event loop."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping

from fastapi import Request, Response

_WORTH_IT_BYTES = 1000


async def compressible(
    request: Request, body: bytes, media_type: str, headers: Mapping[str, str] = {}
) -> Response:
    headers = {**headers, "Vary": "Accept-Encoding"}
    if len(body) >= _WORTH_IT_BYTES and takes_gzip(request):
        body = await asyncio.to_thread(gzip.compress, body, 5, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=media_type, headers=headers)


def takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
