"""What cuts values off by other means than detach, and what hides operations from a trace."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from drmad_workers import Batch, Problem, Replay, Stored
from tests.workers.cases.small import (
    CLASSES,
    FEATURES,
    TRAINING,
    WIDTH,
    Loss,
    class_weighted,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_refused, assert_right

METHODS = (Stored(), Replay())


def towards(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch, soft: Tensor) -> Tensor:
    """Targets that are mixed with soft ones, by h per class."""
    outputs = forward(batch.inputs)
    given = functional.one_hot(batch.targets, CLASSES).to(outputs)
    wanted: Tensor = given + tuned["h"] / 2.0 * (soft - given)
    loss: Tensor = -(wanted * outputs.log_softmax(1)).sum(1).mean()
    return loss


def in_inference_mode(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    with torch.inference_mode():
        soft = forward(batch.inputs).softmax(1)
    return towards(forward, tuned, batch, soft.clone())


@torch.inference_mode()
def soft_of(forward: nn.Module, inputs: Tensor) -> Tensor:
    soft: Tensor = forward(inputs).softmax(1)
    return soft


def in_a_decorated_function(
    forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch
) -> Tensor:
    return towards(forward, tuned, batch, soft_of(forward, batch.inputs).clone())


def of_a_copy(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    with torch.no_grad():
        soft = deepcopy(forward)(batch.inputs).softmax(1)
    return towards(forward, tuned, batch, soft)


def with_frozen_layer(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The first layer takes no part in one of two terms, as a discriminator in that of a GAN."""
    first = forward[0]  # type: ignore[index]
    first.requires_grad_(False)
    assert not any(each.requires_grad for each in first.parameters())
    one = class_weighted(forward, tuned, batch)
    for parameter in first.parameters():
        parameter.requires_grad = True
    return one + each_loss(forward(batch.inputs), batch.targets).mean()


def detached_in_place(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    losses = each_loss(forward(batch.inputs), batch.targets)
    hardness = losses.sigmoid()
    hardness.detach_()
    loss: Tensor = (tuned["h"][batch.targets] * hardness * losses).mean()
    return loss


LOSSES: dict[str, Loss] = {
    "detached in place": detached_in_place,
    "inference mode": in_inference_mode,
    "a function in inference mode": in_a_decorated_function,
    "copied model": of_a_copy,
    "layer frozen for one term": with_frozen_layer,
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_move_with_the_weights(name: str) -> None:
    assert_right(recipe_of(lambda: problem_of(perceptron(), LOSSES[name])), METHODS)


class Equilibrium(nn.Module):
    """A fixed point, whose hook solves the linear equation of its gradient (1909.01377)."""

    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.steps = steps
        self.first, self.inner = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def step(self, state: Tensor, inputs: Tensor) -> Tensor:
        return torch.tanh(0.5 * self.inner(state) + self.first(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            state = inputs.new_zeros(len(inputs), WIDTH)
            for _ in range(self.steps):
                state = self.step(state, inputs)
        state = self.step(state, inputs)
        if self.training and state.requires_grad:
            at = state.clone().detach().requires_grad_()
            after = self.step(at, inputs)

            def solved(gradient: Tensor) -> Tensor:
                found = gradient
                for _ in range(self.steps):
                    (product,) = torch.autograd.grad(after, at, found, retain_graph=True)
                    found = product + gradient
                return found

            state.register_hook(solved)  # type: ignore[no-untyped-call]
        outputs: Tensor = self.last(state)
        return outputs


def clipped(gradient: Tensor) -> Tensor:
    found: Tensor = gradient / (0.1 + gradient.detach().norm())
    return found


class Normalised(nn.Module):
    """Gradients of the hidden layer are divided by their length, by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.last.register_full_backward_hook(self.scaled)

    def scaled(
        self, module: nn.Module, given: tuple[Tensor, ...], gradient: tuple[Tensor, ...]
    ) -> tuple[Tensor]:
        return (given[0] / (1e-3 + given[0].detach().norm()),)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if hidden.requires_grad:
            hidden.register_hook(clipped)  # type: ignore[no-untyped-call]
        outputs: Tensor = self.last(hidden)
        return outputs


@pytest.mark.parametrize("model", [Equilibrium, Normalised])
def test_hooks_that_cut_off_or_differentiate(model: Callable[[], nn.Module]) -> None:
    assert_right(recipe_of(lambda: problem_of(model())), METHODS)


class Marked(nn.Module):
    """Names its part of the work for the profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.profiler.record_function("net"):
            outputs: Tensor = self.net(inputs)
        return outputs


class Graph(nn.Module):
    """A sparse matrix mixes the features: a buffer without a place in the state dict, and an
    attribute."""

    adjacent: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        matrix = torch.eye(FEATURES) + torch.eye(FEATURES).roll(1, 0)
        self.register_buffer("adjacent", matrix.to_sparse(), persistent=False)
        self.other = matrix.t().double().to_sparse()

    def forward(self, inputs: Tensor) -> Tensor:
        mixed = torch.sparse.mm(self.adjacent, inputs.t())
        mixed = torch.sparse.mm(self.other, mixed)
        outputs: Tensor = self.last(torch.tanh(self.first(mixed.t())))
        return outputs


MODELS: dict[str, Callable[[], nn.Module]] = {
    "a section for the profiler": Marked,
    "sparse matrices": Graph,
    "graph of torch.fx": lambda: torch.fx.symbolic_trace(perceptron()),
}


@pytest.mark.parametrize("name", MODELS)
def test_operations_that_a_trace_cannot_repeat(name: str) -> None:
    assert_right(recipe_of(lambda: problem_of(MODELS[name]())), METHODS)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_module_of_torchscript_is_refused() -> None:
    def build() -> Problem:
        return problem_of(torch.jit.script(perceptron()))

    refusal = Refusal(("model",), "load_state_dict", lambda: problem_of(perceptron()))
    assert_refused(recipe_of(build, training=TRAINING), METHODS, refusal)


def freezing(first: int) -> Callable[[], Problem]:
    """The first layer is trained in the first steps alone."""

    class Freezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = perceptron(), 0

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                self.net[0].requires_grad_(self.calls < first)
                self.calls += 1
            outputs: Tensor = self.net(inputs)
            return outputs

    return lambda: problem_of(Freezing())


@pytest.mark.parametrize("first", [0, 5])
def test_parameters_that_the_model_freezes_are_named(first: int) -> None:
    refusal = Refusal(("model",), r"'net\.0\.weight' no longer requires a gradient.*groups")
    assert_refused(recipe_of(freezing(first)), METHODS, refusal)


def after_a_step_of_torch(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Follows a copy that torch.optim has moved, which no derivative passes through."""
    copy = deepcopy(forward)
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
    each_loss(copy(batch.inputs), batch.targets).mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    outputs: Tensor = forward(batch.inputs)
    distance = (outputs - copy(batch.inputs).detach()).square().mean()
    loss: Tensor = class_weighted(forward, tuned, batch) + 0.5 * distance
    return loss


def test_a_loss_whose_operations_fail_where_they_are_differentiated_is_compared() -> None:
    refusal = Refusal(("problem.inner_loss", "hypergradient.hvp"), "differ from the differences")
    recipe = recipe_of(lambda: problem_of(perceptron(), after_a_step_of_torch))
    assert_refused(recipe, METHODS, refusal)
