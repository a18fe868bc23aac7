"""Every kind of hyperparameter: what it becomes, and its derivative against whole training runs."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from drmad_client.spec.capabilities import HYPERPARAMETERS
from drmad_client.spec.hyperparameters import HyperparameterSpec
from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L1,
    L2,
    CustomTensor,
    InitScale,
    LearningRate,
    LossWeight,
    MetaConfig,
    Method,
    Momentum,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    TrainingConfig,
    TrainingData,
    Tuner,
    spec_adapter,
    tune,
)
from drmad_workers.catalog import build_problem
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.rates import PerStep
from drmad_workers.problem import Batch
from tests.workers.objective.test_objective import MODELS, with_fresh_weights
from tests.workers.small import (
    CLASSES,
    finite_difference,
    largest_difference,
    mixing_problem,
    shaken,
    small_problem,
    tuner_of,
)

STEPS = 9
DAMPED = TrainingConfig("damped_sgd", steps=STEPS, batch_size=4, learning_rate=0.3, momentum=0.7)
TRAININGS: dict[OptimizerName, TrainingConfig] = {
    "damped_sgd": DAMPED,
    "sgd": replace(DAMPED, optimizer="sgd", learning_rate=0.1),
    "adam": replace(DAMPED, optimizer="adam", learning_rate=0.05, weight_decay=0.1),
    "adamw": replace(DAMPED, optimizer="adamw", learning_rate=0.05, weight_decay=0.1),
}
EVERYWHERE = Shortcut(
    interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1, contraction=False
)

PER_STEP: list[PerStep] = ["model", "layer", "step", "step_and_layer"]
KINDS: dict[str, Kind] = {
    "l1": L1(init=-4.0, per="weight"),
    "l2": L2(per="unit", init=-3.0),
    **{f"learning rate per {per}": LearningRate(per=per) for per in PER_STEP},
    **{f"momentum per {per}": Momentum(per=per) for per in PER_STEP},
    "init scale": InitScale(),
    "sample weight": SampleWeight(),
    "training data": TrainingData(),
    "loss weight": LossWeight(),
}
ALL: list[Kind] = [
    L1(init=-4.0, per="weight"),
    L2(per="unit", init=-3.0),
    LearningRate(per="step_and_layer"),
    Momentum(per="step"),
    InitScale(),
    SampleWeight(),
    TrainingData(),
    LossWeight(),
]


def assert_exact(
    problem: Problem,
    kinds: list[Kind],
    training: TrainingConfig,
    method: Method | None = None,
    share: int = 4,
) -> None:
    """About `share` entries of every hypergradient are those of central differences."""
    tuner = tuner_of(problem, kinds, training, method)
    values = shaken(tuner, 0.3)
    for name, gradient in tuner.evaluate(values, 0).hypergradient.items():
        for coordinate in range(0, gradient.numel(), gradient.numel() // (share + 1) + 1):
            difference = finite_difference(tuner, values, name, coordinate)
            error = abs(difference - float(gradient.view(-1)[coordinate]))
            assert error < 1e-6 * max(1e-2, float(gradient.abs().max())), (name, coordinate)


@pytest.mark.parametrize("optimizer", TRAININGS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_the_finite_difference_of_whole_training_runs(
    name: str, optimizer: OptimizerName
) -> None:
    assert_exact(small_problem(), [KINDS[name]], TRAININGS[optimizer])


@pytest.mark.parametrize("optimizer", TRAININGS)
def test_kinds_are_exact_together(optimizer: OptimizerName) -> None:
    assert_exact(small_problem(), ALL, TRAININGS[optimizer], share=3)


@pytest.mark.parametrize("optimizer", TRAININGS)
def test_shortcut_with_a_node_at_every_step_is_exact_in_every_kind(
    optimizer: OptimizerName,
) -> None:
    training = TRAININGS[optimizer]
    exact, shortcut = (
        tuner_of(small_problem(), ALL, training, method) for method in (Replay(), EVERYWHERE)
    )
    values = shaken(exact, 0.3)
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-9


@pytest.mark.parametrize("optimizer", ["damped_sgd", "adam"])
def test_kinds_are_exact_beside_the_users_own(optimizer: OptimizerName) -> None:
    problem = mixing_problem()
    given = problem.inner_loss
    assert given is not None

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        smooth = forward(batch.inputs).square().mean()
        terms = torch.stack([given(forward, hyperparameters, batch), smooth])
        return torch.dot(terms, hyperparameters["loss_weight"])

    problem.inner_loss = inner
    kinds = [kind for kind in ALL if not isinstance(kind, LossWeight)]
    kinds += [LossWeight(terms=2), CustomTensor("mixing")]
    assert_exact(problem, kinds, TRAININGS[optimizer], share=2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", MODELS)
def test_kinds_and_optimizers_are_exact_on_every_model(name: str, optimizer: OptimizerName) -> None:
    training = replace(TRAININGS[optimizer], steps=5)
    assert_exact(with_fresh_weights(MODELS[name]()), ALL, training, share=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_running_statistics_go_with_every_kind(optimizer: OptimizerName) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES))
    tuner = tuner_of(with_fresh_weights(model), ALL, TRAININGS[optimizer])
    first, again = (tuner.evaluate(tuner.initial_values(), 0) for _ in range(2))
    assert int(first.model["1.num_batches_tracked"]) == STEPS
    assert largest_difference(again, first.hypergradient) == 0.0


def test_rates_begin_with_those_of_the_training() -> None:
    kinds: list[Kind] = [LearningRate(per="step_and_layer"), Momentum(per="layer"), InitScale()]
    for training in TRAININGS.values():
        tuner = tuner_of(small_problem(), kinds, training)
        rate, momentum, scale = tuner.hyperparameters.values()
        assert (rate.shape, momentum.shape, scale.shape) == ((4, STEPS), (4,), (4,))
        torch.testing.assert_close(
            rate.value(rate.initial), torch.full((4, STEPS), training.learning_rate).double()
        )
        torch.testing.assert_close(
            momentum.value(momentum.initial), torch.full((4,), training.first_decay).double()
        )
        plain = tuner_of(small_problem(), [SampleWeight()], training)
        expected = plain.evaluate(plain.initial_values(), 0).model
        tuned = tuner_of(small_problem(), [*kinds, SampleWeight()], training)
        for name, tensor in tuned.evaluate(tuned.initial_values(), 0).model.items():
            torch.testing.assert_close(tensor, expected[name])


def test_groups_name_layers_and_stretches_of_steps() -> None:
    training = replace(DAMPED, steps=25)
    layers = ["0.weight", "0.bias", "2.weight", "2.bias"]
    expected = {
        "step": [(f"steps {i} to {min(i + 2, 24)}", i, min(i + 3, 25)) for i in range(0, 25, 3)],
        "layer": [(layer, i, i + 1) for i, layer in enumerate(layers)],
        "step_and_layer": [(layer, 25 * i, 25 * i + 25) for i, layer in enumerate(layers)],
        "model": [("model", 0, 1)],
    }
    for per in PER_STEP:
        tuner = tuner_of(small_problem(), [LearningRate(per=per)], training)
        assert list(tuner.hyperparameters["learning_rate"].groups) == expected[per]
    tuner = tuner_of(small_problem(), [InitScale(), TrainingData(), LossWeight()], training)
    scale, data, classes = (bound.groups for bound in tuner.hyperparameters.values())
    assert [group.label for group in scale] == layers
    assert data[2] == ("example 2", 8, 12)
    assert classes[2] == ("class 2", 2, 3)


def test_training_data_begins_with_the_data_or_with_noise_like_it() -> None:
    problem = small_problem(rows=400)
    inputs = problem.train[0]
    tuner = tuner_of(problem, [TrainingData()], DAMPED)
    assert torch.equal(tuner.initial_values()["training_data"], inputs)
    noisy = tuner_of(problem, [TrainingData(init="noise", lower=-2.0, upper=2.0)], DAMPED)
    noise = noisy.initial_values()["training_data"]
    assert noise.shape == inputs.shape
    assert not torch.equal(noise, inputs)
    assert abs(float(noise.std() / inputs.std()) - 1.0) < 0.1
    assert float(noise.abs().max()) <= 2.0


def test_weights_of_one_leave_the_loss_as_it_is() -> None:
    plain = tuner_of(small_problem(), [SampleWeight()], DAMPED)
    weighed = tuner_of(small_problem(), [LossWeight(), SampleWeight()], DAMPED)
    expected = plain.evaluate(plain.initial_values(), 0).validation_loss
    assert weighed.evaluate(weighed.initial_values(), 0).validation_loss == pytest.approx(expected)


def whole_inputs() -> Problem:
    problem = small_problem(nn.Sequential(nn.Embedding(5, CLASSES), nn.Flatten()))
    problem.train, problem.valid = (
        (torch.randint(5, (len(targets), 1)), targets)
        for _, targets in (problem.train, problem.valid)
    )
    problem.model = nn.Sequential(nn.Flatten(0), nn.Embedding(5, CLASSES))
    return problem


@pytest.mark.parametrize(
    ("problem", "kinds", "field", "message"),
    [
        (small_problem, [LearningRate(), LearningRate(name="other")], "other", "one learning_rate"),
        (small_problem, [Momentum(per="unit")], "momentum.per", "step_and_layer, got 'unit'"),  # type: ignore[arg-type]
        (small_problem, [LossWeight(terms=2)], "loss_weight.terms", "needs an inner_loss"),
        (small_problem, [TrainingData(init="zero")], "training_data.init", "data, noise"),  # type: ignore[arg-type]
        (small_problem, [TrainingData(upper=0.1)], "training_data", "between its bounds"),
        (small_problem, [LearningRate(lower=0.0)], "learning_rate", r"\[0.0, inf\]"),
        (whole_inputs, [TrainingData()], "training_data", "floating point"),
        (mixing_problem, [LossWeight()], "loss_weight", "must depend on the hyperparameter"),
    ],
)
def test_kinds_that_do_not_fit_are_refused_by_name(
    problem: Callable[[], Problem], kinds: list[Kind], field: str, message: str
) -> None:
    with pytest.raises(ProblemError, match=message) as error:
        tuner_of(problem(), kinds, DAMPED)
    assert error.value.field == f"hyperparameters.{field}"


@pytest.mark.parametrize("method", [Replay(horizon=3), Shortcut(horizon=3)])
@pytest.mark.parametrize("kind", [InitScale(), LearningRate(), Momentum(per="step_and_layer")])
def test_what_a_horizon_cannot_see_is_refused_by_name(method: Method, kind: Kind) -> None:
    with pytest.raises(ProblemError, match=kind.name) as error:
        tuner_of(small_problem(), [kind], DAMPED, method)
    assert error.value.field == f"hyperparameters.{kind.name}"
    tuner_of(small_problem(), [LearningRate(per="layer")], DAMPED, method)


def test_the_shortcut_takes_single_steps_for_a_momentum_per_step() -> None:
    """Strides of up to ten would leave a cosine of .25."""
    training = TrainingConfig("damped_sgd", steps=60, batch_size=6, learning_rate=0.2)
    exact, shortcut = (
        tuner_of(small_problem(), [Momentum(per="step")], training, method)
        for method in (Replay(), Shortcut())
    )
    values = exact.initial_values()
    expected = exact.evaluate(values, 0).hypergradient["momentum"]
    result = shortcut.evaluate(values, 0)
    assert result.backward_steps == training.steps
    actual = result.hypergradient["momentum"]
    assert float(torch.cosine_similarity(actual, expected, dim=0)) > 0.9


def test_the_wire_knows_every_kind_and_option() -> None:
    for name, spec in HYPERPARAMETERS.items():
        stated = TypeAdapter(HyperparameterSpec).validate_python({"kind": name, "name": "own"})
        kind = spec_adapter.kind(stated)
        assert kind.name == "own"
        options = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        assert options == set(spec.model_fields) - {"kind"}
        for option in options - {"name"}:
            assert getattr(kind, option) == getattr(stated, option)


@pytest.mark.parametrize("optimizer", TRAININGS)
def test_losses_in_half_precision_point_the_same_way(optimizer: OptimizerName) -> None:
    training = replace(TRAININGS[optimizer], precision="bfloat16")
    kinds: list[Kind] = [L2(per="unit", init=-3.0), SampleWeight(), LossWeight(), LearningRate()]
    full, half = (
        Tuner(small_problem(), kinds, each, Replay(), dtype=torch.float32)
        for each in (TRAININGS[optimizer], training)
    )
    values = shaken(full, 0.3)
    expected, found = full.evaluate(values, 0), half.evaluate(values, 0)
    assert 0.0 < abs(found.validation_loss - expected.validation_loss) < 0.02
    for name, gradient in expected.hypergradient.items():
        assert found.hypergradient[name].dtype == gradient.dtype
        cosine = torch.cosine_similarity(found.hypergradient[name], gradient, dim=0)
        assert float(cosine) > 0.98


def digits(**options: int) -> Problem:
    return build_problem({"name": "mlp", "hidden": [30]}, {"name": "digits", **options})


def test_learned_learning_rates_lower_the_validation_loss() -> None:
    """A hundred steps on digits: .7 at a timid constant rate, .09 to .19 at the best constant one
    (.2), depending on the weights drawn; the schedule finds its way there from the timid one."""
    training = TrainingConfig("sgd", 100, 50, learning_rate=0.02)
    method, meta = (
        Shortcut(interpolation_nodes=8, averaging_window=10),
        MetaConfig(learning_rate=0.2, iterations=13),
    )
    found = tune(digits(), [LearningRate()], training, method, meta)
    losses = [evaluation.validation_loss for evaluation in found.evaluations]
    assert losses[0] > 0.6
    assert min(losses) < 0.16


def test_ten_images_are_distilled_from_digits() -> None:
    """One real image of each class leaves 39 % errors; ten that were learned, below 20 %."""
    problem = digits()
    inputs, targets = problem.train
    first = torch.stack([(targets == c).nonzero()[0, 0] for c in range(10)])
    problem.train = (inputs[first], targets[first])
    training = TrainingConfig("sgd", 50, 10, learning_rate=0.2)
    meta = MetaConfig(learning_rate=0.05, iterations=25)
    found = tune(problem, [TrainingData(lower=0.0)], training, Shortcut(), meta)
    before, after = found.evaluations[0], min(found.evaluations, key=lambda e: e.validation_loss)
    assert before.validation_loss > 1.5
    assert after.validation_loss < 0.4
    assert before.metrics["test_error"] > 0.3
    assert after.metrics["test_error"] < 0.2
