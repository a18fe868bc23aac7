"""A quantized trajectory: the difference of consecutive points, at four levels per weight.

[Max1960] Quantizing for minimum distortion. [Cutler1950] Differential quantization (US 2605361).
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad

from drmad_workers.objective.parameters.cached_parts import parts_of

BLOCK = 32
"""The number of weights that share a scale."""

LEVELS = (0.4528, 1.5104)
"""Magnitudes of the optimal four-level quantizer of a standard normal variable [Max1960]."""

BITS = 2 + 16 / BLOCK
"""Bits per weight and point: the level, and the weight's share of the scale of its block."""


Code = tuple[Tensor, Tensor]
"""The levels of a difference, and the scales of its blocks."""


class QuantizedTrajectory:
    """Points of a trajectory by differential quantization [Cutler1950], about 2.5 bits a weight.

    A point ŵ_k is stored as the quantized difference w_k - ŵ_{k-1} to the point before *as
    reconstructed*, so that quantization errors do not accumulate: an error stays at about a third
    of the distance between consecutive points. Each block of 32 weights is divided by its root
    mean square (bfloat16) and rounded to one of four levels. Points are added in ascending order
    and read in descending order; between two points the state is interpolated linearly. Both work
    part by part of the weights (`parts_of`), so that only the point that was read last is held.

    Attributes:
        start: the step of the first point.
        every: the distance of consecutive points in steps.
        next_step: the step whose state `add` expects next; -1 after the last one.
    """

    def __init__(self, start: int, stop: int, points: int, first: Tensor) -> None:
        """
        Args:
            start, stop: the first and the last step.
            points: the maximum number of quantized points.
            first: the state at `start`, shape (..., P), which is kept in full precision.
        """
        self.start = start
        self.every = spacing(stop - start, points)
        self._point_steps = [*range(start, stop, self.every), stop]
        self._parts = parts_of(first)
        self._codes: list[Code] = []
        self._read: Code | None = None
        self._point = first.clone()
        self._table = levels_of_bytes(first)
        self._index = 0
        self.next_step = self._point_steps[1]

    def add(self, state: Tensor) -> None:
        """Appends the state at `next_step`, shape (..., P)."""
        shape = (*state.shape[:-1], -(-state.shape[-1] // BLOCK))
        packed = state.new_empty(*shape, BLOCK // 4, dtype=torch.uint8)
        scale = state.new_empty(*shape, 1, dtype=torch.bfloat16)
        for part in self._parts:
            point, (own, own_scale) = self._point[..., part], of_part((packed, scale), part)
            code = encoded(state[..., part] - point)
            own.copy_(code[0])
            own_scale.copy_(code[1])
            point += decoded(code, self._table, point)
        self._codes.append((packed, scale))
        self._index += 1
        after = self._index + 1
        self.next_step = self._point_steps[after] if after < len(self._point_steps) else -1

    def point(self, time: float, out: Tensor) -> None:
        """Writes the state interpolated at `time` (in steps) into `out`, shape (..., P).

        Times must descend: points later than the one that follows `time` are discarded.
        """
        discarded = []
        while self._codes and self._point_steps[self._index] >= time:
            self._read = self._codes.pop()
            discarded.append(self._read)
            self._index -= 1
        left, right = self._point_steps[self._index : self._index + 2]
        share = (time - left) / (right - left)
        for part in self._parts:
            point = self._point[..., part]
            for code in discarded:
                difference = decoded(of_part(code, part), self._table, point)
                point -= difference
            if not discarded and self._read is not None:
                difference = decoded(of_part(self._read, part), self._table, point)
            torch.add(point, difference, alpha=share, out=out[..., part])

    def free(self) -> None:
        """Frees what is left of it."""
        self._point = self._point.new_empty(0)
        self._codes, self._read = [], None


def spacing(length: int, points: int) -> int:
    """The distance of consecutive points in steps, for at most `points` of them over `length`.

    It is at least three (or `length`), because consecutive steps differ by little.
    """
    return min(length, max(3, -(-length // points)))


def of_part(code: Code, part: slice) -> Code:
    """The code of a part of the weights, which starts at a multiple of BLOCK."""
    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
    return code[0][..., blocks, :], code[1][..., blocks, :]


def encoded(difference: Tensor) -> Code:
    """The levels of a difference, shape (..., blocks, 8), and the scales, (..., blocks, 1).

    A byte holds the levels of four weights.
    """
    missing = -difference.shape[-1] % BLOCK
    padded = pad(difference, (0, missing)) if missing else difference
    blocks = padded.view(*padded.shape[:-1], -1, BLOCK)
    scale = torch.linalg.vector_norm(blocks, dim=-1, keepdim=True).div_(BLOCK**0.5)
    scale = scale.to(torch.bfloat16)
    levels = blocks.abs().gt_(scale * (sum(LEVELS) / 2)).add_(blocks.lt_(0.0), alpha=2.0)
    base_4 = levels.new_tensor([1.0, 4.0, 16.0, 64.0])
    return (levels.view(*levels.shape[:-1], -1, 4) @ base_4).to(torch.uint8), scale


def decoded(code: Code, table: Tensor, like: Tensor) -> Tensor:
    """The reconstructed difference, in the shape of `like`; `table` is `levels_of_bytes`."""
    packed, scale = code
    values = embedding(packed.int(), table).flatten(-2).mul_(scale)
    return values.flatten(-2)[..., : like.shape[-1]]


def levels_of_bytes(like: Tensor) -> Tensor:
    """The four levels that each byte encodes, shape (256, 4)."""
    inner, outer = LEVELS
    signed = like.new_tensor([inner, outer, -inner, -outer])
    return torch.cartesian_prod(signed, signed, signed, signed).flip(-1)
