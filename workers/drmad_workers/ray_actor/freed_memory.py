"""What a worker process does with the memory that tensors free: keep it for the next ones."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""The most that glibc accepts; see mallopt(3)."""


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB, in one arena for all threads.

    Training allocates tensors of the same sizes in every step. By default glibc returns their pages
    to the system, and every step faults them in again: a quarter of the time of a hypergradient of
    9.8 million weights. A worker ends with its job, and the memory with it. Another C library than
    glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_ARENA_MAX, 1)
