"""Answers HEAD as GET without its body, on every route that has GET."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_service.cancellation import cancel_and_wait


class HeadRequests:
    """Runs the GET of a resource for its headers. A stream ends once it has sent them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or allows(scope, "HEAD"):
            await self._app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                if "content-length" not in Headers(raw=message["headers"]):
                    answered.set()  # a stream has no length, and may have no end

        got = {**scope, "method": "GET"}
        answering = asyncio.create_task(self._answer(got, receive, without_body))
        waiting = asyncio.create_task(_set(answered))
        try:
            await asyncio.wait((answering, waiting), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            await cancel_and_wait((answering, waiting))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def allows(scope: Scope, method: str) -> bool:
    """Whether a route of the application has this method for the path of a request."""
    asked = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in scope["app"].router.routes)


def allowed(scope: Scope) -> str:
    """The methods of the path of a request, as the header Allow lists them."""
    found = [each for each in ("DELETE", "GET", "PATCH", "POST", "PUT") if allows(scope, each)]
    if "GET" in found or allows(scope, "HEAD"):
        found.append("HEAD")
    return ", ".join(sorted(found))


async def _set(event: asyncio.Event) -> None:
    await event.wait()
