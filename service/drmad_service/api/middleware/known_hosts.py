"""Answers only requests that name a host of this service."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from drmad_service.api.problem_details import problem_response


class KnownHosts:
    """Refuses requests whose Host header names neither loopback nor an allowed host.

    It prevents DNS rebinding: a page elsewhere can resolve its own name to this machine's address,
    and the browser would then treat both as one origin. The Host header holds the page's name.
    """

    _ANY_HOST = ("/healthz", "/readyz")  # probes use the address

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._ANY_HOST:
            named = Headers(scope=scope).getlist("host")
            if len(named) > 1:  # a proxy could have judged another one than we do
                refusal = problem_response(
                    400,
                    "bad_request",
                    f"expected one Host header, got {len(named)}",
                    instance=scope["path"],
                )
                await refusal(scope, receive, send)
                return
            host = named[0] if named else ""
            if not self._is_known(host):
                refusal = problem_response(
                    421,
                    "unknown_host",
                    f"this service does not serve the host {host!r}; allow it with "
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
