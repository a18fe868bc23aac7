"""The quantized trajectory: its points in reverse order, their errors and their memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drmad_workers.trajectory.quantized import (
    BITS,
    BLOCK,
    QuantizedTrajectory,
    decoded,
    encoded,
    levels_of_bytes,
    spacing,
)
from drmad_workers.trajectory.segments import DENSE, WIDE, points_in, segment_starts


def random_walk(steps: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 1, size)
    return torch.cumsum(torch.randn(steps + 1, 1, size, generator=generator) * scales, 0)


def read(path: QuantizedTrajectory, times: list[float], like: Tensor) -> list[Tensor]:
    found = []
    for time in times:
        found.append(torch.empty_like(like))
        path.point(time, found[-1])
    return found


def quantized(trajectory: Tensor, points: int, start: int = 0) -> QuantizedTrajectory:
    path = QuantizedTrajectory(start, start + len(trajectory) - 1, points, trajectory[0])
    while path.next_step >= 0:
        path.add(trajectory[path.next_step - start])
    return path


@given(
    st.integers(1, 60), st.integers(1, 100), st.integers(1, 40), st.integers(0, 9), st.integers(0)
)
def test_errors_stay_at_a_part_of_a_point_s_move_and_do_not_add_up(
    steps: int, size: int, points: int, start: int, seed: int
) -> None:
    trajectory = random_walk(steps, size, seed % 2**32)
    path = quantized(trajectory, points, start)
    marks = [*range(0, steps, path.every), steps]
    moves = (trajectory[marks][1:] - trajectory[marks][:-1]).abs().amax()
    found = read(path, [float(start + mark) for mark in reversed(marks)], trajectory[0])
    for mark, point in zip(reversed(marks), found, strict=True):
        assert float((point - trajectory[mark]).abs().max()) <= 4.0 * float(moves)
    assert torch.allclose(
        found[-1], trajectory[0], atol=1e-5 * (1.0 + float(trajectory.abs().max()))
    )


def test_the_error_of_a_random_walk_is_a_third_of_its_steps() -> None:
    trajectory = random_walk(400, 64 * BLOCK, seed=0)
    path = quantized(trajectory, 100)
    assert path.every == 4
    times = list(range(400, 0, -4))
    found = torch.stack(read(path, [float(t) for t in times], trajectory[0]))
    error = (found - trajectory[times]).square().mean((0, 1)).sqrt()
    moved = (trajectory[4::4] - trajectory[:-4:4]).square().mean((0, 1)).sqrt()
    assert float((error / moved).mean()) == pytest.approx(0.36, abs=0.03)
    early, late = (found[half] - trajectory[times][half] for half in (slice(50, None), slice(50)))
    assert float(late.norm()) == pytest.approx(float(early.norm()), rel=0.05)


def test_between_points_the_path_is_a_line() -> None:
    trajectory = random_walk(12, 5, seed=1)
    at, above = (read(quantized(trajectory, 3), [t, 4.0], trajectory[0]) for t in (8.0, 8.0))
    between = read(quantized(trajectory, 3), [7.0, 6.0, 5.0], trajectory[0])
    for share, point in zip((0.75, 0.5, 0.25), between, strict=True):
        assert torch.allclose(point, at[1].lerp(above[0], share), atol=1e-5)


@given(st.integers(1, 200), st.integers(0))
def test_four_levels_lie_in_a_byte_s_quarter(size: int, seed: int) -> None:
    difference = torch.randn(2, size, generator=torch.Generator().manual_seed(seed % 2**32))
    packed, scale = encoded(difference.clone())
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, -(-size // BLOCK), BLOCK // 4)
    assert scale.shape == (2, -(-size // BLOCK), 1)
    found = decoded((packed, scale), levels_of_bytes(difference), difference)
    assert found.shape == difference.shape
    assert bool((found * difference >= 0.0).all())
    assert 8.0 * (packed.nbytes + scale.nbytes) == pytest.approx(
        BITS * 2 * BLOCK * -(-size // BLOCK)
    )


def test_what_does_not_move_costs_no_accuracy() -> None:
    still = torch.full((1, 40), 3.0)
    path = QuantizedTrajectory(0, 10, 5, still)
    while path.next_step >= 0:
        path.add(still)
    for point in read(path, [10.0, 5.5, 0.0], still):
        assert torch.equal(point, still)


def test_of_three_neighbouring_steps_one_is_kept() -> None:
    assert [spacing(length, 100) for length in (1, 2, 3, 300, 301, 1000)] == [1, 2, 3, 3, 4, 10]


@given(st.integers(0, 500), st.integers(1, 20_000), st.integers(2, 64))
def test_stretches_halve_the_way_to_the_first_step(start: int, length: int, copies: int) -> None:
    starts = segment_starts(start, start + length, copies)
    assert starts[0] == start
    assert starts == sorted(set(starts))
    assert len(starts) <= max(1, copies - 1)
    if spacing(length, points_in(copies - 1)) <= WIDE:
        assert starts == [start]
    for one, other in zip(
        starts[1:], [*starts[2:], start + length][: len(starts) - 1], strict=True
    ):
        assert one - start == (other - start) // 2
    if 1 < len(starts) < copies - 1:
        assert spacing(starts[1] - start, points_in(copies - 1)) <= DENSE
