"""The inner update against torch's own, and the stride against single steps."""

import pytest
import torch

from drmad_workers.dynamics import Momentum

MOMENTA = [0.0, 0.5, 0.9, 0.99]


@pytest.mark.parametrize("momentum", MOMENTA)
def test_sgd_takes_the_path_of_torch(momentum: float) -> None:
    weights = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(weights.clone())
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    velocity, dynamics = torch.zeros_like(weights), Momentum(0.3, momentum, damped=False)
    for _ in range(10):
        reference.zero_grad()
        parameter.square().sum().backward()  # type: ignore[no-untyped-call]
        reference.step()
        dynamics.step(weights, velocity, 2.0 * weights)
    torch.testing.assert_close(weights, parameter.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_damped_sgd_is_sgd_at_a_damped_rate(momentum: float) -> None:
    paths = []
    for dynamics in (
        Momentum(0.5, momentum, damped=True),
        Momentum(0.5 * (1.0 - momentum), momentum, damped=False),
    ):
        weights, velocity = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for _ in range(9):
            dynamics.step(weights, velocity, weights**3)
        paths.append(weights)
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("damped", [True, False])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_stride_is_that_many_steps_under_a_constant_gradient(
    count: int, momentum: float, damped: bool
) -> None:
    dynamics = Momentum(0.7, momentum, damped)
    draw = torch.Generator().manual_seed(1)
    first, speed, gradient, d_weights, d_velocity = torch.randn(
        5, 4, dtype=torch.float64, generator=draw
    )
    weights, velocity = first.clone(), speed.clone()
    for _ in range(count):
        dynamics.step(weights, velocity, gradient)
    stride = dynamics.stride(count)
    torch.testing.assert_close(
        weights,
        first + stride.weights_by_velocity * speed - stride.weights_by_gradient * gradient,
    )
    torch.testing.assert_close(
        velocity,
        stride.velocity_by_velocity * speed - stride.velocity_by_gradient * gradient,
    )
    one, singly = d_velocity.clone(), d_velocity.clone()
    joined, part, total = (torch.zeros_like(first) for _ in range(3))
    dynamics.pull_back(stride, d_weights, one, joined)
    for _ in range(count):
        dynamics.pull_back(dynamics.stride(1), d_weights, singly, part)
        total += part
    torch.testing.assert_close(one, singly)
    torch.testing.assert_close(joined, total)
