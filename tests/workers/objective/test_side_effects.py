"""What a user's model, loss and `initialize` may not change is found before any training."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    Batch,
    CustomTensor,
    Hyperparameter,
    Problem,
    ProblemError,
    SampleWeight,
    TrainingConfig,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.plain_training import require_right
from tests.workers.small import CLASSES, small_problem, tuner_of

TRAINING = TrainingConfig(steps=6, batch_size=4, learning_rate=0.2, momentum=0.5)
Loss = Callable[[nn.Module, Mapping[str, Tensor], Batch], Tensor]


def refusal(problem: Problem, kind: Kind | None = None) -> ProblemError:
    with pytest.raises(ProblemError) as error:
        tuner_of(problem, [kind or SampleWeight()], TRAINING)
    return error.value


class Changing(nn.Module):
    """A net whose forward applies `change` to itself and its inputs first."""

    def __init__(self, change: Callable[["Changing", Tensor], object]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(CLASSES, dtype=torch.float64))
        self.net = nn.Linear(4, CLASSES)
        self.change = change

    def forward(self, inputs: Tensor) -> Tensor:
        self.change(self, inputs)
        outputs: Tensor = self.net(inputs) + self.table
        return outputs


def write_data(model: Changing, inputs: Tensor) -> None:
    inputs += 1.0


def clamp_data(model: Changing, inputs: Tensor) -> None:
    inputs.clamp_(-100.0, 100.0)  # no value is as large: other rows may be


def through_numpy(model: Changing, inputs: Tensor) -> None:
    inputs.detach().numpy()[0] = 7.0


def held_out_alone(model: Changing, inputs: Tensor) -> None:
    if not model.training:
        inputs.mul_(2.0)


@pytest.mark.parametrize("change", [write_data, clamp_data, through_numpy, held_out_alone])
def test_a_model_that_writes_into_its_inputs_is_refused_and_the_data_stay(
    change: Callable[[Changing, Tensor], object],
) -> None:
    problem = small_problem(Changing(change))
    before = [tensor.clone() for part in (problem.train, problem.valid) for tensor in part]
    error = refusal(problem)
    assert error.field == "model"
    assert "batch.inputs was written to" in str(error)
    assert "x = x + y" in str(error)
    after = [tensor for part in (problem.train, problem.valid) for tensor in part]
    assert all(map(torch.equal, before, after))


def test_a_loss_that_writes_into_targets_or_hyperparameters_is_refused() -> None:
    def targets(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        loss = nn.functional.cross_entropy(forward(batch.inputs) * tuned["scale"], batch.targets)
        batch.targets.fill_(0)
        return loss

    def scale(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        tuned["scale"].data.clamp_(max=0.5)
        return nn.functional.cross_entropy(forward(batch.inputs) * tuned["scale"], batch.targets)

    for loss, name in ((targets, "batch.targets"), (scale, "hyperparameters['scale']")):
        problem = small_problem()
        problem.inner_loss = loss
        problem.hyperparameters = {"scale": Hyperparameter(torch.ones(()))}
        error = refusal(problem, CustomTensor("scale"))
        assert f"{name} was written to" in str(error)
        assert error.field == "problem.inner_loss"


def test_metrics_that_write_into_data_leave_the_users_data_as_they_are() -> None:
    """Metrics are first called after training, on a copy."""
    problem = small_problem()
    inputs, targets = (part.clone() for part in problem.valid)
    problem.metrics = {"zero": lambda outputs, targets: targets.zero_().double().mean()}
    tuner = tuner_of(problem, [SampleWeight()], TRAINING)
    first = tuner.evaluate(tuner.initial_values(), 0)
    assert tuner.evaluate(tuner.initial_values(), 0).validation_loss == first.validation_loss
    assert torch.equal(problem.valid[0], inputs)
    assert torch.equal(problem.valid[1], targets)


def assign_data(model: Changing, inputs: Tensor) -> None:
    model.table.data = model.table.data / model.table.data.norm()


def write_in_place(model: Changing, inputs: Tensor) -> None:
    with torch.no_grad():
        model.table.clamp_(-9.0, 9.0)


def replace_parameter(model: Changing, inputs: Tensor) -> None:
    model.table = nn.Parameter(model.table.detach() * 1.0)


def register_parameter(model: Changing, inputs: Tensor) -> None:
    if not hasattr(model, "late"):
        model.late = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        (assign_data, "'table'", "as a new tensor"),
        (write_in_place, "'table'", "as a new tensor"),
        (replace_parameter, "'table'", "as a plain tensor"),
        (register_parameter, "'late'", "once on a batch in build()"),
    ],
)
def test_a_forward_that_changes_parameters_is_refused_by_name(
    change: Callable[[Changing, Tensor], object], name: str, remedy: str
) -> None:
    error = refusal(small_problem(Changing(change)))
    assert error.field == "model"
    assert name in str(error)
    assert remedy in str(error)


class Table(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.rows = nn.Embedding(5, 4, **options)  # type: ignore[arg-type]
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.rows(inputs.abs().long().clamp_max(4)).mean(1))
        return outputs


class FunctionalTable(Table):
    def forward(self, inputs: Tensor) -> Tensor:
        numbers = inputs.abs().long().clamp_max(4)
        found = nn.functional.embedding(numbers, self.rows.weight, sparse=True)
        outputs: Tensor = self.last(found.mean(1))
        return outputs


class BoundedTable(Table):
    def forward(self, inputs: Tensor) -> Tensor:
        numbers = inputs.abs().long().clamp_max(4)
        found = nn.functional.embedding(numbers, self.rows.weight, max_norm=100.0)
        outputs: Tensor = self.last(found.mean(1))
        return outputs


def with_hook() -> nn.Module:
    model = nn.Linear(4, CLASSES)
    model.bias.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
        lambda parameter: None
    )
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Table(max_norm=1.0), "'rows' has max_norm=1.0"),
        (Table(sparse=True), "'rows' has sparse=True"),
        (FunctionalTable(), "'rows.weight' is sparse"),
        (BoundedTable(), "'rows.weight' was written to"),
        (nn.Sequential(nn.LazyLinear(CLASSES)), "'0.weight' of a lazy module"),
        (with_hook(), "'bias' has a hook of register_post_accumulate_grad_hook"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_that_the_engine_cannot_train_are_named(model: nn.Module, words: str) -> None:
    error = refusal(small_problem(model))
    assert error.field == "model"
    assert words in str(error)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def weighted(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    losses = nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
    return (losses * tuned["by_class"][batch.targets]).mean()


def weighted_problem(model: nn.Module) -> Problem:
    problem = small_problem(model)
    problem.inner_loss, problem.initialize = weighted, "reset"
    start = torch.linspace(-0.5, 0.5, CLASSES, dtype=torch.float64)
    problem.hyperparameters = {"by_class": Hyperparameter(start, "exp")}
    return problem


def test_a_parameter_that_initialize_assigns_is_adopted_and_trained() -> None:
    def assign(model: nn.Module) -> None:
        assert isinstance(model, nn.Sequential)
        model[0].weight = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
        model[0].bias.data = torch.randn(5, dtype=torch.float64)

    def build() -> Problem:
        problem = weighted_problem(net())
        problem.initialize = assign
        return problem

    torch.manual_seed(0)
    model = net()
    given = {name: value.clone() for name, value in model.state_dict().items()}

    def same() -> Problem:
        problem = build()
        problem.model.load_state_dict(given)
        return problem

    problem = same()
    own = problem.model.get_parameter("0.weight")
    tuner = tuner_of(problem, [CustomTensor("by_class")], TRAINING)
    values = tuner.initial_values()
    for _ in range(2):
        found = tuner.evaluate(values, 0)
        require_right(found, same, TRAINING, values, "by_class")
    assert problem.model.get_parameter("0.weight") is own
    assert torch.equal(own.detach(), given["0.weight"].double())


def fresh_head(model: nn.Module) -> None:
    model.add_module("2", nn.Linear(5, CLASSES))


def wider(model: nn.Module) -> None:
    model.get_submodule("0").weight = nn.Parameter(torch.zeros(6, 4))


def frozen(model: nn.Module) -> None:
    model.get_parameter("0.weight").requires_grad_(False)


def added(model: nn.Module) -> None:
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))


@pytest.mark.parametrize(
    ("initialize", "name"),
    [(fresh_head, "'2'"), (wider, "'0.weight'"), (frozen, "'0.weight'"), (added, "'scale'")],
)
def test_an_initialize_that_replaces_modules_or_shapes_is_refused(
    initialize: Callable[[nn.Module], None], name: str
) -> None:
    problem = small_problem(net())
    problem.initialize = initialize
    error = refusal(problem)
    assert error.field == "initialize"
    assert name in str(error)
    assert "draw in place" in str(error)


class Masked(nn.Module):
    """Registers a buffer in the first forward pass; with `count`, every pass changes it."""

    mask: Tensor

    def __init__(self, count: bool) -> None:
        super().__init__()
        self.net = net()
        self.count = count

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", inputs.new_tensor([1.0, 0.0, 1.0, 0.5]))
        if self.count:
            self.mask += 1.0
        outputs: Tensor = self.net(inputs * self.mask)
        return outputs


def test_a_buffer_of_the_first_forward_pass_takes_part() -> None:
    torch.manual_seed(1)
    given = net().state_dict()

    def build() -> Problem:
        model = Masked(count=False)
        model.net.load_state_dict(given)
        return weighted_problem(model)

    tuner = tuner_of(build(), [CustomTensor("by_class")], TRAINING)
    values = tuner.initial_values()
    found = tuner.evaluate(values, 0)
    require_right(found, build, TRAINING, values, "by_class")
    assert "mask" in found.model


def test_a_buffer_whose_first_value_is_unknown_is_refused() -> None:
    error = refusal(small_problem(Masked(count=True)))
    assert error.field == "model"
    assert "'mask'" in str(error)
    assert "__init__" in str(error)
