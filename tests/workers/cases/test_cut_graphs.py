"""Gradients that are not autograd's derivative of the loss: detached values, hooks, kernels.

The training takes them as they are, and its hypergradient depends on how they change with the
weights, which a second backward pass does not see.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Batch, Forward, Problem, Replay, Reversible, Stored
from drmad_workers.hypergradients import Auto
from tests.workers.cases.small import (
    BY_DIFFERENCES,
    CLASSES,
    EXACT,
    FEATURES,
    WIDTH,
    Loss,
    class_weighted,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_right, assert_right_or_refused

KINK = 1e-7
"""The step of the differences where a gradient is clipped: few kinks lie within it, and rounding,
1e-9, is still small beside slopes of 1e-3."""


def bootstrapped(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Soft targets from the model's own outputs, detached."""
    outputs = forward(batch.inputs)
    own = outputs.softmax(1).detach()
    given = nn.functional.one_hot(batch.targets, CLASSES).to(outputs)
    share = tuned["h"] / 2.0
    wanted: Tensor = given + share * (own - given)
    return -wanted.mul(outputs.log_softmax(1)).sum(1).mean()


def bootstrapped_without_grad(
    forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    """The same from a second forward pass under no_grad."""
    with torch.no_grad():
        own = forward(batch.inputs).softmax(1)
    outputs = forward(batch.inputs)
    share = tuned["h"] / 2.0
    given = nn.functional.one_hot(batch.targets, CLASSES).to(outputs)
    wanted: Tensor = given + share * (own - given)
    return -wanted.mul(outputs.log_softmax(1)).sum(1).mean()


def focal(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Examples are weighed by how wrong they are now, by a detached weight."""
    losses = each_loss(forward(batch.inputs), batch.targets)
    weights: Tensor = tuned["h"][batch.targets] * losses.detach().sigmoid()
    return (weights * losses).mean()


def normalised_by_data(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A penalty of the outputs is divided by their present size, through `.data`."""
    outputs = forward(batch.inputs)
    sizes: Tensor = outputs.square().mean(0)
    fit = each_loss(outputs, batch.targets).mean()
    return fit + 0.3 * (tuned["h"] * sizes / (1.0 + sizes.data)).sum()


DETACHED: dict[str, Loss] = {
    "own outputs": bootstrapped,
    "own outputs under no_grad": bootstrapped_without_grad,
    "weights of examples": focal,
    "data of a tensor": normalised_by_data,
}


@pytest.mark.parametrize("name", DETACHED)
def test_detached_values_move_with_the_weights(name: str) -> None:
    assert_right(recipe_of(lambda: problem_of(perceptron(), DETACHED[name])), EXACT)


class Swish(torch.autograd.Function):
    """Keeps its derivative from the forward pass, as memory-saving implementations do."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        gate = torch.sigmoid(inputs)
        ctx.save_for_backward(gate * (1 + inputs * (1 - gate)))
        return inputs * gate

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        slope: Tensor = ctx.saved_tensors[0]
        return slope * gradient


class Squared(torch.autograd.Function):
    """Keeps what backward needs outside of what autograd saves."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.twice = 2.0 * inputs
        return inputs.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        twice: Tensor = ctx.twice
        return twice * gradient


class Through(nn.Module):
    """A perceptron with a function of one's own behind each hidden layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.function(self.second(self.function(2.0 * self.first(inputs))))
        outputs: Tensor = self.last(hidden)
        return outputs


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": lambda each: Swish.apply(each),  # type: ignore[no-untyped-call]
    "square": lambda each: Squared.apply(torch.tanh(each)),  # type: ignore[no-untyped-call]
}
NOT_TWICE = Refusal(("hypergradient.hvp",), "finite_difference")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_kernel_with_a_wrong_second_derivative(name: str) -> None:
    """Its gradients are right, so that differences of gradients are; auto and replay take them."""
    recipe = recipe_of(lambda: problem_of(Through(FUNCTIONS[name])))
    assert_right(recipe, BY_DIFFERENCES)
    assert_right(recipe, [Auto()])
    for method in (Replay(), Stored(), Reversible(), Forward()):
        assert_right_or_refused(recipe, [method], NOT_TWICE)


class Reversed(torch.autograd.Function):
    """The gradient of an adversary: the identity, whose backward pass turns the sign."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


class Sign(torch.autograd.Function):
    """Binary activations, with the gradient of the identity: straight-through."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return torch.tanh(2.0 * inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Adversary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.adversary = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        against: Tensor = self.adversary(Reversed.apply(hidden))  # type: ignore[no-untyped-call]
        outputs: Tensor = self.last(hidden)
        return outputs + 0.3 * against


def rounded(hidden: Tensor) -> Tensor:
    """Straight-through by detach, with a smooth function in the place of the rounding."""
    return hidden + (torch.sin(3.0 * hidden) - hidden).detach()


def softened(gradient: Tensor) -> Tensor:
    return torch.tanh(20.0 * gradient) / 20.0


class Hooked(nn.Module):
    """A hook on an activation scales down large gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if hidden.requires_grad:
            hidden.register_hook(softened)  # type: ignore[no-untyped-call]
        outputs: Tensor = self.last(hidden)
        return outputs


def with_hooks(hook: Callable[[Tensor], Tensor]) -> Callable[[], Problem]:
    def build() -> Problem:
        model = perceptron()
        for parameter in model.parameters():
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
        return problem_of(model)

    return build


def with_module_hook() -> Problem:
    model = perceptron()
    model[2].register_full_backward_hook(lambda _, by_inputs, __: (softened(by_inputs[0]),))  # type: ignore[index]
    return problem_of(model)


def scaled_in_place() -> Problem:
    """A hook that every parameter has for itself: a learning rate of its own."""
    model = perceptron()
    for number, parameter in enumerate(model.parameters()):
        scale = 1.0 / (1 + number)
        parameter.register_hook(partial(torch.mul, torch.tensor(scale)))  # type: ignore[no-untyped-call]
    return problem_of(model)


SURROGATES: dict[str, Callable[[], Problem]] = {
    "clipped gradients": with_hooks(lambda gradient: gradient.clamp(-0.03, 0.03)),
    "gradients by their norm": with_hooks(lambda gradient: gradient / (1.0 + gradient.norm())),
    "scaled gradients": scaled_in_place,
    "hook on an activation": lambda: problem_of(Hooked()),
    "hook on a module": with_module_hook,
    "gradient reversal": lambda: problem_of(Adversary()),
    "straight-through function": lambda: problem_of(
        Through(lambda each: Sign.apply(each))  # type: ignore[no-untyped-call]
    ),
    "straight-through by detach": lambda: problem_of(Through(rounded)),
}
SURROGATE = Refusal(("model", "problem.inner_loss", "hypergradient.hvp"), r"hook|backward|detach")


@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_that_the_user_replaces(name: str) -> None:
    assert_right_or_refused(recipe_of(SURROGATES[name]), EXACT, SURROGATE, KINK)


def clipped_after_accumulation() -> Problem:
    """The hook changes `.grad`, which only a training by backward() fills."""
    model = perceptron()

    def clip(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.clamp_(-0.03, 0.03)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(clip)  # type: ignore[no-untyped-call]
    return problem_of(model)


def test_hooks_after_accumulation() -> None:
    refusal = Refusal(("model",), r"0\.weight", with_hooks(lambda each: each.clamp(-0.03, 0.03)))
    recipe = recipe_of(clipped_after_accumulation)
    assert_right_or_refused(recipe, EXACT[:1], refusal, KINK)


def by_a_number(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The scale of the outputs leaves autograd as a Python number."""
    outputs = forward(batch.inputs)
    return class_weighted(lambda _: outputs / (1.0 + outputs.std().item()), tuned, batch)  # type: ignore[arg-type]


def by_numpy(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    scale = torch.from_numpy(1.0 + outputs.detach().cpu().numpy().std(axis=0))
    return class_weighted(lambda _: outputs / scale, tuned, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [by_a_number, by_numpy])
def test_numbers_that_leave_autograd_move_with_the_weights(loss: Loss) -> None:
    """They are detached values that no operation leads to: right, or refused by name."""
    refusal = Refusal(
        ("model", "problem.inner_loss", "hypergradient.hvp"), r"number|item|float|NumPy|numpy"
    )
    recipe = recipe_of(lambda: problem_of(perceptron(), loss))
    assert_right_or_refused(recipe, EXACT, refusal)
