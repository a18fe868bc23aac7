"""The global random generators during a plain training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch, NumPy and Python.

    torch.manual_seed would set the same state on the CPU, in half a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Restores the global generators of torch, NumPy and Python on exit."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
