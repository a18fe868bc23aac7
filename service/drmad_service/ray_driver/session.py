"""Drives Ray for one scheduler, which is connected by a socket. It holds no secret of the service.

Run as `python -m drmad_service.ray_driver.session`. It ends with its connection, and Ray then ends
what it started.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from drmad_client import __version__
from drmad_service.errors import ServiceStartError
from drmad_service.ray_driver import confinement
from drmad_service.ray_driver.codec import LENGTH, MAX_BYTES, Undecodable, decode, encode
from drmad_service.ray_driver.ray_errors import failure_of
from drmad_service.ray_driver.ray_start import start_ray
from drmad_service.ray_driver.warm_processes import WarmProcesses
from drmad_workers.ray_actor.messages import Failure

logger = logging.getLogger(__name__)

END_S = 6.0
"""How long Ray may take to end; then the process ends without it."""


_MAKES: Mapping[str, Callable[[Sequence[Any]], Sequence[int]]] = {
    "put": lambda arguments: arguments[:1],
    "create": lambda arguments: arguments[:1],
    "reserve": lambda arguments: arguments[:2],
    "call": lambda arguments: arguments[0],
}
"""The numbers of what a request makes."""


class _Refused(Exception):
    """Stands for an object that could not be made."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Session:
    """Executes the requests of one scheduler in their order.

    A request is a list: the name of a method of this class without its underscore, and arguments.
    The scheduler chooses the numbers of references, actors and reservations.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._objects: dict[int, Any] = {}
        self._processes = WarmProcesses()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def serve(self, address: str, cpus: float | None, warm: int = 0) -> None:
        """Connect to Ray and execute requests until the scheduler ends the connection."""
        threading.Thread(target=self._receive, daemon=True, name="requests").start()
        try:
            start_ray(address, cpus, warm)
        except ServiceStartError as error:
            self._send(["failed", str(error)])
            return
        self._send(["ready", __version__])
        while (request := self._requests.get()) is not None:
            operation, *arguments = decode(request, self._objects.__getitem__)
            self._execute(operation, arguments)

    def _execute(self, operation: str, arguments: Sequence[Any]) -> None:
        """Execute a request. Its failure becomes that of whatever it was to make."""
        try:
            _must_exist(arguments)
            getattr(self, f"_{operation}")(*arguments)
        except Exception as error:
            failure = error.failure if isinstance(error, _Refused) else failure_of(error)
            if operation in ("nodes", "result"):
                self._send(["error", arguments[0], failure])
            elif operation in _MAKES:
                self._objects.update(dict.fromkeys(_MAKES[operation](arguments), _Refused(failure)))
            elif not isinstance(error, _Refused):
                logger.warning("Ray refused a request, %s: %s", operation, failure.message)

    def _nodes(self, number: int) -> None:
        import ray

        fields = ("NodeID", "NodeManagerHostname", "NodeManagerAddress", "Alive", "Resources")
        nodes = [
            {name: node[name] for name in fields if name in node}
            for node in ray.nodes()  # type: ignore[no-untyped-call]
        ]
        self._send(["result", number, nodes])

    def _put(self, number: int, value: Any) -> None:
        import ray

        self._objects[number] = ray.put(value)

    def _create(
        self,
        number: int,
        kind: str,
        options: Mapping[str, Any],
        place: Sequence[Any] | None,
        arguments: Sequence[Any],
    ) -> None:
        """Start an actor.

        Args:
            options: those of Ray; `warm` is a node and a number: the actor takes a process that
                waits on the node, and others are started until that many wait again.
            place: ["node", its id] or ["reservation", the reservation, the bundle's index].
        """
        _must_exist(arguments)
        strategy = {} if place is None else {"scheduling_strategy": strategy_of(*place)}
        node, count = options.get("warm", ("", 0))
        own = {name: value for name, value in options.items() if name != "warm"}
        process = self._processes.take(node) if count else {}
        actor = actor_class(kind).options(**own, **process, **strategy).remote(*arguments)
        self._objects[number] = actor
        if count:
            self._processes.keep(node, count)

    def _call(self, numbers: Sequence[int], actor: Any, method: str, arguments: Any) -> None:
        _must_exist(arguments)
        made = getattr(actor, method).remote(*arguments)
        references = [made] if len(numbers) == 1 else made
        self._objects.update(zip(numbers, references, strict=True))

    def _result(self, number: int, reference: Any) -> None:
        """Send the value of a reference once it is there."""
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._send_result(number, done))

    def _send_result(self, number: int, done: Future[Any]) -> None:
        from ray.util.placement_group import PlacementGroup

        try:
            value = done.result()
            if isinstance(value, PlacementGroup):  # it is ready, which is all there is to know
                value = None
            message = encode(["result", number, value])
        except Undecodable as error:
            failure = Failure("worker_error", f"a worker returned an invalid value: {error}")
            message = encode(["error", number, failure])
        except Exception as error:  # of Ray, or whatever an unpickled value raised
            message = encode(["error", number, failure_of(error)])
        self._send_bytes(message)

    def _reserve(
        self, number: int, ready: int, bundles: Any, strategy: str, nodes: Sequence[str]
    ) -> None:
        from ray.util.placement_group import placement_group

        selectors = [{"ray.io/node-id": node} for node in nodes]
        group = placement_group(bundles, strategy=strategy, bundle_label_selector=selectors)
        self._objects[number] = group
        self._objects[ready] = group.ready()

    def _warm(self, node: str, count: int) -> None:
        self._processes.keep(node, count)

    def _kill(self, actor: Any) -> None:
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            ray.kill(actor)

    def _remove(self, reservation: Any) -> None:
        from ray.exceptions import RayError
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(RayError):
            remove_placement_group(reservation)

    def _request(self, bundles: Any) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)

    def _release(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._objects.pop(number, None)

    def _receive(self) -> None:
        """Read requests as they come; the end of the connection ends the process."""
        with contextlib.suppress(OSError):
            while (head := self._read(LENGTH.size)) is not None:
                (length,) = LENGTH.unpack(head)
                if length > MAX_BYTES or (content := self._read(length)) is None:
                    break
                self._requests.put(content)
        self._requests.put(None)
        ending = threading.Timer(END_S, os._exit, [1])
        ending.daemon = True
        ending.start()

    def _read(self, length: int) -> bytes | None:
        content = bytearray(length)
        view = memoryview(content)
        while view:
            received = self._connection.recv_into(view)
            if not received:
                return None
            view = view[received:]
        return bytes(content)

    def _send(self, message: Sequence[Any]) -> None:
        self._send_bytes(encode(message))

    def _send_bytes(self, message: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):  # `_receive` sees that it has ended
            self._connection.sendall(message)


def _must_exist(arguments: Sequence[Any]) -> None:
    """
    Raises:
        _Refused: one of the arguments could not be made.
    """
    for argument in arguments:
        if isinstance(argument, _Refused):
            raise argument


def strategy_of(kind: str, where: Any, index: int = 0) -> Any:
    """The scheduling strategy of a place, see Session."""
    from ray.util.scheduling_strategies import (
        NodeAffinitySchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )

    if kind == "node":
        return NodeAffinitySchedulingStrategy(where, soft=False)
    return PlacementGroupSchedulingStrategy(where, placement_group_bundle_index=index)


def actor_class(kind: str) -> Any:
    """The Ray actor of a name."""
    from drmad_workers.ray_actor.actor import Replica
    from drmad_workers.ray_actor.printed.output_reader import OutputReader
    from drmad_workers.ray_actor.side_runs.retraining_worker import RetrainingWorker
    from drmad_workers.ray_actor.side_runs.validator import Validator

    classes = {
        "OutputReader": OutputReader,
        "Replica": Replica,
        "RetrainingWorker": RetrainingWorker,
        "Validator": Validator,
    }
    return classes[kind]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the connection")
    parser.add_argument("--address", required=True)
    parser.add_argument("--cpus", type=float, default=None)
    parser.add_argument("--warm", type=int, default=0, help="idle processes of a local Ray")
    for kind in ("closed", "readable", "writable"):
        parser.add_argument(f"--{kind}", type=Path, action="append", default=[])
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if given.closed and confinement.is_available():
        confinement.confine(given.closed, given.readable, given.writable)
    Session(socket.socket(fileno=given.socket)).serve(given.address, given.cpus, given.warm)
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
