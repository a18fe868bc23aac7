"""Processes that form a group of workers, and do the same work as often as they are asked."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from drmad_workers.distributed.group import WorkerGroup

T = TypeVar("T")

TIMEOUT = timedelta(minutes=5)

_group: WorkerGroup


class Processes:
    """A group of workers, each in a process of its own."""

    def __init__(self, folder: Path, size: int) -> None:
        """`folder` is an empty one."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "drmad_workers.tuning"])
        self._workers = [
            ProcessPoolExecutor(1, context, _join, (folder, rank, size)) for rank in range(size)
        ]

    def begin(self, work: Callable[..., T], *args: Any) -> list[Future[T]]:
        """Calls `work(group, *args)` in every process; `work` must be a function of a module."""
        return [worker.submit(_do, work, args) for worker in self._workers]

    def run(self, work: Callable[..., T], *args: Any) -> list[T]:
        """The results of `begin`, in the order of the ranks."""
        return [each.result() for each in self.begin(work, *args)]

    def close(self) -> None:
        for worker in self._workers:
            worker.shutdown()


def _join(folder: Path, rank: int, size: int) -> None:
    global _group
    torch.set_num_threads(1)
    _group = WorkerGroup(folder, rank, size, torch.device("cpu"), TIMEOUT)


def _do(work: Callable[..., T], args: tuple[Any, ...]) -> T:
    return work(_group, *args)
