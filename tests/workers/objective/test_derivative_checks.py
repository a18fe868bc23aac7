"""The checks before any training starts, and the messages of training runs that fail."""

import math
import pickle
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from drmad_workers import (
    L2,
    CurvatureIndefinite,
    CustomTensor,
    EngineError,
    Forward,
    HypergradientDiverged,
    HypergradientError,
    HypergradientNotFinite,
    Hyperparameter,
    Method,
    OneStep,
    PathNotRecovered,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    SolverNotConverged,
    Stopped,
    Stored,
    TrainingConfig,
    TrainingDiverged,
    Tuner,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.products.product import Hvp
from drmad_workers.problem import Batch
from tests.workers.small import CLASSES, mixing_problem, relative, small_problem, tuner_of

TRAINING = TrainingConfig(steps=5, batch_size=4)


class Once(torch.autograd.Function):
    """A kernel whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        return inputs * 2.0

    @staticmethod
    @once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 2.0


class Twice(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2.0


class Kernel(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = Once.apply(inputs)  # type: ignore[no-untyped-call]
        return made


def refused(problem: Problem, kinds: list[Kind]) -> ProblemError:
    with pytest.raises(ProblemError) as error:
        tuner_of(problem, kinds, TRAINING)
    return error.value


def test_a_hyperparameter_that_nothing_depends_on_is_named() -> None:
    problem = mixing_problem()
    problem.hyperparameters = {
        **problem.hyperparameters,
        "forgotten": Hyperparameter(torch.zeros(2)),
    }
    error = refused(problem, [CustomTensor("mixing"), CustomTensor("forgotten")])
    assert "'forgotten'" in str(error)
    assert error.field == "hyperparameters.forgotten"
    tuner_of(problem, [CustomTensor("mixing")], TRAINING)


def test_a_hyperparameter_beside_the_weights_changes_no_training() -> None:
    """L(w) + h(λ) has a derivative in λ and yet moves nothing."""
    problem = mixing_problem()

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        loss = nn.functional.cross_entropy(forward(batch.inputs), batch.targets)
        return loss + hyperparameters["mixing"].square().sum()

    problem.inner_loss, problem.outer_loss = inner, None
    assert "'mixing'" in str(refused(problem, [CustomTensor("mixing")]))


def test_a_model_without_second_derivatives_is_told_before_training() -> None:
    model = nn.Sequential(nn.Linear(4, 5), Kernel(), nn.Linear(5, CLASSES))
    error = refused(small_problem(model), [SampleWeight()])
    assert "second derivatives" in str(error)
    assert "only once" in str(error)
    assert "use hvp finite_difference" in str(error)
    assert error.field == "hypergradient.hvp"


def test_a_model_without_second_derivatives_is_tuned_by_finite_differences() -> None:
    found = []
    for middle, hvp in ((Kernel(), "finite_difference"), (Twice(), "exact")):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(5, CLASSES))
        kinds: list[Kind] = [SampleWeight(), L2(per="layer", init=-3.0)]
        method = Replay(hvp=hvp)  # type: ignore[arg-type]
        tuner = tuner_of(small_problem(model), kinds, TRAINING, method)
        found.append(tuner.evaluate(tuner.initial_values(), 0).hypergradient)
    for name, expected in found[1].items():
        assert relative(found[0][name], expected) < 1e-6


@pytest.mark.parametrize("hvp", ["exact", "finite_difference"])
def test_a_hyperparameter_is_named_under_either_product(hvp: Hvp) -> None:
    problem = mixing_problem()
    problem.hyperparameters = {**problem.hyperparameters, "idle": Hyperparameter(torch.zeros(2))}
    with pytest.raises(ProblemError, match="'idle'"):
        tuner_of(problem, [CustomTensor("idle")], TRAINING, Replay(hvp=hvp))


def test_an_outer_gradient_that_is_not_finite_is_told_with_the_last_step() -> None:
    problem = small_problem()
    problem.outer_loss = lambda forward, _, batch: (forward(batch.inputs) * 0.0).abs().sqrt().sum()
    tuner = tuner_of(problem, [SampleWeight()], TRAINING)
    with pytest.raises(HypergradientDiverged) as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert error.value.step == TRAINING.steps
    assert math.isnan(error.value.norm)


@pytest.mark.parametrize("method", [Replay(), Shortcut(), Stored(), Forward(), OneStep()])
def test_a_derivative_by_a_hyperparameter_that_is_not_finite_is_named(method: Method) -> None:
    """Its root has no derivative at 0, while the weights know nothing of it."""
    problem = mixing_problem()
    inner = problem.inner_loss
    assert inner is not None

    def rooted(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        assert inner is not None
        return inner(forward, hyperparameters, batch) * (
            1.0 + hyperparameters["scale"].sqrt().sum()
        )

    problem.inner_loss = rooted
    start = Hyperparameter(torch.tensor([0.0, 1.0], dtype=torch.float64))
    problem.hyperparameters = {**problem.hyperparameters, "scale": start}
    tuner = tuner_of(problem, [CustomTensor("mixing"), CustomTensor("scale")], TRAINING, method)
    with pytest.raises(HypergradientError, match=r"finite|below") as error:
        tuner.evaluate(tuner.initial_values(), 0)
    if not isinstance(method, Forward):
        assert isinstance(error.value, HypergradientNotFinite)
        assert (error.value.name, error.value.wrong, error.value.entries) == ("scale", 1, 2)
        assert error.value.step == TRAINING.steps - 1
        assert f"first at step {TRAINING.steps - 1}" in str(error.value)


def test_a_loss_that_is_already_a_mean_is_told() -> None:
    problem = small_problem()
    problem.loss = nn.CrossEntropyLoss()
    assert "reduction='none'" in str(refused(problem, [SampleWeight()]))


def test_an_outer_loss_must_be_one_number() -> None:
    problem = small_problem()
    problem.outer_loss = lambda forward, _, batch: forward(batch.inputs)
    assert refused(problem, [SampleWeight()]).field == "problem.outer_loss"


def test_an_inner_loss_must_depend_on_the_weights() -> None:
    problem = small_problem()
    problem.inner_loss = lambda forward, _, batch: batch.inputs.sum()
    assert "depend on the model's weights" in str(refused(problem, [SampleWeight()]))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ([], "at least one hyperparameter"),
        ([L2(per="weight"), L2(per="weight")], "'l2' twice"),
        ([CustomTensor("nothing")], "it states: mixing"),
        ([L2(name="mixing", per="weight")], "'mixing' twice"),
        ([L2(per="row")], "got 'row'"),  # type: ignore[arg-type]
    ],
)
def test_kinds_that_cannot_be_bound_are_refused(kinds: list[Kind], message: str) -> None:
    assert message in str(refused(mixing_problem(), kinds))


def test_two_weights_for_one_example_are_refused() -> None:
    kinds: list[Kind] = [SampleWeight(), SampleWeight(name="other")]
    assert "one weight" in str(refused(small_problem(), kinds))


def test_a_model_of_biases_has_nothing_to_penalise() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.bias.expand(len(inputs), CLASSES)

    assert "biases are not penalised" in str(refused(small_problem(Bias()), [L2(per="weight")]))


def test_a_frozen_model_has_nothing_to_train() -> None:
    model = nn.Linear(4, CLASSES).requires_grad_(False)
    assert "requires a gradient" in str(refused(small_problem(model), [SampleWeight()]))


@pytest.mark.parametrize("device", ["quantum", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(ProblemError) as error:
        Tuner(small_problem(), [SampleWeight()], TRAINING, Replay(), device=device)
    assert error.value.field == "device"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"optimizer": "adagrad"}, "optimizer"),
        ({"precision": "float16"}, "precision"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_training_settings_out_of_range_are_refused(
    settings: dict[str, object], field: str
) -> None:
    with pytest.raises(ProblemError) as error:
        TrainingConfig(**settings)  # type: ignore[arg-type]
    assert error.value.field == f"training.{field}"


def test_values_must_have_the_names_and_shapes_that_were_bound() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], TRAINING)
    with pytest.raises(ProblemError, match=r"shape \(12,\), got \(3,\)"):
        tuner.evaluate({"sample_weight": torch.zeros(3)}, 0)
    with pytest.raises(ProblemError, match="sample_weight"):
        tuner.evaluate({"weights": torch.zeros(12)}, 0)


def test_diverging_training_tells_the_first_bad_step() -> None:
    problem = small_problem()
    problem.loss = lambda outputs, targets: outputs.square().sum(dim=1)
    training = TrainingConfig(steps=500, batch_size=4, learning_rate=100.0)
    tuner = tuner_of(problem, [SampleWeight()], training)
    with pytest.raises(TrainingDiverged, match="lower the learning rate") as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert (error.value.steps, error.value.what) == (500, "loss")
    assert 10 < error.value.step < 500


def test_last_weights_that_are_not_finite_are_found() -> None:
    problem = small_problem()
    training = TrainingConfig(steps=1, batch_size=4, learning_rate=1e308)
    problem.loss = lambda outputs, targets: 1e200 * outputs.square().sum(dim=1)
    tuner = tuner_of(problem, [SampleWeight()], training)
    with pytest.raises(TrainingDiverged) as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert (error.value.step, error.value.what) == (1, "weights")


@pytest.mark.parametrize("phase", ["forward", "evaluate", "backward"])
def test_a_stop_is_heard_in_every_phase(phase: str) -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], TrainingConfig(steps=20, batch_size=4))
    reached: list[str] = []
    with pytest.raises(Stopped) as error:
        tuner.evaluate(
            tuner.initial_values(),
            0,
            should_stop=lambda: phase in reached,
            on_progress=lambda name, step, total: reached.append(name),
        )
    assert error.value.phase == phase or phase == "evaluate"


def test_progress_goes_through_the_phases_to_their_ends() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], TrainingConfig(steps=20, batch_size=4))
    reported: list[tuple[str, int, int]] = []
    tuner.evaluate(
        tuner.initial_values(), 0, on_progress=lambda *progress: reported.append(progress)
    )
    assert ("forward", 20, 20) in reported
    assert reported[-1] == ("backward", 20, 20)
    assert reported[0] == ("forward", 0, 20)


@pytest.mark.parametrize(
    "error",
    [
        ProblemError("steps must be at least 1, got 0", "training.steps"),
        TrainingDiverged(3, 10, float("inf"), "loss"),
        HypergradientDiverged(4, 1e9, 1e8),
        HypergradientDiverged(4, 1e9, 1e8, off_path=True),
        HypergradientNotFinite("mixing", 1, 9),
        HypergradientNotFinite("mixing", 1, 9, 4),
        PathNotRecovered(3, 10),
        CurvatureIndefinite(2, -0.5),
        SolverNotConverged(20, 0.5, 0.01),
        Stopped("forward", 17),
    ],
)
def test_errors_survive_the_way_between_processes(error: EngineError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
