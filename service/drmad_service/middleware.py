"""What every request passes: an id, a size limit, and a last word when something broke."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_service.ids import new_id
from drmad_service.problems import problem_response

logger = logging.getLogger(__name__)


class _BodyTooLarge(Exception):
    """Raised inside the app where it reads past the limit."""


class Guard:
    """Gives each response its `x-request-id`, and answers 413 and 500 as problems."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        started = refused = False
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise _BodyTooLarge
            return message

        async def identified(message: Message) -> None:
            nonlocal started
            if received > self._max_body_bytes and not refused:
                raise _BodyTooLarge  # the app took the exception above for a broken body
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            if _announced_bytes(scope) > self._max_body_bytes:
                raise _BodyTooLarge
            await self._app(scope, limited, identified)
        except _BodyTooLarge:
            refused = True
            limit = f"the body is larger than the {self._max_body_bytes} bytes allowed"
            refusal = problem_response(
                413,
                "body_too_large",
                limit,
                instance=scope["path"],
                headers={"connection": "close"},
            )
            await refusal(scope, receive, identified)
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id})
            if started:
                raise
            detail = f"the service failed; its log tells more under {request_id}"
            failure = problem_response(500, "internal_error", detail, instance=scope["path"])
            await failure(scope, receive, identified)


def _announced_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdigit() else 0
