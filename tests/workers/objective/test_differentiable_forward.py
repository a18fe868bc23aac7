"""The derivative of training's gradient against central differences of that gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from drmad_workers.objective.autograd.cuts import confine_hooks, through_cuts
from drmad_workers.objective.autograd.differentiable_forward import DifferentiableForward

ROWS, FEATURES = 6, 3
INPUTS = torch.randn(ROWS, FEATURES, 4, generator=torch.Generator().manual_seed(1)).double()


class Scaled(torch.autograd.Function):
    """Doubles, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return torch.sin(2.0 * inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def hooked(weights: Tensor) -> Tensor:
    hidden = torch.tanh(INPUTS.mean(2) @ weights)
    hidden.register_hook(lambda gradient: torch.tanh(20.0 * gradient))  # type: ignore[no-untyped-call]
    return hidden.pow(3).mean()


def normalized_in_place(weights: Tensor) -> Tensor:
    with torch.no_grad():
        length = functional.normalize(weights.sum(1), dim=0)
        length.clamp_min_(0.05).mul_(2.0)
    return (torch.tanh(INPUTS.mean(2) @ weights) @ length).square().mean()


def with_gradient_inside(weights: Tensor) -> Tensor:
    with torch.no_grad():
        scale = weights.exp().mean()
        with torch.enable_grad():
            shift = (weights * 2.0).sin().mean()
        offset = weights.mean()
    return (scale * offset * torch.tanh(INPUTS.mean(2) @ weights) + shift).square().mean()


def by_attention(weights: Tensor) -> Tensor:
    inputs = INPUTS.transpose(1, 2) @ weights
    return functional.scaled_dot_product_attention(inputs, inputs, inputs).pow(2).mean()


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda w: (torch.tanh(INPUTS.mean(2) @ w) * w.exp().detach().mean()).square().mean(),
    "data": lambda w: (torch.tanh(INPUTS.mean(2) @ w) * w.data.exp().mean()).square().mean(),
    "no_grad": with_gradient_inside,
    "in place inside no_grad": normalized_in_place,
    "hook": hooked,
    "own backward": lambda w: (
        Scaled.apply(INPUTS.mean(2) @ w).pow(2).mean()  # type: ignore[no-untyped-call]
    ),
    "attention": by_attention,
    "weight norm": lambda w: (
        (INPUTS.mean(2) @ torch._weight_norm(w, w.exp()[:, :1], 0)).cos().sum()
    ),
    "gumbel": lambda w: (
        functional.gumbel_softmax(INPUTS.mean(2) @ w * 0.0 + 1.0, hard=True) @ w.exp()
    ).mean(),
}


def trained_gradient(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    torch.manual_seed(0)
    weights = weights.detach().requires_grad_()
    return torch.autograd.grad(loss(weights), weights)[0]


@pytest.mark.parametrize("name", CUTS)
def test_the_gradient_moves_with_everything_that_it_depends_on(name: str) -> None:
    loss, generator = CUTS[name], torch.Generator().manual_seed(2)
    weights, cotangent, direction = torch.randn(3, FEATURES, FEATURES, generator=generator).double()
    leaf = weights.clone().requires_grad_()
    torch.manual_seed(0)
    with DifferentiableForward():
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    torch.testing.assert_close(gradient.detach(), trained_gradient(loss, weights))
    with through_cuts():
        (product,) = torch.autograd.grad(gradient, leaf, cotangent)
    step = 1e-5
    sides = [trained_gradient(loss, weights + sign * step * direction) for sign in (1.0, -1.0)]
    expected = ((sides[0] - sides[1]) / (2.0 * step) * cotangent).sum()
    torch.testing.assert_close((product * direction).sum(), expected, rtol=1e-6, atol=1e-9)


def updated(model: nn.Module, values: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """The buffers after a forward pass of torch itself from these buffers."""
    for name, buffer in model.named_buffers():
        buffer.copy_(values[name])
    with torch.no_grad():
        model(inputs)
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm1d(FEATURES),
    "batch, cumulative": lambda: nn.BatchNorm1d(FEATURES, momentum=None),
    "batch, no affine": lambda: nn.BatchNorm1d(FEATURES, affine=False),
    "instance": lambda: nn.InstanceNorm1d(FEATURES, track_running_stats=True, affine=True),
}


@pytest.mark.parametrize("primitive", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_are_updated_as_by_torch_and_have_a_graph(
    name: str, primitive: bool
) -> None:
    model = NORMS[name]().double().train()
    given = {name: (2 * buffer + 1).detach() for name, buffer in model.named_buffers()}
    inputs = INPUTS.clone().requires_grad_()
    expected = updated(model, given, INPUTS)
    outputs = model(INPUTS)
    for key, buffer in model.named_buffers():
        buffer.copy_(given[key])
    carried = {id(buffer): buffer.clone() for buffer in model.buffers()}
    with DifferentiableForward(carried, primitive) as forward:
        found = model(inputs)
    torch.testing.assert_close(found, outputs)
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, given[key]), "the model's own buffer stays"
        value = forward.carried[id(buffer)]
        torch.testing.assert_close(value.to(expected[key].dtype), expected[key])
        if key.startswith("running"):
            with through_cuts():
                assert torch.autograd.grad(value.sum(), inputs, retain_graph=True)[0].any()
            assert (
                torch.autograd.grad(value.sum(), inputs, retain_graph=True, allow_unused=True)[0]
                is None
            )


def test_statistics_in_evaluation_mode_can_be_differentiated() -> None:
    model = nn.BatchNorm1d(FEATURES).double().eval()
    names = [buffer for buffer in model.buffers() if buffer.ndim == 1]
    leaves = [buffer.clone().requires_grad_() for buffer in names]
    assert len(leaves) == 2
    carried = {id(buffer): leaf for buffer, leaf in zip(names, leaves, strict=True)}
    with DifferentiableForward(carried):
        value = model(INPUTS).square().sum()
    torch.testing.assert_close(value.detach(), model(INPUTS).square().sum().detach())
    for buffer, leaf in zip(names, leaves, strict=True):
        (found,) = torch.autograd.grad(value, leaf, retain_graph=True)
        sides = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                buffer += sign * 1e-6
                sides.append(float(model(INPUTS).square().sum()))
                buffer -= sign * 1e-6
        assert float(found.sum()) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-6)


