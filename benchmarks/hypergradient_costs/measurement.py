"""Seconds, resident memory and lengths of the runs."""

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def lengths(
    options: argparse.Namespace, quick: Sequence[int], whole: Sequence[int]
) -> Sequence[int]:
    """T of a part's runs."""
    return options.steps or (quick if options.quick else whole)


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def reset_peak() -> int:
    """Makes the process's peak of resident memory what it has now, in bytes; Linux's."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    (line,) = [t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith(name)]
    return 1024 * int(line.split()[1])
