"""Memory that several processes share, through which minibatches pass without a copy of their own.

torch passes a tensor between processes through a file of its own in /dev/shm and a handshake per
tensor, which takes some milliseconds; containers often bound /dev/shm at 64 MB. Here all tensors of
a minibatch lie in one slot of a file in memory, whose pages are used again and again.
"""

import mmap
import os
import tempfile
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor

from drmad_workers import trees

SLOT_BYTES = 2**36
"""The distance of two slots in the file, in bytes. Only pages that are written take memory."""
ALIGNMENT = 64
"""Divides the offset of every tensor in its slot, in bytes."""


class Place:
    """Where a tensor lies in a slot: its first byte, and what it is read as.

    No dataclass, which would be a structure of its own; see drmad_workers.trees.
    """

    def __init__(self, offset: int, tensor: Tensor) -> None:
        self.offset = offset
        self.shape = tuple(tensor.shape)
        self.stride = tensor.stride()
        self.dtype = tensor.dtype


@dataclass(frozen=True)
class Packed:
    """A structure whose dense tensors lie in a slot: a Place stands for each."""

    slot: int
    size: int
    content: Any


class SharedSlots:
    """Numbered slots of one file in memory; a slot is as large as what is written into it.

    A slot has one writer at a time, and no reader while it is written.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("drmad-minibatches", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        self._mapped: dict[int, mmap.mmap] = {}

    def __getstate__(self) -> Any:
        # Only a process that is being started can receive the file.
        return reduction.DupFd(self._file)

    def __setstate__(self, sent: Any) -> None:
        self._file = sent.detach()
        self._mapped = {}

    def __del__(self) -> None:
        file = self.__dict__.pop("_file", None)
        if file is not None:
            os.close(file)

    def pack(self, slot: int, content: Any) -> Packed:
        """Writes the dense tensors of a structure into a slot; other leaves stay as they are."""
        size = 0
        placed: list[tuple[Place, Tensor]] = []

        def place(tensor: Tensor) -> Place | Tensor:
            nonlocal size
            if not is_dense(tensor):
                return tensor
            here = Place(size, tensor)
            placed.append((here, tensor))
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
            return here

        content = trees.mapped_tensors(place, content)
        if size:
            buffer = self._buffer(slot, size)
            for here, tensor in placed:
                view_of(buffer, here).copy_(tensor.detach())
        return Packed(slot, size, content)

    def unpack(self, packed: Packed) -> Any:
        """The structure, with a copy of each tensor in its memory format."""
        buffer = self._buffer(packed.slot, packed.size) if packed.size else None

        def read(leaf: Any) -> Any:
            if not isinstance(leaf, Place):
                return leaf
            if buffer is None:
                return torch.empty_strided(leaf.shape, leaf.stride, dtype=leaf.dtype)
            return view_of(buffer, leaf).clone()

        return trees.mapped(read, packed.content)

    def _buffer(self, slot: int, size: int) -> Tensor:
        """At least the first `size` bytes of a slot, shape (bytes,), uint8."""
        found = self._mapped.get(slot)
        if found is None or len(found) < size:
            room = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            stop = slot * SLOT_BYTES + room
            if os.fstat(self._file).st_size < stop:
                os.ftruncate(self._file, stop)
            found = mmap.mmap(self._file, room, offset=slot * SLOT_BYTES)
            self._mapped[slot] = found
        return torch.frombuffer(found, dtype=torch.uint8)


def is_dense(tensor: Tensor) -> bool:
    """Whether every byte of a tensor's storage between its first and its last entry is its own."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
        return False
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return False
    if tensor.is_conj() or tensor.is_neg():
        return False
    expected = 1
    for stride, size in sorted(
        (stride, size)
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
        if size != 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True


def view_of(buffer: Tensor, place: Place) -> Tensor:
    size = torch.Size(place.shape).numel() * place.dtype.itemsize
    flat = buffer[place.offset : place.offset + size].view(place.dtype)
    return flat.as_strided(place.shape, place.stride, flat.storage_offset())
