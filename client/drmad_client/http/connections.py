"""How the steps of a flow are performed over httpx, in both ways, and where the service is."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

from drmad_client import __version__
from drmad_client.errors import ConnectionFailed
from drmad_client.http import local_key
from drmad_client.http.flows import FlowOutcome, FlowStep, Pause, ReadStream, Send
from drmad_client.http.uploads import async_pieces, pieces

DEFAULT_URL = "http://127.0.0.1:8080"


class Connection:
    """Performs the steps of one flow; holds the stream that it has open, one at a time."""

    def __init__(self, http: httpx.Client, timeout_s: float) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._stream: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def perform(self, step: FlowStep) -> FlowOutcome:
        try:
            match step:
                case Pause(seconds):
                    time.sleep(seconds)
                    return None
                case ReadStream():
                    return next(self._pieces, None)
                case Send():
                    self.close()
                    return self._send(step)
        except httpx.RequestError as error:
            return error

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _send(self, step: Send) -> httpx.Response:
        body = step.call.body
        content = pieces(body) if isinstance(body, Path) else body
        request = self._http.build_request(**_request(step, self._timeout_s), content=content)
        response = self._http.send(request, stream=step.stream)
        if step.stream:
            self._stream = response
            if response.is_success:
                self._pieces = response.iter_bytes()
            else:
                response.read()
        return response


class AsyncConnection:
    """`Connection`, awaited."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._stream: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def perform(self, step: FlowStep) -> FlowOutcome:
        try:
            match step:
                case Pause(seconds):
                    import asyncio  # a tenth of what it takes to load the client

                    await asyncio.sleep(seconds)
                    return None
                case ReadStream():
                    assert self._pieces is not None
                    return await anext(self._pieces, None)
                case Send():
                    await self.close()
                    return await self._send(step)
        except httpx.RequestError as error:
            return error

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def _send(self, step: Send) -> httpx.Response:
        body = step.call.body
        content = async_pieces(body) if isinstance(body, Path) else body
        request = self._http.build_request(**_request(step, self._timeout_s), content=content)
        response = await self._http.send(request, stream=step.stream)
        if step.stream:
            self._stream = response
            if response.is_success:
                self._pieces = response.aiter_bytes()
            else:
                await response.aread()
        return response


def _request(step: Send, timeout_s: float) -> dict[str, Any]:
    call = step.call
    return {
        "method": call.method,
        "url": call.path,
        "params": {name: value for name, value in call.params.items() if value is not None},
        "headers": dict(call.headers),
        "timeout": httpx.Timeout(timeout_s, read=timeout_s + call.held_s),
    }


def where(given: str | None) -> str:
    """The address that was given, or that of the environment, or that of this machine."""
    return (given or os.environ.get("DRMAD_URL") or DEFAULT_URL).rstrip("/")


def options(base_url: str, api_key: str | None) -> dict[str, Any]:
    """How httpx's clients are set up, of either kind."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConnectionFailed(f"the URL must be like {DEFAULT_URL}, got {base_url!r}")
    headers = {"User-Agent": f"drmad/{__version__}", "Accept": "application/json"}
    if key := api_key or os.environ.get("DRMAD_API_KEY") or local_key.find(url.host):
        headers["Authorization"] = f"Bearer {key.strip()}"
    # A proxy of the environment cannot reach this machine's own loopback.
    is_local = url.host in local_key.LOOPBACK
    return {"base_url": url, "headers": headers, "trust_env": not is_local}
