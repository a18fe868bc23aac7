"""The scheduler's connection to the process that drives Ray: remote objects as numbers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client import __version__
from drmad_service.errors import ServiceStartError
from drmad_service.ray_driver.codec import LENGTH, MAX_BYTES, Undecodable, decode, encode
from drmad_workers.ray_actor.messages import TWO_RESULTS, Failure

logger = logging.getLogger(__name__)


class RayLost(ServiceStartError):
    """Ray no longer answers; the scheduler must be started again."""


class CallFailed(Exception):
    """A remote call has no result."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Remote:
    """Something of the other process, which forgets it when this object is gone."""

    def __init__(self, driver: RayDriver) -> None:
        self.driver = driver
        self.number = driver.new_number()

    def __del__(self) -> None:
        self.driver.forget(self.number)


class Reference(_Remote):
    """A value in Ray's object store, which may not be there yet."""

    def future(self) -> asyncio.Future[Any]:
        """The value, once it is there.

        The future raises CallFailed if the call failed, and RayLost if Ray is lost.
        """
        return self.driver.result_of(self)


class Reservation(_Remote):
    """Resources that are held together; `ready` is a reference that is there with them."""

    def __init__(self, driver: RayDriver) -> None:
        super().__init__(driver)
        self.ready = Reference(driver)


class Actor(_Remote):
    """A remote worker. `actor.method.remote(...)` calls a method of it, as with Ray itself."""

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(self, name)


class _Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor = actor
        self._name = name

    def remote(self, *arguments: Any) -> Any:
        """A reference to the result, or two where the method returns two objects."""
        driver = self._actor.driver
        made = [Reference(driver) for _ in range(2 if self._name in TWO_RESULTS else 1)]
        driver.send("call", [each.number for each in made], self._actor, self._name, arguments)
        return made[0] if len(made) == 1 else made


class RayDriver:
    """Requests to the process that drives Ray. Its methods are called on one event loop.

    Only `nodes` and futures wait for an answer; the other requests are executed in their order.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._forgotten: deque[int] = deque()
        self._lost: RayLost | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self, ended: str) -> None:
        """Wait until the process is connected to Ray; warn if it has another version of drmad.

        Args:
            ended: the message of the error if it ends before.
        Raises:
            ServiceStartError: it could not connect to Ray, or it has ended.
        """
        try:
            status, *said = await self._receive()
        except (OSError, EOFError, Undecodable) as error:
            raise ServiceStartError(ended) from error
        if status != "ready":
            raise ServiceStartError(str(*said))
        version = str(*said) or "an earlier version"
        if version != __version__:
            logger.warning(
                "the process that drives Ray has drmad %s, this scheduler %s: replace Ray's head, "
                "`drmad ray-driver` and the workers together with the schedulers",
                version,
                __version__,
            )
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """End the connection, and with it the process and what it started on Ray."""
        if self._following is not None:
            self._following.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def nodes(self) -> list[dict[str, Any]]:
        """Ray's descriptions of its nodes, the dead ones among them.

        Raises:
            RayLost: the process that drives Ray has ended.
        """
        number = self.new_number()
        answer = self._wait_for(number)
        self.send("nodes", number)
        found: list[dict[str, Any]] = await answer
        return found

    def put(self, value: Any) -> Reference:
        """The value in Ray's object store, for several calls."""
        made = Reference(self)
        self.send("put", made.number, value)
        return made

    def create(
        self,
        kind: str,
        options: Mapping[str, Any],
        place: Sequence[Any] | None,
        *arguments: Any,
    ) -> Actor:
        """Start an actor of a class of drmad_workers.ray_actor; see Session for `place`."""
        actor = Actor(self)
        self.send("create", actor.number, kind, options, place, arguments)
        return actor

    def reserve(
        self, bundles: Sequence[Mapping[str, float]], strategy: str, nodes: Sequence[str]
    ) -> Reservation:
        """Request the bundles together, each on its node."""
        made = Reservation(self)
        self.send("reserve", made.number, made.ready.number, bundles, strategy, nodes)
        return made

    def warm(self, node: str, count: int) -> None:
        """Keep `count` worker processes on a node that wait with torch imported."""
        self.send("warm", node, count)

    def kill(self, actor: Actor) -> None:
        self.send("kill", actor)

    def remove(self, reservation: Reservation) -> None:
        self.send("remove", reservation)

    def request_nodes(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Have Ray's autoscaler add nodes until the bundles fit."""
        self.send("request", bundles)

    def result_of(self, reference: Reference) -> asyncio.Future[Any]:
        number = self.new_number()
        future = self._wait_for(number)
        self.send("result", number, reference)
        return future

    def new_number(self) -> int:
        return next(self._numbers)

    def forget(self, number: int) -> None:
        """Release an object with the next request; may be called by any thread."""
        self._forgotten.append(number)

    def send(self, operation: str, *arguments: Any) -> None:
        """Send a request; a lost connection takes none, and its futures say so."""
        if self._lost is not None:
            return
        self._writer.write(encode([operation, *arguments], _number_of))
        if operation != "release" and self._forgotten:
            self.send("release", [self._forgotten.popleft() for _ in range(len(self._forgotten))])

    def _wait_for(self, number: int) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            future.set_exception(self._lost)
        else:
            self._waiting[number] = future
        return future

    async def _follow(self) -> None:
        try:
            while True:
                self._settle(await self._receive())
        except (OSError, EOFError, Undecodable, ValueError, TypeError) as error:
            what = str(error) if isinstance(error, Undecodable) else "its process has ended"
            self._lost = RayLost(f"the connection to Ray is lost: {what}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._lost)
        self._waiting = {}

    def _settle(self, message: Any) -> None:
        kind, *rest = message
        number, value = rest
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return
        if kind == "result":
            future.set_result(value)
        elif kind == "error" and isinstance(value, Failure):
            future.set_exception(CallFailed(value))
        else:
            raise Undecodable(f"unexpected message {kind!r}")

    async def _receive(self) -> Any:
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > MAX_BYTES:
            raise Undecodable(f"a message of {length:,} bytes")
        return decode(await self._reader.readexactly(length))


def _number_of(value: Any) -> int | None:
    return value.number if isinstance(value, _Remote) else None
