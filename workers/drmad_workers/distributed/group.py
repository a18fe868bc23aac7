"""Workers in processes of their own that sum tensors by torch.distributed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from drmad_workers.errors import Stopped, WorkerLost, WorkersDiffer

TIMEOUT = timedelta(minutes=30)
"""Bounds the time that a worker waits for another one, which may still measure or write."""

LOOPBACK = "127.0.0.1"
"""The workers of a replica lie on one machine, and nobody else may connect to them."""

BACKENDS: Any = dist
"""torch.distributed, whose types leave out the stores and the groups of single backends."""

POLL_S = 0.02
"""The least time between two questions whether to stop, in seconds."""

FLAG_EVERY = 50
"""The sums on a GPU after which a request to stop is read, so that no other waits for the device.
"""


SMALL = 4096
"""The numbers of a tensor up to which it is summed in one message with others, in float64."""


class Group(Protocol):
    """The part of a process group of torch.distributed that is used here."""

    def allreduce(self, tensors: list[Tensor]) -> dist.Work: ...


class WorkerGroup:
    """The workers of one training run, each in a process of its own on the same machine.

    They find each other through a file. Tensors on the CPU are summed by gloo, those on a GPU by
    NCCL. The process has no default group of torch.distributed, so that a user's code that asks for
    one finds none.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        device: torch.device,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        """
        Args:
            folder: a folder of this group alone, which all workers reach.
            rank, size: see Workers.
            device: that of the tensors.
            timeout: the time after which a worker that does not answer is lost.
        Raises:
            WorkerLost: the other workers did not join in time.
        """
        self.rank = rank
        self.size = size
        self._should_stop: Callable[[], bool] | None = None
        self._next_poll = 0.0
        self._sums = 0
        self._flag = torch.zeros(1, dtype=torch.float64, device=device)
        self._is_gpu = device.type == "cuda"
        with self._watched():
            store = BACKENDS.FileStore(str(folder / "workers"), size)
            store.set_timeout(timeout)
            connect = _nccl if self._is_gpu else _gloo
            self._group: Group | None = connect(store, rank, size, timeout)
        self.sum()

    def sum(self, *parts: Tensor) -> None:
        """See Workers."""
        if self._should_stop is not None and time.perf_counter() >= self._next_poll:
            self._flag.fill_(float(self._should_stop()))
            self._next_poll = time.perf_counter() + POLL_S
        small = [part for part in parts if part.numel() <= SMALL]
        together = torch.cat([self._flag, *(part.detach().reshape(-1).double() for part in small)])
        with self._watched():
            group = self._require_open()
            large = [part for part in parts if part.numel() > SMALL]
            works = [group.allreduce([part]) for part in (*large, together)]
            for work in works:
                work.wait()
        flag, *found = torch.split(together, [1, *(part.numel() for part in small)])
        for part, whole in zip(small, found, strict=True):
            part.detach().copy_(whole.view(part.shape))
        self._flag.copy_(flag)
        self._sums += 1
        if (not self._is_gpu or self._sums % FLAG_EVERY == 0) and float(flag) > 0.0:
            self._flag.zero_()
            raise Stopped("distributed", self._sums)

    def largest(self, number: float) -> float:
        """See Workers."""
        every = torch.zeros(self.size, dtype=torch.float64, device=self._flag.device)
        every[self.rank] = number
        self.sum(every)
        return float(every.max())

    def require_same(self, tensor: Tensor) -> None:
        """See Workers."""
        every = torch.zeros(self.size, 2, dtype=torch.float64, device=self._flag.device)
        flat = tensor.detach().reshape(-1).double()
        every[self.rank, 0] = flat.sum()
        every[self.rank, 1] = flat @ flat
        self.sum(every)
        if not torch.equal(every, every[:1].expand_as(every)):
            raise WorkersDiffer(every[:, 1].sqrt().tolist())

    @contextmanager
    def stopped_by(self, should_stop: Callable[[], bool] | None) -> Iterator[None]:
        """Has `should_stop` of this worker end the work of all of them."""
        self._should_stop = should_stop
        try:
            yield
        finally:
            self._should_stop = None

    def close(self) -> None:
        """Leaves the group: the calls of the other workers then raise WorkerLost."""
        self._group = None

    def _require_open(self) -> Group:
        if self._group is None:
            raise RuntimeError("this worker has left its group")
        return self._group

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.close()
            raise WorkerLost(self.rank, self.size, str(error).partition("\n")[0]) from error


def _gloo(store: Any, rank: int, size: int, timeout: timedelta) -> Group:
    gloo = BACKENDS.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=LOOPBACK)]
    options._timeout = timeout
    group: Group = gloo(store, rank, size, options)
    return group


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Group:
    nccl = BACKENDS.ProcessGroupNCCL  # builds of torch without CUDA have none
    options = nccl.Options()
    options._timeout = timeout
    group: Group = nccl(store, rank, size, options)
    return group
