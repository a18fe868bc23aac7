"""Guards every request: assigns its id, limits its body, and answers failures as problems."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_service import logs
from drmad_service.api.problem_details import problem_response
from drmad_service.store.layout.ids import new_id

logger = logging.getLogger(__name__)

MIN_BYTES_PER_S = 4096
"""Minimum rate at which a body must arrive."""


class _Refused(Exception):
    """Raised where the app reads a body beyond its limits."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class RequestGuard:
    """Gives each response its `x-request-id`, and answers 408, 413 and 500 as problems."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        slow_client_timeout_s: float,
        larger: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            max_body_bytes: maximum size of a body.
            slow_client_timeout_s: time that a body may take beyond what MIN_BYTES_PER_S allows.
            larger: maximum sizes for paths that accept larger bodies, by the paths' prefixes.
        """
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._slow_client_timeout_s = slow_client_timeout_s
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        logs.request_id.set(request_id)
        larger = [most for start, most in self._larger.items() if scope["path"].startswith(start)]
        max_bytes = larger[0] if larger else self._max_body_bytes
        too_large = _Refused(413, "body_too_large", f"the body must not exceed {max_bytes} bytes")
        clock = asyncio.get_running_loop().time
        began, received, is_whole, started = clock(), 0, False, False
        refused: _Refused | None = None
        is_answered = False

        async def limited() -> Message:
            nonlocal received, is_whole, refused
            if is_whole:
                return await receive()
            deadline = began + self._slow_client_timeout_s + received / MIN_BYTES_PER_S
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = (
                    f"the body must arrive at {MIN_BYTES_PER_S} bytes per second or faster, got "
                    f"{received} bytes in {clock() - began:.0f} s; send the request again"
                )
                refused = _Refused(408, "body_too_slow", detail)
                raise refused from None
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if received > max_bytes:
                refused = too_large
                raise refused
            return message

        async def identified(message: Message) -> None:
            nonlocal started
            if refused is not None and not is_answered:
                raise refused  # the app mistook the exception above for a malformed body
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                # A browser never takes content that a user wrote for a page.
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            if _declared_bytes(scope) > max_bytes:
                raise too_large
            await self._app(scope, limited, identified)
        except _Refused as refusal:
            if started:
                raise
            is_answered = True
            answer = problem_response(
                refusal.status,
                refusal.code,
                refusal.detail,
                instance=scope["path"],
                headers={"connection": "close"},
            )
            await answer(scope, receive, identified)
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id})
            if started:
                raise
            detail = f"the service failed; the API's log has the traceback under {request_id}"
            failure = problem_response(500, "internal_error", detail, instance=scope["path"])
            await failure(scope, receive, identified)


def _declared_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdigit() else 0
