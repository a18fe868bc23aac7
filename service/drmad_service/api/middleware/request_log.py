"""Logs every request, and records a span for it if traces are on."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_service import logs, traces

logger = logging.getLogger(__name__)


class RequestLog:
    """The outermost middleware. It logs successful requests that only read at the level DEBUG."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"]
        carrier = dict(Headers(scope=scope)) if traces.is_on() else None
        with traces.span(method, {"http.request.method": method}, carrier) as span:
            try:
                await self._app(scope, receive, recorded)
            finally:
                route = getattr(scope.get("route"), "path", "")
                if span is not None:
                    span.update_name(f"{method} {route}" if route else method)
                    span.set_attribute("http.route", route)
                    span.set_attribute("http.response.status_code", status)
                    span.set_attribute("drmad.request_id", logs.request_id.get())
                self._log(scope, status, time.perf_counter() - began)

    @staticmethod
    def _log(scope: Scope, status: int, seconds: float) -> None:
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        level = logging.INFO if changes or status >= 400 else logging.DEBUG
        if not logger.isEnabledFor(level):
            return
        fields = {
            "action": "request",
            "method": scope["method"],
            # The route, not the path: a path may hold what a caller wants to keep private.
            "route": getattr(scope.get("route"), "path", ""),
            "status": status,
            "seconds": round(seconds, 6),
        }
        if job_id := scope.get("path_params", {}).get("job_id"):
            fields["job_id"] = job_id
        route = fields["route"] or "(no route)"
        logger.log(level, "%s %s %d", fields["method"], route, status, extra=fields)
