"""What the workers of a job, or of a run beside it, print: their reports, and their last words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drmad_service.ray_driver.connection import CallFailed, RayDriver
from drmad_service.scheduling.ray_futures import future_of
from drmad_service.settings import SchedulerSettings
from drmad_workers.ray_actor.messages import ProgressReport


@dataclass(frozen=True)
class Worker:
    """A process that computes for a job, or for a run beside it.

    Attributes:
        actor: its Ray actor.
        node: the id of the node on which it runs.
        output: the name of what it prints, for an OutputReader of its node.
        source: its name in the log, see LogLine.
        replica: the number of the first replica that it computes.
    """

    actor: Any
    node: str
    output: str
    source: str
    replica: int = 0


@dataclass(frozen=True)
class Remains:
    """What workers of one node printed last.

    Attributes:
        workers: those that were asked for.
        reader: the actor that reads.
        lines: the reference to a list of lines of each worker.
    """

    workers: Sequence[Worker]
    reader: Any
    lines: Any


class PrintedLines:
    """Requests reports from workers, at most one at a time from each."""

    def __init__(self) -> None:
        self._requested: dict[str, asyncio.Future[ProgressReport]] = {}
        self._read: dict[str, Sequence[int]] = {}

    @property
    def read(self) -> Mapping[str, Sequence[int]]:
        """The bytes of the standard output and error that were reported, by name of the output."""
        return self._read

    def take(self, worker: Worker) -> ProgressReport | None:
        """Take the report of a worker, if it has arrived, and request the next one."""
        requested = self._requested.get(worker.output)
        if requested is not None and not requested.done():
            return None
        self._requested[worker.output] = future_of(worker.actor.report.remote())
        with contextlib.suppress(CallFailed):  # whoever awaits the actor's result handles the loss
            if requested is not None:
                report = requested.result()
                self._read[worker.output] = report.read
                return report
        return None

    async def arrive(self, timeout_s: float) -> None:
        """Wait for the reports that are on their way."""
        if self._requested:
            await asyncio.wait(self._requested.values(), timeout=timeout_s)

    def discard(self) -> None:
        """Forget the pending requests: their workers were killed."""
        self._requested = {}
        self._read = {}


def request_remains(
    driver: RayDriver, workers: Iterable[Worker], read: Mapping[str, Sequence[int]]
) -> list[Remains]:
    """Ask the nodes of workers that may have ended; the caller kills the readers.

    Args:
        read: see PrintedLines.
    """
    by_node: dict[str, list[Worker]] = {}
    for worker in workers:
        by_node.setdefault(worker.node, []).append(worker)
    found = []
    for node, there in by_node.items():
        reader = driver.create("OutputReader", {}, ("node", node))
        outputs = [(each.output, tuple(read.get(each.output, (0, 0)))) for each in there]
        found.append(Remains(there, reader, reader.read.remote(outputs)))
    return found


async def lines_of(
    remains: Sequence[Remains], settings: SchedulerSettings, heard: Callable[[], Awaitable[Any]]
) -> list[tuple[Worker, list[str]]]:
    """What ended workers printed last.

    Args:
        heard: polls the control requests while the nodes are asked.
    """
    futures = [future_of(each.lines) for each in remains]
    until = time.monotonic() + settings.remains_s  # a node that is gone may never answer
    while not all(future.done() for future in futures) and time.monotonic() < until:
        await asyncio.wait(futures, timeout=settings.poll_s)
        await heard()
    found = []
    for each, future in zip(remains, futures, strict=True):
        if future.done() and future.exception() is None:
            found += [
                (worker, lines)
                for worker, lines in zip(each.workers, future.result(), strict=True)
                if lines
            ]
    return found
