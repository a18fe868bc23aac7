"""The dashboard's static files."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, HTTPException, Request, Response

from drmad_service.api.middleware.compression import accepts_gzip
from drmad_service.dashboard import assets

router = APIRouter(include_in_schema=False)

_FOREVER = "public, max-age=31536000, immutable"


@router.get("/static/{version}/{name:path}")
async def static(version: str, name: str, request: Request) -> Response:
    asset = await asyncio.to_thread(assets.load, name)
    if asset is None:
        raise HTTPException(404)
    # A page of an older version may still request its own files; it must not cache these as such.
    headers = {
        "Cache-Control": _FOREVER if version == assets.version() else "no-store",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    content = asset.content
    if asset.gzipped and accepts_gzip(request):
        content = asset.gzipped
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=asset.media_type, headers=headers)


@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    return await static(assets.version(), "favicon.svg", request)
