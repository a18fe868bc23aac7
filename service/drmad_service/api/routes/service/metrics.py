"""Metrics for Prometheus, which prometheus.py lists."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Export metrics of this process and of the whole service in Prometheus's text format.

    They name no tenant and no job. A scraper needs a key with the scope `read`.
    """
    text = await request.app.state.metrics.text(request.app.state.redis)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
