"""Seeds of the engine's random streams: one stream per purpose, independent of all others.

A seed is a function of its purpose and of a few numbers (job seed, meta-iteration, replica, step),
so that a backward pass or a resumed job draws exactly what the forward pass drew.
"""

from enum import IntEnum, unique

import numpy as np


@unique
class Purpose(IntEnum):
    """What a stream draws. The numbers are part of every stored result: never reuse one."""

    MINIBATCHES = 1
    WEIGHTS = 2
    NOISE = 3
    TRAINING_DATA = 4
    TRAIN_SHARDS = 5
    VALID_SHARDS = 6
    MODEL_WEIGHTS = 11
    BUILD = 12
    ITEMS = 13
    HELD_OUT = 14
    COLLATE = 15
    VALIDATION = 16
    VALIDATION_ROWS = 17
    SEARCH = 21
    ATTRIBUTION = 41


WEIGHTS = Purpose.WEIGHTS
"""The stream of the initial weights w_0 of a training run."""


def seed_of(purpose: Purpose, *numbers: int) -> int:
    """A 63-bit seed, a function of the purpose and of the numbers (all at least 0) alone."""
    sequence = np.random.SeedSequence([int(purpose), *numbers])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_of(purpose: Purpose, *numbers: int) -> np.random.Generator:
    """A NumPy generator under `seed_of` the same arguments."""
    return np.random.Generator(np.random.PCG64(seed_of(purpose, *numbers)))