def test_hooks_of_a_model_act_on_the_gradient_alone() -> None:
    model = nn.Linear(2, 1).double()
    model.weight.register_hook(lambda gradient: 3.0 * gradient)  # type: ignore[no-untyped-call]
    confine_hooks(model)
    confine_hooks(model)
    inputs = torch.ones(1, 2).double()
    (gradient,) = torch.autograd.grad(model(inputs).square().sum(), model.weight, create_graph=True)
    outputs = model(inputs).item()
    torch.testing.assert_close(gradient, torch.full((1, 2), 6.0 * outputs).double())
    with through_cuts():
        (second,) = torch.autograd.grad(gradient.sum(), model.weight)
    torch.testing.assert_close(second, torch.full((1, 2), 12.0).double())


def test_torch_is_as_it_was_afterwards() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    with pytest.raises(ZeroDivisionError), DifferentiableForward():
        _ = 1 / 0
    assert torch.autograd.Function.__dict__["apply"] is before


def test_reading_the_type_or_the_shape_of_a_value_is_no_cut() -> None:
    weights = torch.ones(3, requires_grad=True)
    with DifferentiableForward() as forward:
        hidden = weights.exp()
        with torch.no_grad():
            table = torch.arange(hidden.shape[0], dtype=hidden.dtype, device=hidden.device)
            largest = hidden.argmax()
        assert not (hidden * table)[largest].isnan()
    assert not forward.has_cuts
    with DifferentiableForward() as forward, torch.no_grad():
        assert weights.exp().sum() > 0
    assert forward.has_cuts


def test_values_on_a_grid_move_with_its_scale() -> None:
    """As a running range moves it in training; the gradient goes straight through to the values."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, generator=draw, dtype=torch.float64).float().requires_grad_()
    scale = torch.tensor([0.1, 0.2, 0.4], requires_grad=True)
    zero = torch.zeros(3, dtype=torch.int32)
    with DifferentiableForward():
        whole = torch.fake_quantize_per_tensor_affine(values, scale[0], zero[0], -8, 7)
        each = torch.fake_quantize_per_channel_affine(values, scale, zero, 1, -8, 7)
    assert torch.equal(each.detach() / scale.detach(), (each / scale).detach().round())
    (through,) = torch.autograd.grad(whole.sum(), values, retain_graph=True)
    assert set(through.flatten().tolist()) <= {0.0, 1.0}
    with through_cuts():
        (by_whole,) = torch.autograd.grad(whole.sum(), scale)
        (by_each,) = torch.autograd.grad(each.sum(), scale)
    assert torch.allclose(by_whole[0], whole.detach().sum() / scale.detach()[0])
    assert torch.allclose(by_each, each.detach().sum(0) / scale.detach())
