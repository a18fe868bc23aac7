"""The memory limit of a worker process."""

from __future__ import annotations

import resource
from pathlib import Path

MIN_HEADROOM_BYTES = 64 << 20
"""Bounds from below what a limit must leave beyond the memory that the worker already holds."""


def limit_memory(max_bytes: int) -> None:
    """Bounds what this process may allocate until it ends, which it does together with its job.

    Raises:
        ProblemError: the process already holds as much.
    """
    from drmad_workers.errors import ProblemError

    held = _held_bytes()
    least = held + MIN_HEADROOM_BYTES
    if max_bytes < least:
        raise ProblemError(
            f"resources.memory_bytes must be at least {least:,}, got {max_bytes:,}: torch and Ray "
            f"alone take {held:,} bytes of a worker; raise it in the job, or raise the operator's "
            "--replica-memory, which applies to jobs without it",
            "resources.memory_bytes",
        )
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def _held_bytes() -> int:
    """The data segment of this process; 0 where the system does not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmData: 0 kB"]
    (held,) = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")]
    return held
