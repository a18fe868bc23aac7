"""The inner update against torch's own, and the stride against single steps."""

import pytest
import torch

from drmad_workers.dynamics import Momentum, Rate

MOMENTA = [0.0, 0.5, 0.9, 0.99]


def constant(learning_rate: float, momentum: float, damped: bool) -> Momentum:
    return Momentum(Rate(learning_rate), Rate(momentum), damped)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_sgd_takes_the_path_of_torch(momentum: float) -> None:
    weights = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(weights.clone())
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=momentum)
    state = torch.stack([weights, torch.zeros_like(weights)])
    dynamics = constant(0.3, momentum, damped=False)
    for step in range(10):
        reference.zero_grad()
        parameter.square().sum().backward()  # type: ignore[no-untyped-call]
        reference.step()
        dynamics.step(step, state, 2.0 * state[0])
    torch.testing.assert_close(state[0], parameter.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_damped_sgd_is_sgd_at_a_damped_rate(momentum: float) -> None:
    paths = []
    for dynamics in (
        constant(0.5, momentum, damped=True),
        constant(0.5 * (1.0 - momentum), momentum, damped=False),
    ):
        state = torch.stack([torch.ones(3), torch.zeros(3)]).double()
        for step in range(9):
            dynamics.step(step, state, state[0] ** 3)
        paths.append(state[0])
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("damped", [True, False])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_stride_is_that_many_steps_under_a_constant_gradient(
    count: int, momentum: float, damped: bool
) -> None:
    dynamics = constant(0.7, momentum, damped)
    draw = torch.Generator().manual_seed(1)
    first, speed, gradient, *adjoint = torch.randn(5, 4, dtype=torch.float64, generator=draw)
    state = torch.stack([first, speed])
    for step in range(count):
        dynamics.step(step, state, gradient)
    stride = dynamics.stride(0, count)
    torch.testing.assert_close(
        state[0],
        first + stride.weights_by_velocity * speed - stride.weights_by_gradient * gradient,
    )
    torch.testing.assert_close(
        state[1],
        stride.velocity_by_velocity * speed - stride.velocity_by_gradient * gradient,
    )
    one, singly = torch.stack(adjoint), torch.stack(adjoint)
    joined, part, total = (torch.zeros_like(first) for _ in range(3))
    dynamics.pull_back(0, count, one, joined, state)
    for step in range(count):
        dynamics.pull_back(step, 1, singly, part, state)
        total += part
    torch.testing.assert_close(one, singly)
    torch.testing.assert_close(joined, total)
