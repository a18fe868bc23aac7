"""Serves the application below a path, such as https://example.com/tuning, behind a proxy."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """Takes the root path off the requests and puts it before the addresses of redirects.

    A proxy may pass the path on or take it off itself: a request without it is served, too, which
    is what probes inside the cluster send.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        """`root` begins with a slash and ends without one."""
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")

        async def with_root(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = self._below(headers["location"], host)
            await send(message)

        await self._app(self._inner(scope), receive, with_root)

    def _inner(self, scope: Scope) -> Scope:
        path: str = scope["path"]
        if path != self._root and not path.startswith(f"{self._root}/"):
            return scope
        inner = {**scope, "path": path.removeprefix(self._root) or "/"}
        raw: bytes | None = scope.get("raw_path")
        if raw is not None and raw.startswith(self._root.encode()):
            inner["raw_path"] = raw.removeprefix(self._root.encode()) or b"/"
        return inner

    def _below(self, location: str, host: str) -> str:
        parts = urlsplit(location)
        if parts.netloc not in ("", host) or not parts.path.startswith("/"):
            return location
        if parts.path == self._root or parts.path.startswith(f"{self._root}/"):
            return location
        return urlunsplit(parts._replace(path=self._root + parts.path))
