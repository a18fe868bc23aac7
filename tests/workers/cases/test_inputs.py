"""What a batch holds, and what the user's code does with it: writes, derivatives by inputs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Batch, Hyperparameter, Problem, ProblemError, Replay, SampleWeight
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    INPUTS,
    TARGETS,
    WIDTH,
    Loss,
    class_weighted,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.randomness import own_randomness
from tests.workers.judge.verdict import (
    Refusal,
    assert_right,
    assert_right_or_refused,
    tuner_of,
)


class Items(torch.utils.data.Dataset[Any]):
    """Items of any form."""

    def __init__(self, item: Callable[[Tensor], Any], start: int, stop: int) -> None:
        self.item, self.start, self.stop = item, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, row: int) -> Any:
        return self.item(INPUTS[self.start + row]), TARGETS[self.start + row]


def dictionary(row: Tensor) -> Any:
    return {"input": row, "mask": row > 0}


def pair(row: Tensor) -> Any:
    return row[:3], row[3:]


def ragged(row: Tensor) -> Any:
    return row[: 3 + int(row[0] > 0)]


class Masked(nn.Module):
    """Takes the whole input, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, given: Any) -> Tensor:
        outputs: Tensor = self.net(given["input"] * given["mask"])
        return outputs


class Halves(nn.Module):
    """Takes the parts of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        outputs: Tensor = self.net(torch.cat([one, other], 1))
        return outputs


def of_items(model: nn.Module, item: Callable[[Tensor], Any], inner_loss: Loss | None) -> Problem:
    problem = problem_of(model, inner_loss)
    return replace(problem, train=Items(item, 0, 60), valid=Items(item, 60, 100))


def test_items_that_are_dictionaries() -> None:
    assert_right(recipe_of(lambda: of_items(Masked(), dictionary, class_weighted)), EXACT)


def test_items_that_are_pairs_of_pairs() -> None:
    kinds = (SampleWeight(),)
    assert_right(recipe_of(lambda: of_items(Halves(), pair, None), kinds), EXACT)


def test_items_of_several_lengths_are_refused_without_a_collate_function() -> None:
    recipe = recipe_of(lambda: of_items(perceptron(), ragged, class_weighted))
    with pytest.raises(ProblemError, match=r"same shapes.*pad.*collate_fn") as error:
        tuner_of(recipe, Replay())
    assert error.value.field == "train"


class Written(nn.Module):
    """Writes into its inputs."""

    def __init__(self, write: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.net, self.write = perceptron(), write

    def forward(self, inputs: Tensor) -> Tensor:
        self.write(inputs)
        outputs: Tensor = self.net(inputs)
        return outputs


def add_positions(inputs: Tensor) -> None:
    inputs += torch.linspace(0, 1, FEATURES).to(inputs)


def clamp(inputs: Tensor) -> None:
    inputs.clamp_(-0.5, 0.5)


def drop_first(inputs: Tensor) -> None:
    inputs[:, 0] = 0.0


def write_and_read(inputs: Tensor) -> None:
    inputs[:] = inputs.sub(inputs.mean()).mul(0.9)


class Functional(nn.Module):
    """The same positions without a write: the remedy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs + torch.linspace(0, 1, FEATURES).to(inputs))
        return outputs


WRITES = Refusal(("model", "problem.inner_loss", "problem.outer_loss", "problem.loss"), r"=|clone")


@pytest.mark.parametrize("write", [add_positions, clamp, drop_first, write_and_read])
def test_inputs_that_the_model_writes(write: Callable[[Tensor], None]) -> None:
    remedied = (lambda: problem_of(Functional())) if write is add_positions else None
    refusal = replace(WRITES, remedied=remedied)
    assert_right_or_refused(recipe_of(lambda: problem_of(Written(write))), EXACT, refusal)


