"""The global random generators of Python, NumPy and torch, from which a user's code may draw."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GeneratorStates:
    """The states of all global generators at one moment; those of torch on CPU and all GPUs."""

    python: Any
    numpy: Any
    of_torch: Sequence[Tensor]

    @classmethod
    def now(cls, device: torch.device | None = None) -> "GeneratorStates":
        """The present states; those of all GPUs are included if `device` is one."""
        of_torch = [torch.get_rng_state()]
        if device is not None and device.type == "cuda":
            of_torch += torch.cuda.get_rng_state_all()  # `seed_all` seeds all of them
        return cls(random.getstate(), np.random.get_state(), of_torch)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        on_cpu, *on_gpus = self.of_torch
        torch.set_rng_state(on_cpu)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)

    def equal(self, other: "GeneratorStates") -> bool:
        """Whether no generator drew a number between the two moments."""
        (_, words, *rest), (_, other_words, *other_rest) = self.numpy, other.numpy
        return (
            self.python == other.python
            and rest == other_rest
            and bool((words == other_words).all())
            and all(map(torch.equal, self.of_torch, other.of_torch))
        )


def seed_all(seed: int) -> None:
    """Seeds every global generator; `seed` is at least 0.

    torch.manual_seed would give the same numbers, but queues a call for every GPU that is not
    initialized yet, which costs 0.2 ms.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@contextmanager
def restored_generators(device: torch.device | None = None) -> Iterator[None]:
    """Restores all global generators on exit."""
    states = GeneratorStates.now(device)
    try:
        yield
    finally:
        states.restore()
