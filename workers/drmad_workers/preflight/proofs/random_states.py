"""The global random states of Python, NumPy and torch."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_random_states(device: torch.device) -> Iterator[None]:
    """Restores all global random states on exit."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def scatter(number: int) -> None:
    """Sets all global random states to some that depend on `number`."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def sources() -> dict[str, str]:
    """A fingerprint of the state of each global generator outside torch, by its name."""
    return {"random": repr(random.getstate()), "numpy.random": repr(np.random.get_state())}
