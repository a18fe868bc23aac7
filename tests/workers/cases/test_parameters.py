"""Parameters that slip away: replaced by `initialize`, added later, or written by the forward pass.

An ordinary loop hands the optimizer what the model has after `initialize`, and takes what backward
and the hooks leave in `.grad`. The engine does the same, or refuses the problem by name.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Problem
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    INPUTS,
    WIDTH,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import (
    Refusal,
    assert_refused,
    assert_right,
    assert_right_or_refused,
)

CODES = (INPUTS * 2).long().clamp(-4, 4) + 4


class Tuned(nn.Module):
    """A body that is kept, and a head that every training run begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.tanh(self.body(inputs)))
        return outputs


def reset_head(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.head.reset_parameters()


def new_head(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.head = nn.Linear(WIDTH, CLASSES)


def new_weights(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.head.weight = nn.Parameter(torch.randn(CLASSES, WIDTH) / 4.0)


def new_data(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.head.weight.data = torch.randn(CLASSES, WIDTH) / 4.0


def wider(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.body, model.head = nn.Linear(FEATURES, 2 * WIDTH), nn.Linear(2 * WIDTH, CLASSES)


def with_temperature(model: nn.Module) -> None:
    assert isinstance(model, Tuned)
    model.head.register_parameter("spare", nn.Parameter(torch.ones(2)))


def fine_tuned(initialize: Callable[[nn.Module], None]) -> Callable[[], Problem]:
    return lambda: problem_of(Tuned(), initialize=initialize)


REPLACED = Refusal(("initialize", "problem.initialize"), "in place|build", fine_tuned(reset_head))


@pytest.mark.parametrize("initialize", [new_head, new_weights, new_data])
def test_parameters_that_initialize_replaces_are_trained(
    initialize: Callable[[nn.Module], None],
) -> None:
    assert_right_or_refused(recipe_of(fine_tuned(initialize)), EXACT, REPLACED)


@pytest.mark.parametrize("initialize", [wider, with_temperature])
def test_parameters_of_other_shapes_are_refused(initialize: Callable[[nn.Module], None]) -> None:
    assert_refused(recipe_of(fine_tuned(initialize)), EXACT, REPLACED)


class Normalised(nn.Module):
    """An embedding; `max_norm` lets its forward pass shorten the rows that it reads."""

    def __init__(self, max_norm: float | None) -> None:
        super().__init__()
        self.table = nn.Embedding(9, WIDTH, max_norm=max_norm)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, codes: Tensor) -> Tensor:
        embedded = self.table(codes)
        if self.table.max_norm is None:
            embedded = nn.functional.normalize(embedded, dim=-1)
        outputs: Tensor = self.last(embedded.mean(1))
        return outputs


class Written(nn.Module):
    """Keeps the columns of its weights at length one by writing them."""

    def __init__(self, write: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.write = write
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.first.weight
        self.write(weight, nn.functional.normalize(weight.detach(), dim=0))
        outputs: Tensor = self.last(torch.tanh(self.first(inputs)))
        return outputs


class Divided(Written):
    """The same as a function of the weights."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight = nn.functional.normalize(self.first.weight, dim=0)
        outputs: Tensor = self.last(
            torch.tanh(nn.functional.linear(inputs, weight, self.first.bias))
        )
        return outputs


def by_data(weight: Tensor, value: Tensor) -> None:
    weight.data = value


def by_copy(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)


def by_data_in_place(weight: Tensor, value: Tensor) -> None:
    weight.data.copy_(value)


WRITTEN: dict[str, tuple[Callable[[], Problem], str, Callable[[], Problem]]] = {
    "max_norm": (
        lambda: problem_of(Normalised(1.0), inputs=CODES),
        "table|max_norm",
        lambda: problem_of(Normalised(None), inputs=CODES),
    ),
    "data": (
        lambda: problem_of(Written(by_data)),
        r"first\.weight",
        lambda: problem_of(Divided(by_data)),
    ),
    "copy_ under no_grad": (
        lambda: problem_of(Written(by_copy)),
        r"first\.weight",
        lambda: problem_of(Divided(by_copy)),
    ),
    "data in place": (
        lambda: problem_of(Written(by_data_in_place)),
        r"first\.weight",
        lambda: problem_of(Divided(by_data_in_place)),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_forward_pass_that_writes_weights(name: str) -> None:
    build, words, remedied = WRITTEN[name]
    assert_right_or_refused(recipe_of(build), EXACT, Refusal(("model",), words, remedied))


class Late(nn.Module):
    """Makes its head at the first call, when it knows the width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if not hasattr(self, "head"):
            self.head = nn.Linear(hidden.shape[1], CLASSES).to(hidden)
        outputs: Tensor = self.head(hidden)
        return outputs


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(WIDTH), nn.Tanh(), nn.LazyLinear(CLASSES))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("model", [Late, lazy])
def test_parameters_that_come_with_the_first_call(model: Callable[[], nn.Module]) -> None:
    def called_once() -> Problem:
        problem = problem_of(model())
        problem.model(torch.zeros(2, FEATURES))
        return problem

    refusal = Refusal(("model",), r"build\(\)", called_once)
    assert_refused(recipe_of(lambda: problem_of(model())), EXACT, refusal)


def test_a_parameter_that_two_modules_share_and_one_that_is_frozen() -> None:
    def build() -> Problem:
        model = nn.Sequential(*perceptron(FEATURES), nn.Tanh(), nn.Linear(CLASSES, FEATURES))
        first, last = model[0], model[4]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        shared = nn.Sequential(first, nn.Tanh(), first, nn.Tanh(), nn.Linear(FEATURES, CLASSES))
        first.bias.requires_grad_(False)
        return problem_of(shared)

    assert_right_or_refused(recipe_of(build), EXACT, Refusal((), ""))


class Skipped(nn.Module):
    """Leaves out its middle layer in some steps (stochastic depth), or multiplies it by zero."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last, self.branch = nn.Linear(WIDTH, CLASSES), branch

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        kept = not self.training or bool(torch.rand(()) < 0.6)
        if kept or not self.branch:
            hidden = hidden + float(kept) * torch.tanh(self.middle(hidden))
        outputs: Tensor = self.last(hidden)
        return outputs


class Routed(nn.Module):
    """Trains one of two experts, by what the minibatch holds."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.one, self.other, self.branch = perceptron(), perceptron(), branch

    def forward(self, inputs: Tensor) -> Tensor:
        first = bool(inputs[:, 0].mean() > 0)
        outputs: Tensor
        if not self.training:
            outputs = self.one(inputs) + self.other(inputs)
        elif self.branch:
            outputs = self.one(inputs) if first else self.other(inputs)
        else:
            outputs = float(first) * self.one(inputs) + float(not first) * self.other(inputs)
        return outputs


@pytest.mark.parametrize("model", [Skipped, Routed])
def test_parameters_without_a_gradient_in_some_steps(model: Callable[[bool], nn.Module]) -> None:
    """torch.optim leaves them and their momentum alone, which a gradient of zero does not."""
    refusal = Refusal(("model", "problem.inner_loss"), "gradient", lambda: problem_of(model(False)))
    assert_right_or_refused(recipe_of(lambda: problem_of(model(True))), EXACT, refusal)


@pytest.mark.parametrize("model", [Skipped, Routed])
def test_parameters_with_gradients_of_zero_in_some_steps(
    model: Callable[[bool], nn.Module],
) -> None:
    assert_right(recipe_of(lambda: problem_of(model(False))), EXACT)
