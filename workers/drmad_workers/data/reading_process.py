"""What the processes that read minibatches ahead run."""

import mmap
import os
import signal
import threading
import traceback
from ctypes import c_longlong
from dataclasses import dataclass
from multiprocessing import parent_process, reduction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drmad_workers.data.items import Items
from drmad_workers.data.shared_slots import Packed, SharedSlots


@dataclass(frozen=True)
class Request:
    """One minibatch to read.

    Attributes:
        turn: the number of the order that asks for it; one that was replaced needs it no longer.
        slot: where its tensors are written.
        of: its rows and seeds, shape (rows,) each, in this slot; see Items.take. A request is thus
            short, and sending it does not wait for the process.
        collated: whether the items are joined to the content of a minibatch.
    """

    turn: int
    slot: int
    of: Packed
    collated: bool


@dataclass(frozen=True)
class Unread:
    """A minibatch that could not be read: the error with its place, for a message."""

    error: str


class Reader:
    """Reads minibatches into slots."""

    def __init__(self, items: Items, slots: SharedSlots, turn: c_longlong) -> None:
        """`turn` is shared memory with the number of the order that counts."""
        self._items = items
        self._slots = slots
        self._turn = turn

    def read(self, request: Request) -> Packed | Unread | None:
        """The minibatch, the error of its items, or None if nothing needs it any longer."""
        if request.turn != self._turn.value:
            return None
        try:
            rows, seeds = self._slots.unpack(request.of)
            take = self._items.take if request.collated else self._items.read
            content = take(rows, None if seeds is None else seeds.tolist())
            return self._slots.pack(request.slot, content)
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
            return Unread(f"{type(error).__name__}: {error}{where}")


@dataclass(frozen=True)
class Settings:
    """What items may depend on in the process that trains; a reading process takes it over."""

    threads: int
    dtype: torch.dtype

    @classmethod
    def now(cls) -> "Settings":
        return cls(torch.get_num_threads(), torch.get_default_dtype())

    def apply(self) -> None:
        # A sum over several threads may differ in its last bits from that over one.
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)


def answer(reader: Reader, settings: Settings, pipe: Connection) -> None:
    """Answers requests in a process of its own, until the other end of the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings.apply()
    if hasattr(os, "SCHED_BATCH"):
        # Where no core is idle, a request must not take the core from the process that sends it.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # An interrupt from the keyboard reaches this process too; the one that trains handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            pipe.send(reader.read(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """Ends this process as soon as the one that trains is gone, also while it reads an item.

    The parent of this process is the fork server, which lives as long as what it has started.
    """
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _opened(
    path: str, dtype: Any, start: int, shape: Any, strides: Any, mode: Any
) -> "np.memmap[Any, Any]":
    """A view of a file, from its byte `start` on."""
    whole = np.memmap(path, np.uint8, mode)
    view = np.ndarray(shape, dtype, whole, start, strides)
    return view.view(np.memmap)


def _reduced(array: "np.memmap[Any, Any]") -> Any:
    """A memory map as the place of its file, instead of a copy of its content.

    A map that keeps what is written to itself is sent as a copy, and so is the result of an
    operation, which has the type and no file.
    """
    mapped = array._mmap  # type: ignore[attr-defined]
    if mapped is None or array.filename is None or array.mode not in ("r", "r+"):
        return np.asarray(array).__reduce__()
    first = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # where the map begins
    start += array.__array_interface__["data"][0] - first
    return _opened, (
        str(array.filename), array.dtype, start, array.shape, array.strides, array.mode,
    )  # fmt: skip


reduction.register(np.memmap, _reduced)
