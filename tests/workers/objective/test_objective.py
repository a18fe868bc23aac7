"""Models as users write them: shared and frozen weights, buffers, dropout, convolutions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drmad_client.export.pytorch import unit_shapes
from drmad_workers import (
    L2,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
)
from drmad_workers.hyperparameters.base import Slot
from tests.workers.small import (
    CLASSES,
    finite_difference,
    shaken,
    small_problem,
    tuner_of,
)

TRAINING = TrainingConfig("sgd", steps=7, batch_size=4, learning_rate=0.1, momentum=0.5)


class Shared(nn.Module):
    """The same matrix twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        outputs: Tensor = self.head(torch.tanh(self.again(hidden)))
        return outputs


class Pictures(nn.Module):
    """Convolutions of every grouping on 2×2 pictures of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)),
            nn.Conv2d(1, 4, 2, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3, groups=2),
            nn.ConvTranspose2d(4, 2, 2),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def frozen_first() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    next(model.parameters()).requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared,
    "pictures": Pictures,
    "frozen": frozen_first,
    "dropout": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    ),
    "batch normalisation without running statistics": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, CLASSES)
    ),
    "unused parameter": lambda: nn.Sequential(nn.Linear(4, CLASSES), Idle()),
}


class Idle(nn.Module):
    """Holds a parameter that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def with_fresh_weights(model: nn.Module) -> Problem:
    problem = small_problem(model)
    problem.initialize = "reset"
    return problem


@pytest.mark.parametrize("name", MODELS)
def test_hypergradient_is_exact_on_every_model(name: str) -> None:
    problem = with_fresh_weights(MODELS[name]())
    tuner = tuner_of(problem, [L2(per="unit", init=-2.0), SampleWeight()], TRAINING)
    values = shaken(tuner)
    hypergradient = tuner.evaluate(values, 0).hypergradient
    for key, gradient in hypergradient.items():
        for coordinate in range(0, gradient.numel(), 2):
            difference = finite_difference(tuner, values, key, coordinate)
            error = abs(difference - float(gradient[coordinate]))
            assert error < 1e-6 * max(1e-2, float(gradient.abs().max()))


class Apart(nn.Module):
    """Convolves by a weight that no attribute of the module leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, CLASSES, 4)
        self._held = [self.layer.weight]

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = nn.functional.conv1d(inputs[:, None], self._held[0], self.layer.bias)
        return torch.tanh(outputs).flatten(1)


def test_weights_that_no_attribute_holds_have_their_part() -> None:
    tuner = tuner_of(small_problem(Apart()), [SampleWeight()], TRAINING, Stored())
    values = shaken(tuner)
    gradient = tuner.evaluate(values, 0).hypergradient["sample_weight"]
    for coordinate in range(0, 12, 5):
        difference = finite_difference(tuner, values, "sample_weight", coordinate)
        assert abs(difference - float(gradient[coordinate])) < 1e-6


@pytest.mark.parametrize("method", [Replay(), Shortcut(max_stride=2)])
def test_running_statistics_are_those_of_the_training_alone(method: Replay | Shortcut) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES))
    tuner = tuner_of(with_fresh_weights(model), [SampleWeight()], TRAINING, method)
    first = tuner.evaluate(tuner.initial_values(), 0)
    assert int(first.model["1.num_batches_tracked"]) == TRAINING.steps
    assert not torch.equal(first.model["1.running_mean"], torch.zeros(5, dtype=torch.float64))
    again = tuner.evaluate(tuner.initial_values(), 0)
    for name, tensor in first.model.items():
        assert torch.equal(again.model[name], tensor)
    assert model.training
    assert int(model.state_dict()["1.num_batches_tracked"]) == 0


def test_statistics_do_not_disturb_the_derivative_of_training() -> None:
    """With the outer loss in the same mode, running statistics drop out of all figures."""
    plain, tracked = (
        nn.Sequential(
            nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=track), nn.Linear(5, CLASSES)
        )
        for track in (False, True)
    )
    tracked.load_state_dict(plain.state_dict(), strict=False)
    found = []
    for model in (plain, tracked):
        problem = small_problem(model)
        problem.outer_loss = lambda forward, _, batch: nn.functional.cross_entropy(
            forward.train()(batch.inputs), batch.targets
        )
        tuner = tuner_of(problem, [SampleWeight()], TRAINING)
        found.append(tuner.evaluate(tuner.initial_values(), 0).hypergradient["sample_weight"])
    torch.testing.assert_close(found[0], found[1])


def test_frozen_parameters_keep_their_values() -> None:
    model = frozen_first()
    before = model.state_dict()["0.weight"].clone()
    tuner = tuner_of(with_fresh_weights(model), [SampleWeight()], TRAINING)
    trained = tuner.evaluate(tuner.initial_values(), 0).model
    assert torch.equal(model.state_dict()["0.weight"], before.double())
    assert trained.keys() == model.state_dict().keys() - {"0.weight"}
    assert not torch.equal(trained["0.bias"], model.state_dict()["0.bias"])


def test_model_comes_back_as_it_was_given() -> None:
    problem = small_problem()
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    first, second = (tuner_of(problem, [SampleWeight()], TRAINING) for _ in range(2))
    one = first.evaluate(first.initial_values(), 0)
    other = second.evaluate(second.initial_values(), 0)
    again = first.evaluate(first.initial_values(), 0)
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(one.hypergradient["sample_weight"], other.hypergradient["sample_weight"])
    assert torch.equal(one.hypergradient["sample_weight"], again.hypergradient["sample_weight"])


def test_the_callers_random_numbers_are_left_alone() -> None:
    tuner = tuner_of(with_fresh_weights(MODELS["dropout"]()), [SampleWeight()], TRAINING)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    tuner.evaluate(tuner.initial_values(), 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("module", "units"),
    [
        (nn.Linear(3, 7), 3),
        (nn.Conv2d(4, 6, 3), 4),
        (nn.Conv2d(4, 6, 3, groups=2), 4),
        (nn.Conv1d(4, 8, 5, groups=4), 4),
        (nn.ConvTranspose2d(4, 6, 3), 4),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 4),
        (nn.Embedding(9, 5), 9),
    ],
)
def test_units_are_input_units(module: nn.Module, units: int) -> None:
    """An input unit that is cut off by zeroing its penalty group no longer moves the output."""
    weight = next(module.parameters())
    slot = Slot("weight", 0, weight.numel(), weight.shape, module)
    view, keep = unit_shapes(slot.module, tuple(slot.shape))
    mask = torch.ones(keep)
    assert mask.numel() == units
    mask.view(-1)[1] = 0.0
    cut = (weight.detach().view(view) * mask).reshape(weight.shape)
    if isinstance(module, nn.Embedding):
        inputs = torch.tensor([1])
        changed = torch.func.functional_call(module, {"weight": cut}, (inputs,))
        assert not changed.any()
        return
    shape = (1, units, *[5] * (weight.ndim - 2))
    inputs = torch.zeros(shape)
    inputs[:, 1] = torch.randn(inputs[:, 1].shape)
    state = {"weight": cut, "bias": torch.zeros_like(dict(module.named_parameters())["bias"])}
    assert not torch.func.functional_call(module, state, (inputs,)).any()
    inputs[:, 0] = 1.0
    assert torch.func.functional_call(module, state, (inputs,)).any()
