"""Runs flows over an asynchronous httpx client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import httpx

from drmad_client.http.protocol.calls import Call
from drmad_client.http.protocol.flows import Flows
from drmad_client.http.protocol.steps import (
    Flow,
    FlowOutcome,
    FlowStep,
    Item,
    Pause,
    ReadStream,
    Send,
    Stream,
)
from drmad_client.http.running import asyncio_runtime

T = TypeVar("T")


class AsyncFlowRunner:
    """Runs the flows of one service."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, timeout_s: float) -> None:
        self.flows = Flows(base_url)
        self._http = http
        self._timeout_s = timeout_s

    async def send(self, call: Call[T]) -> T:
        return await self.run(self.flows.send(call))

    async def run(self, flow: Flow[T]) -> T:
        """Perform the steps of a flow; return its result."""
        outcome: FlowOutcome = None
        connection = AsyncConnection(self._http, self._timeout_s)
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = await connection.perform(step)

    async def iterate(self, flow: Stream[T]) -> AsyncIterator[T]:
        """Perform the steps of a flow; yield its items as they come."""
        outcome: FlowOutcome = None
        connection = AsyncConnection(self._http, self._timeout_s)
        try:
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Item):
                    outcome = None
                    yield step.value
                else:
                    outcome = await connection.perform(step)
        finally:
            await connection.close()


class AsyncConnection:
    """Performs the steps of one flow, which has at most one stream open."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._stream: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def perform(self, step: FlowStep) -> FlowOutcome:
        try:
            match step:
                case Pause(seconds):
                    await asyncio_runtime.sleep(seconds)
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
        content = asyncio_runtime.read_pieces(body) if isinstance(body, Path) else body
        arguments = step.call.request_arguments(self._timeout_s)
        request = self._http.build_request(**arguments, content=content)
        response = await self._http.send(request, stream=step.stream)
        if step.stream:
            self._stream = response
            if response.is_success:
                self._pieces = response.aiter_bytes()
            else:
                await response.aread()
        return response
