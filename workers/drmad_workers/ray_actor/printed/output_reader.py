"""The Ray actor that reads the last words of workers of its node that have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from drmad_workers.ray_actor.printed.remains import END_S, read_remains


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class OutputReader:
    def read(self, outputs: Sequence[tuple[str, Sequence[int]]]) -> list[list[str]]:
        """The lines of each output, given by its name and by what of it is read already."""
        until = time.monotonic() + END_S
        return [read_remains(name, read, until) for name, read in outputs]
