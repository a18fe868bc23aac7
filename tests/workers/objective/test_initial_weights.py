"""Training starts from the weights that were given, unless the problem asks for others.

The judge is an ordinary loop of torch.optim on a copy of the given model.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Evaluation,
    InitScale,
    Problem,
    ProblemError,
    Replay,
    TrainingConfig,
)
from drmad_workers.objective.held_out import model_bytes
from drmad_workers.problem import error_rate
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import CLASSES, small_problem, tuner_of

ONE_STEP = TrainingConfig(steps=1, batch_size=12, learning_rate=0.01)
SHORT = TrainingConfig(steps=5, batch_size=6, learning_rate=1e-5)


class Adapted(nn.Module):
    """A frozen linear layer with an adapter of low rank, whose second matrix begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return outputs


def adapted() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(Adapted(nn.Linear(4, 5)), nn.Tanh(), Adapted(nn.Linear(5, CLASSES)))


def normed() -> nn.Module:
    """Running statistics that no fresh module has."""
    torch.manual_seed(3)
    norm = nn.BatchNorm1d(5)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(torch.linspace(-1.0, 1.0, 5))
    norm.running_var.copy_(torch.linspace(0.5, 2.0, 5))
    return nn.Sequential(nn.Linear(4, 5), norm, nn.Tanh(), nn.Linear(5, CLASSES))


class Tied(nn.Module):
    """Encodes and decodes by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.decode(torch.tanh(self.encode(inputs))))
        return outputs


def trained() -> nn.Module:
    """A model that fits the problem's validation data, as a pretrained one does."""
    problem = small_problem()
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=0.05)
    inputs, targets = problem.valid
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(problem.model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return problem.model


def evaluated(problem: Problem, training: TrainingConfig, draw: int = 0) -> Evaluation:
    tuner = tuner_of(problem, [L2(per="layer", init=-20.0)], training)
    return tuner.evaluate(tuner.initial_values(), 0, draw=draw)


@pytest.mark.parametrize("build", [adapted, normed, Tied], ids=["adapter", "statistics", "tied"])
def test_the_first_training_loss_is_that_of_the_given_model(
    build: Callable[[], nn.Module],
) -> None:
    problem = small_problem(build())
    plain = copy.deepcopy(problem.model).train()
    inputs, targets = problem.train
    expected = nn.functional.cross_entropy(plain(inputs), targets)
    for draw in (0, 1):
        assert evaluated(problem, ONE_STEP, draw).training_loss == pytest.approx(
            float(expected.detach()), rel=1e-7
        )


@pytest.mark.parametrize("build", [adapted, normed, Tied], ids=["adapter", "statistics", "tied"])
def test_trained_weights_and_hypergradients_are_those_of_a_plain_loop(
    build: Callable[[], nn.Module],
) -> None:
    def problem() -> Problem:
        return small_problem(build(), rows=24)

    training = TrainingConfig(steps=8, batch_size=6, learning_rate=0.1, momentum=0.5)
    assert_right(Recipe(problem, (L2(per="layer", init=-4.0),), training), [Replay()])


def test_a_pretrained_model_keeps_its_error() -> None:
    problem = small_problem(trained())
    problem.metrics = {"error": error_rate}
    with torch.no_grad():
        before = float(error_rate(problem.model(problem.valid[0]), problem.valid[1]))
    assert before == 0.0
    assert evaluated(problem, SHORT).metrics["validation_error"] == before
    problem.initialize = "reset"
    assert evaluated(problem, SHORT).metrics["validation_error"] > 0.3


def test_reset_draws_as_the_modules_do_under_the_seed() -> None:
    problem = small_problem(adapted())
    problem.initialize = "reset"
    found = [evaluated(problem, SHORT, draw).model for draw in (0, 0, 1)]
    assert torch.equal(found[0]["0.up.weight"], found[1]["0.up.weight"])
    assert found[0]["0.up.weight"].norm() > 0.1
    assert not torch.equal(found[0]["0.up.weight"], found[2]["0.up.weight"])


def test_the_given_weights_are_scaled_by_init_scale() -> None:
    def problem() -> Problem:
        return small_problem(Tied(), rows=24)

    training = TrainingConfig(steps=6, batch_size=6, learning_rate=0.1)
    assert_right(Recipe(problem, (InitScale(),), training), [Replay()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_trained_in_that_of_the_run(dtype: torch.dtype) -> None:
    problem = small_problem()
    problem.model.to(dtype)
    plain = copy.deepcopy(problem.model).double()
    inputs, targets = problem.train
    expected = float(nn.functional.cross_entropy(plain(inputs), targets).detach())
    found = evaluated(problem, ONE_STEP)
    assert found.training_loss == pytest.approx(expected, rel=1e-7)
    assert {tensor.dtype for tensor in found.model.values()} == {torch.float64}


def test_of_a_frozen_model_only_what_training_changes_comes_back() -> None:
    whole = small_problem(normed())
    assert evaluated(whole, SHORT).model.keys() == whole.model.state_dict().keys()
    adapter = evaluated(small_problem(adapted()), SHORT).model
    size = sum(tensor.nbytes for tensor in adapter.values())
    assert model_bytes(tuner_of(small_problem(adapted()), [L2()], SHORT).objective) == size
    assert sorted(adapter) == ["0.down.weight", "0.up.weight", "2.down.weight", "2.up.weight"]
    model = normed()
    model[0].requires_grad_(False)  # type: ignore[index]
    found = evaluated(small_problem(model), SHORT).model
    assert found.keys() == model.state_dict().keys() - {"0.weight", "0.bias"}
    assert found["1.num_batches_tracked"] == SHORT.steps


@pytest.mark.parametrize("initialize", ["rest", True, 3])
def test_another_value_of_initialize_is_refused(initialize: object) -> None:
    given = small_problem()
    with pytest.raises(ProblemError, match="must be None") as error:
        Problem(given.model, given.train, given.valid, initialize=initialize)  # type: ignore[arg-type]
    assert error.value.field == "initialize"
