"""What every request passes: a known host, an id, a size limit, a last word on failures."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_service import logs
from drmad_service.api.problem_details import problem_response
from drmad_service.store.ids import new_id

logger = logging.getLogger(__name__)


SLOWEST_BYTES_PER_S = 4096
"""A body that comes more slowly is not waited for."""


class _Refused(Exception):
    """Raised inside the app where it reads a body past its limits."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class Guard:
    """Gives each response its `x-request-id`, and answers 408, 413 and 500 as problems."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        patience_s: float,
        larger: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            patience_s: a body may take so much longer than a line of SLOWEST_BYTES_PER_S needs.
            larger: limits of paths that take larger bodies, by how they begin.
        """
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._patience_s = patience_s
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        logs.request_id.set(request_id)
        larger = [most for start, most in self._larger.items() if scope["path"].startswith(start)]
        max_bytes = larger[0] if larger else self._max_body_bytes
        too_large = _Refused(
            413, "body_too_large", f"the body is larger than the {max_bytes} bytes allowed"
        )
        clock = asyncio.get_running_loop().time
        began, received, is_whole, started = clock(), 0, False, False
        refused: _Refused | None = None
        is_answered = False

        async def limited() -> Message:
            nonlocal received, is_whole, refused
            if is_whole:
                return await receive()
            deadline = began + self._patience_s + received / SLOWEST_BYTES_PER_S
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refused = _Refused(
                    408, "body_too_slow", f"{received} bytes came in {clock() - began:.0f} s"
                )
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
                raise refused  # the app took the exception above for a broken body
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                # What a user wrote is never taken for a page, whatever it looks like.
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            if _announced_bytes(scope) > max_bytes:
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
            detail = f"the service failed; its log tells more under {request_id}"
            failure = problem_response(500, "internal_error", detail, instance=scope["path"])
            await failure(scope, receive, identified)


class KnownHosts:
    """Answers only to names that are ours.

    A page elsewhere can point its own name at this machine's address and would then, for the
    browser, be of one origin with us (DNS rebinding). Its name in the Host header gives it away.
    """

    _ANY_HOST = ("/healthz", "/readyz")  # probes come by address

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._ANY_HOST:
            host = Headers(scope=scope).get("host", "")
            if not self._is_known(host):
                refusal = problem_response(
                    421,
                    "unknown_host",
                    f"this service does not answer to the host {host!r}; allow it with "
                    "--allowed-host or DRMAD_ALLOWED_HOSTS",
                    instance=scope["path"],
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name == "localhost" or name in self._hosts or "*" in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _announced_bytes(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdigit() else 0
