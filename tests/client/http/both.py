"""The asynchronous client behind the synchronous one's face, so that one suite tests both."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

from drmad_client.http.async_client import AsyncClient
from drmad_client.http.async_job_handle import AsyncJob
from drmad_client.http.async_jobs import AsyncJobPage, AsyncJobs
from drmad_client.http.async_uploads import AsyncCodeUploads, AsyncDataUploads
from drmad_client.http.client import Client

_WRAPPED = (AsyncClient, AsyncCodeUploads, AsyncDataUploads, AsyncJobs, AsyncJob, AsyncJobPage)


MakeClient = Callable[..., Client]


@contextlib.contextmanager
def clients(kind: str) -> Iterator[MakeClient]:
    """Makes Clients, or AsyncClients ("async") with the same face; closes them at the end."""
    if kind == "sync":
        with contextlib.ExitStack() as stack:
            yield lambda *args, **options: stack.enter_context(Client(*args, **options))
        return
    with asyncio.Runner() as runner:
        made: list[AsyncClient] = []

        def make(*args: Any, **options: Any) -> Client:
            made.append(AsyncClient(*args, **options))
            return cast(Client, Blocking(made[-1], runner))

        yield make
        for client in made:
            runner.run(client.close())


class Blocking:
    """Awaits what its target answers; what cannot be awaited it hands through."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.ismethod(value):
            return self._answer(value)
        return lambda *args, **kwargs: self._answer(value(*args, **kwargs))

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(aiter(self._target))

    def __eq__(self, other: object) -> bool:
        return bool(self._target == (other._target if isinstance(other, Blocking) else other))

    def __hash__(self) -> int:
        return hash(self._target)

    def __repr__(self) -> str:
        return repr(self._target)

    def _answer(self, value: Any) -> Any:
        if inspect.iscoroutine(value):
            value = self._runner.run(value)
        if inspect.isasyncgen(value):
            return self._iterate(value)
        if type(value) is list:
            return [self._answer(item) for item in value]
        return Blocking(value, self._runner) if isinstance(value, _WRAPPED) else value

    def _iterate(self, values: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(values, _END)

        try:
            while (value := self._runner.run(following())) is not _END:
                yield self._answer(value)
        finally:
            self._runner.run(values.aclose())


_END = object()