def smoothed_in_place(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    batch.inputs.mul_(0.9)
    return class_weighted(forward, tuned, batch)


def relabelled_in_place(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    batch.targets.add_(1).remainder_(CLASSES)
    return class_weighted(forward, tuned, batch)


@pytest.mark.parametrize("loss", [smoothed_in_place, relabelled_in_place])
def test_batches_that_a_loss_writes(loss: Loss) -> None:
    recipe = recipe_of(lambda: problem_of(perceptron(), loss, outer_loss=loss))
    assert_right_or_refused(recipe, EXACT, WRITES)


def test_the_users_data_stay_as_they_are() -> None:
    """Whether the problem is refused or taken."""
    for write in (add_positions, clamp):
        with own_randomness():
            problem = problem_of(Written(write))
        given = [tensor.clone() for part in (problem.train, problem.valid) for tensor in part]
        recipe = recipe_of(lambda problem=problem: problem)  # type: ignore[misc]
        try:
            tuner = tuner_of(recipe, Replay())
            tuner.evaluate(tuner.initial_values(), 0)
        except ProblemError:
            pass
        now = [tensor for part in (problem.train, problem.valid) for tensor in part]
        for one, other in zip(given, now, strict=True):
            assert torch.equal(one, other), write


class Wave(nn.Module):
    """u(t), whose derivative by its input the losses take."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, times: Tensor) -> Tensor:
        outputs: Tensor = self.net(times)
        return outputs


def residual(forward: nn.Module, times: Tensor) -> Tensor:
    times = times.clone().requires_grad_()
    values: Tensor = forward(times)
    (slope,) = torch.autograd.grad(values.sum(), times, create_graph=True)
    defect: Tensor = slope + values - torch.sin(3 * times)
    return defect.square().mean()


def physics(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    start: Tensor = forward(batch.inputs.new_zeros(1, 1)) - 1
    return tuned["h"][0] * residual(forward, batch.inputs) + tuned["h"][1] * start.square().mean()


def held_out_residual(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    return residual(forward, batch.inputs)


def held_out_with_grad(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    with torch.enable_grad():
        return residual(forward, batch.inputs)


def physics_problem(outer: Loss) -> Callable[[], Problem]:
    def build() -> Problem:
        times = torch.linspace(0, 2, 100, dtype=torch.float64)[:, None]
        rows = torch.randperm(100, generator=torch.Generator().manual_seed(0))
        train, valid = times[rows[:60]], times[rows[60:]]
        stated = {"h": Hyperparameter(torch.zeros(2), "exp")}
        return Problem(
            Wave(), (train, train), (valid, valid),
            inner_loss=physics, outer_loss=outer, hyperparameters=stated, initialize="reset",
        )  # fmt: skip

    return build


@pytest.mark.parametrize("outer", [held_out_residual, held_out_with_grad])
def test_losses_with_derivatives_by_the_inputs(outer: Loss) -> None:
    assert_right(recipe_of(physics_problem(held_out_with_grad)), EXACT)
    refusal = Refusal(("problem.outer_loss",), "enable_grad", physics_problem(held_out_with_grad))
    assert_right_or_refused(recipe_of(physics_problem(outer)), EXACT, refusal)


class Proximal(nn.Module):
    """Knows where its training began."""

    start: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("start", torch.zeros(CLASSES, FEATURES))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs


def begin(model: nn.Module) -> None:
    assert isinstance(model, Proximal)
    model.layer.reset_parameters()
    model.start.copy_(model.layer.weight)


def proximal(forward: Proximal, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A distance to where the training began: 0 at first, where a norm has no second derivative."""
    fit = each_loss(forward(batch.inputs), batch.targets).mean()
    distance: Tensor = (forward.layer.weight - forward.start).norm()
    return fit + 0.3 * tuned["h"].mean() * distance


def smooth_proximal(forward: Proximal, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    fit = each_loss(forward(batch.inputs), batch.targets).mean()
    distance = ((forward.layer.weight - forward.start).square().sum() + 1e-3).sqrt()
    return fit + 0.3 * tuned["h"].mean() * distance


def grouped(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A group lasso over rows, one of which is zero at first."""
    (first, *_, last) = forward.parameters()
    lengths = torch.stack([row.norm() for row in (*first, last)])
    fit = each_loss(forward(batch.inputs), batch.targets).mean()
    return fit + 0.05 * tuned["h"].mean() * lengths.sum()


def zero_bias(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
            nn.init.zeros_(layer.bias)


def proximal_problem(loss: Loss) -> Callable[[], Problem]:
    return lambda: problem_of(Proximal(), loss, initialize=begin)


NORMS: dict[str, tuple[Callable[[], Problem], Callable[[], Problem] | None]] = {
    "proximal": (proximal_problem(proximal), proximal_problem(smooth_proximal)),
    "group lasso": (lambda: problem_of(perceptron(), grouped, initialize=zero_bias), None),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_at_zero(name: str) -> None:
    build, remedied = NORMS[name]
    refusal = Refusal(("problem.inner_loss",), r"norm|root|sqrt", remedied)
    assert_right_or_refused(recipe_of(build), EXACT, refusal)
