"""What the processes that read minibatches ahead run."""

import mmap
import os
import threading
import traceback
from collections.abc import Sequence
from ctypes import c_longlong
from dataclasses import dataclass
from multiprocessing import parent_process, reduction
from multiprocessing.connection import wait
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
        rows, seeds: see Items.take.
    """

    turn: int
    slot: int
    rows: Sequence[int]
    seeds: Sequence[int] | None


@dataclass(frozen=True)
class Unread:
    """A minibatch that could not be read: the error with its place, for a message."""

    error: str


class Reader:
    """Reads minibatches in a process of a DataLoader, which takes it for a data set."""

    def __init__(self, items: Items, slots: SharedSlots, turn: c_longlong) -> None:
        """`turn` is shared memory with the number of the order that counts."""
        self._items = items
        self._slots = slots
        self._turn = turn

    def __getitem__(self, row: int) -> Any:
        raise NotImplementedError("minibatches are read by __getitems__")

    def __getitems__(self, request: Request) -> Packed | Unread | None:
        """The minibatch, the error of its items, or None if nothing needs it any longer."""
        if request.turn != self._turn.value:
            return None
        try:
            return self._slots.pack(
                request.slot, self._items.take(torch.tensor(request.rows), request.seeds)
            )
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

    def apply(self, worker: int) -> None:
        """Begins a reading process."""
        # A sum over several threads may differ in its last bits from that over one.
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process as soon as the one that trains is gone, however it ended.

    torch watches the parent process, which is the fork server here. The server lives for as long as
    a process that it has started.
    """
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def content_of(read: Any) -> Any:
    """The DataLoader's collate function: minibatches are already collated."""
    return read


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
