"""The inner update against torch's own, and the stride against single steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from drmad_workers.training.optimizers import Adam, InnerOptimizer, MomentumSGD, Rate

MOMENTA = [0.0, 0.5, 0.9, 0.99]


def constant(
    learning_rate: float, momentum: float, damped: bool, nesterov: bool = False
) -> MomentumSGD:
    return MomentumSGD(Rate(learning_rate), Rate(momentum), damped, nesterov=nesterov)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_sgd_takes_the_path_of_torch(momentum: float, nesterov: bool) -> None:
    nesterov &= momentum > 0.0
    weights = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(weights.clone())
    reference = torch.optim.SGD([parameter], lr=0.3, momentum=momentum, nesterov=nesterov)
    state = torch.stack([weights, torch.zeros_like(weights)])
    dynamics = constant(0.3, momentum, damped=False, nesterov=nesterov)
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


@pytest.mark.parametrize("rule", ["damped", "plain", "nesterov"])
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_stride_is_that_many_steps_under_a_constant_gradient(
    count: int, momentum: float, rule: str
) -> None:
    dynamics = constant(0.7, momentum, rule == "damped", rule == "nesterov")
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


def normal(*shape: int, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


TORCH_ADAM: dict[bool, Callable[..., torch.optim.Optimizer]] = {
    False: torch.optim.Adam,
    True: torch.optim.AdamW,
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", TORCH_ADAM)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9)])
def test_adam_is_that_of_torch_step_by_step(
    betas: tuple[float, float], decoupled: bool, weight_decay: float
) -> None:
    weights, targets = normal(2, 7)
    targets[0] = weights[0]  # a weight whose first gradient is 0
    parameter = torch.nn.Parameter(weights.clone())
    reference = TORCH_ADAM[decoupled]([parameter], 0.1, betas, 1e-8, weight_decay)
    dynamics = Adam(Rate(0.1), Rate(betas[0]), betas[1], 1e-8, Rate(weight_decay), decoupled)
    state = torch.stack([weights, *torch.zeros(2, 7).double()])
    for step in range(12):
        parameter.grad = 4.0 * (parameter.detach() - targets) ** 3
        reference.step()
        dynamics.step(step, state, 4.0 * (state[0] - targets) ** 3)
        torch.testing.assert_close(state[0], parameter.detach(), rtol=1e-12, atol=1e-14)
        memory = reference.state[parameter]
        torch.testing.assert_close(state[1], memory["exp_avg"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(state[2], memory["exp_avg_sq"], rtol=1e-12, atol=1e-14)


def tables(per_layer: bool = True) -> tuple[Tensor, Tensor]:
    """α and γ per step (columns) of two layers (rows), of 3 and 4 weights, or of both as one."""
    shape = (2, 6) if per_layer else (1, 6)
    return 0.1 + 0.3 * normal(*shape).sigmoid(), normal(*shape).sigmoid()


def scheduled(table: Tensor) -> Rate:
    return Rate(table, [3, 4], torch.zeros_like(table))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_rates_per_step_and_layer_are_torchs_parameter_groups(kind: str) -> None:
    learning_rate, momentum = tables()
    layers = [torch.nn.Parameter(part) for part in torch.split(normal(7), [3, 4])]
    groups = [{"params": [layer]} for layer in layers]
    if kind == "sgd":
        reference: torch.optim.Optimizer = torch.optim.SGD(groups, 1.0, momentum=0.5)
    else:
        reference = TORCH_ADAM[kind == "adamw"](groups, 1.0, weight_decay=0.1)
    decay = {"weight_decay": Rate(0.1), "decoupled": kind == "adamw"}
    dynamics: InnerOptimizer = (
        MomentumSGD(scheduled(learning_rate), scheduled(momentum), damped=False)
        if kind == "sgd"
        else Adam(scheduled(learning_rate), scheduled(momentum), **decay)  # type: ignore[arg-type]
    )
    state = normal(7).new_zeros(1 + dynamics.memory_rows, 7)
    state[0] = torch.cat([layer.detach() for layer in layers])
    for step in range(6):
        for i, (layer, group) in enumerate(zip(layers, reference.param_groups, strict=True)):
            layer.grad = layer.detach() ** 3
            decay_now = float(momentum[i, step])
            group["lr"] = float(learning_rate[i, step])
            group |= {"momentum": decay_now} if kind == "sgd" else {"betas": (decay_now, 0.999)}
        reference.step()
        dynamics.step(step, state, state[0] ** 3)
        torch.testing.assert_close(
            state[0], torch.cat([layer.detach() for layer in layers]), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("rule", ["damped", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("count", [1, 3])
def test_reverse_of_a_stride_is_autograd_through_its_steps(
    count: int, rule: str, per_layer: bool
) -> None:
    """That of momentum is exact in the rates for a steady velocity, which it takes as a mean."""
    both = tables(per_layer)
    learning_rate, momentum = (scheduled(table) for table in both)
    dynamics: InnerOptimizer = (
        Adam(learning_rate, momentum, weight_decay=Rate(0.1), decoupled=rule == "adamw")
        if rule.startswith("adam")
        else MomentumSGD(learning_rate, momentum, rule == "damped", nesterov=rule == "nesterov")
    )
    state, adjoint = (
        normal(1 + dynamics.memory_rows, 7),
        normal(1 + dynamics.memory_rows, 7, seed=2),
    )
    gradient = normal(7, seed=3)
    if rule == "nesterov" and count > 1:
        gradient.zero_()  # no velocity stays where it is under momenta that change
        state[1].zero_()
    if dynamics.memory_rows == 2:
        state[2].square_()
    elif rule == "damped":
        state[1] = -gradient  # v' = γ v - (1 - γ) g stays where it is
    inputs = [
        leaf.clone().requires_grad_()
        for leaf in (state, gradient, *(table[:, 2 : 2 + count] for table in both))
    ]
    after = unrolled(dynamics, *inputs)
    d_state, d_gradient, d_rate, d_momentum = torch.autograd.grad(after, inputs, adjoint)
    cotangent = torch.empty_like(gradient)
    dynamics.pull_back(2, count, adjoint, cotangent, state, gradient)
    torch.testing.assert_close(adjoint, d_state)
    torch.testing.assert_close(-cotangent, d_gradient)
    for rate, expected in ((learning_rate, d_rate), (momentum, d_momentum)):
        assert rate.total is not None
        torch.testing.assert_close(rate.total[:, 2 : 2 + count], expected)
        assert not rate.total[:, :2].any()


def unrolled(
    dynamics: InnerOptimizer,
    state: Tensor,
    gradient: Tensor,
    learning_rate: Tensor,
    momentum: Tensor,
) -> Tensor:
    """The update rules once more, from step 2 on, on tables of (layers or 1, steps)."""
    weights, *memory = state
    for j in range(learning_rate.shape[1]):
        alpha, gamma = (
            table[:, j].expand(2).repeat_interleave(torch.tensor([3, 4]))
            for table in (learning_rate, momentum)
        )
        if isinstance(dynamics, MomentumSGD) and dynamics.nesterov:
            memory = [gamma * memory[0] - gradient]
            weights = weights + alpha * (gamma * memory[0] - gradient)
            continue
        if isinstance(dynamics, MomentumSGD):
            memory = [gamma * memory[0] - (1.0 - gamma) * gradient]
            weights = weights + alpha * memory[0]
            continue
        assert isinstance(dynamics, Adam)
        if dynamics.decoupled:
            weights, total = weights * (1.0 - 0.1 * alpha), gradient
        else:
            total = gradient + 0.1 * weights
        first = gamma * memory[0] + (1.0 - gamma) * total
        second = 0.999 * memory[1] + 0.001 * total**2
        memory, time = [first, second], 3 + j
        scale = (second / (1.0 - 0.999**time)).sqrt() + 1e-8
        weights = weights - alpha * first / (1.0 - gamma**time) / scale
    return torch.stack([weights, *memory])


def test_a_weight_without_any_gradient_leaves_adams_reverse_finite() -> None:
    dynamics = Adam(Rate(0.1), Rate(0.9))
    state, gradient, adjoint = torch.zeros(3, 4), torch.zeros(4), torch.ones(3, 4)
    cotangent = torch.empty(4)
    dynamics.pull_back(0, 5, adjoint, cotangent, state, gradient)
    assert bool(adjoint.isfinite().all())
    assert bool(cotangent.isfinite().all())
    torch.testing.assert_close(adjoint[0], torch.ones(4))
