"""Freed memory stays with a worker process, which takes it again without page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import torch
from drmad_workers.ray_actor.freed_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def step():
    tensors = [torch.ones(5_000_000) for _ in range(4)]  # 20 MB each
    return sum(float(each[0]) for each in tensors)

def work():
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    step()
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

worker = threading.Thread(target=work)  # as an actor's methods run
worker.start()
worker.join()
"""


def faults(setting: str) -> int:
    command = [sys.executable, "-c", PROGRAM, setting]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_a_step_takes_the_memory_that_the_last_one_freed() -> None:
    assert faults("kept") < 100 < 10_000 < faults("default")
