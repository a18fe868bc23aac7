"""Parts of the weights that elementwise operations take one after the other."""

from torch import Tensor

PART = 2**18
"""The weights of a part: a multiple of trajectory.quantized.BLOCK."""


def parts_of(flat: Tensor) -> list[slice]:
    """The parts of the weights, for a tensor of shape (.., P).

    On a CPU the intermediate values of PART weights stay in the cache, and take no memory of the
    size of all of them.
    """
    count = flat.shape[-1]
    size = count if is_one_part(flat) else PART
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def is_one_part(flat: Tensor) -> bool:
    return flat.shape[-1] <= PART or flat.device.type != "cpu"
