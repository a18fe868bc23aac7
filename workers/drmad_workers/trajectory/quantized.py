"""A path in few bits: of every so many points the difference to the one before, in four levels.

[Max1960] Quantizing for minimum distortion. [Cutler1950] Differential quantization (US 2605361).
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

BLOCK = 32
"""Weights that share a scale."""

LEVELS = (0.4528, 1.5104)
"""Magnitudes of the best four levels for a normal variable of variance 1 [Max1960]."""

BITS = 2 + 16 / BLOCK
"""That a weight takes in a point: a level, and its part of the block's scale."""


class QuantizedTrajectory:
    """Points of a path from `first` on, first forwards as they come, then backwards as they went.

    A point is kept as its difference to the last one *as that was kept*, so that the errors of
    rounding do not add up: they stay at about a third of what the path moves from point to point.
    Its blocks of 32 weights are scaled by their root mean square (bfloat16), and every entry by
    that is one of four levels. Reading goes backwards only, and between two points along a line.

    Attributes:
        start: step of the first point.
        every: steps from a point to the next.
        next_step: whose state `add` wants to see next; -1 when it has seen the last.
    """

    def __init__(self, start: int, stop: int, points: int, first: Tensor) -> None:
        """Of the states `start` .. `stop` at most so many `points`, and the first in full.

        Args:
            first: the state at `start`, shape (..., P).
        """
        self.start = start
        self.every = spacing(stop - start, points)
        self._marks = [*range(start, stop, self.every), stop]
        self._codes: list[tuple[Tensor, Tensor]] = []
        self._here = first.clone()
        self._step = torch.zeros_like(first)
        self._table = levels_of_bytes(first)
        self._seen = 0
        self.next_step = self._marks[1]

    def add(self, state: Tensor) -> None:
        """The state at `next_step`, shape (..., P)."""
        code = encoded(state - self._here)
        self._here += decoded(code, self._table, self._here)
        self._codes.append(code)
        self._seen += 1
        after = self._seen + 1
        self.next_step = self._marks[after] if after < len(self._marks) else -1

    def point(self, time: float, out: Tensor) -> None:
        """Writes the state at `time` (in steps) into `out`, shape (..., P).

        Never later than the point after the last time asked for.
        """
        while self._codes and self._marks[self._seen] >= time:
            self._step = decoded(self._codes.pop(), self._table, self._here)
            self._here -= self._step
            self._seen -= 1
        left, right = self._marks[self._seen : self._seen + 2]
        torch.add(self._here, self._step, alpha=(time - left) / (right - left), out=out)


def spacing(length: int, points: int) -> int:
    """Steps from point to point: three at least, as neighbouring steps differ by little."""
    return min(length, max(3, -(-length // points)))


def encoded(difference: Tensor) -> tuple[Tensor, Tensor]:
    """The levels of a difference, shape (..., blocks, 8), and the scales, (..., blocks, 1).

    There are four levels to a byte.
    """
    missing = -difference.shape[-1] % BLOCK
    padded = pad(difference, (0, missing))
    blocks = padded.view(*padded.shape[:-1], -1, BLOCK)
    scale = torch.linalg.vector_norm(blocks, dim=-1, keepdim=True).div_(BLOCK**0.5)
    scale = scale.to(torch.bfloat16)
    levels = blocks.abs().gt_(scale * (sum(LEVELS) / 2)).add_(blocks.lt_(0.0), alpha=2.0)
    places = levels.new_tensor([1.0, 4.0, 16.0, 64.0])
    return (levels.view(*levels.shape[:-1], -1, 4) @ places).to(torch.uint8), scale


def decoded(code: tuple[Tensor, Tensor], table: Tensor, like: Tensor) -> Tensor:
    """The difference as it was kept, in the shape of `like`; `table` is `levels_of_bytes`."""
    packed, scale = code
    values = embedding(packed.int(), table).flatten(-2).mul_(scale)
    return values.flatten(-2)[..., : like.shape[-1]]


def levels_of_bytes(like: Tensor) -> Tensor:
    """The four levels that a byte stands for, shape (256, 4)."""
    inner, outer = LEVELS
    signed = like.new_tensor([inner, outer, -inner, -outer])
    return torch.cartesian_prod(signed, signed, signed, signed).flip(-1)
