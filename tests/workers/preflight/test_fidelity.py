"""`compare_with_exact`, and the shortcut's own means: Gauss-Newton, strides, growth."""

import json

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    CustomTensor,
    HypergradientDiverged,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    TrainingConfig,
)
from drmad_workers.hypergradients.method import CONTRACTION, Adjoint, Curvature
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.learning_rate import LearningRate
from drmad_workers.hyperparameters.training_data import TrainingData
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.gauss_newton import gauss_newton_product
from drmad_workers.preflight.fidelity import compare_with_exact
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from drmad_workers.trajectory.interpolation import InterpolatedTrajectory, node_steps
from tests.workers.small import (
    largest_difference,
    mixing_problem,
    relative,
    shaken,
    small_problem,
    tuner_of,
)

TRAINING = TrainingConfig("damped_sgd", steps=60, batch_size=6, learning_rate=0.2, momentum=0.9)
DRMAD = Shortcut(
    interpolation_nodes=1,
    averaging_window=1,
    max_stride=1,
    max_adjoint_change=None,
    minibatch_subsampling=1,
    contraction=False,
)


def test_every_method_is_compared_with_replay() -> None:
    methods = [
        Shortcut(horizon=6),
        Shortcut(),
        Replay(horizon=30),
        Shortcut(interpolation_nodes=15),
    ]
    report = compare_with_exact(
        small_problem(), [SampleWeight()], TRAINING, methods, 7, dtype=torch.float64
    )
    assert report.exact.figure.cosine == pytest.approx(1.0)
    assert report.exact.figure.cost == 4.0
    assert [p.figure.cost for p in report.predictions] == pytest.approx([1.2, 3.0, 2.5, 3.0])
    cosines = [p.figure.cosine for p in report.predictions]
    assert all(cosine is not None for cosine in cosines)
    for prediction in report.predictions:
        assert prediction.job_seconds is not None
        assert prediction.job_seconds > 7 * report.training_seconds
    copy = 8 * (4 * 5 + 5 + 5 * 3 + 3)
    assert report.predictions[1].path_bytes == round((1 + 20 * 2.5 / 32) * copy)
    assert report.predictions[3].path_bytes == 16 * copy
    fields = json.loads(json.dumps(report.as_dict()))
    assert fields["predictions"][0]["figure"]["method"]["horizon"] == 6
    assert fields["predictions"][0]["doubtful"] is report.predictions[0].doubtful


def test_the_candidates_of_auto_are_compared_by_default() -> None:
    report = compare_with_exact(small_problem(), [SampleWeight()], TRAINING, dtype=torch.float64)
    horizons = [p.figure.method["horizon"] for p in report.predictions]
    assert horizons == [6, 15, 30, None]
    assert report.predictions[-1].figure.cosine == pytest.approx(1.0, abs=0.05)


def test_a_method_that_diverges_is_reported_and_does_not_fail_the_comparison() -> None:
    problem = small_problem()
    problem.train = (3.0 * problem.train[0], problem.train[1])
    problem.valid = (3.0 * problem.valid[0], problem.valid[1])
    wild = TrainingConfig("damped_sgd", 300, 4, learning_rate=1.0, momentum=0.9)
    with pytest.raises(HypergradientDiverged):
        tuner_of(problem, [SampleWeight()], wild, DRMAD).evaluate(
            tuner_of(problem, [SampleWeight()], wild).initial_values(), 0
        )
    report = compare_with_exact(problem, [SampleWeight()], wild, [DRMAD], dtype=torch.float64)
    (prediction,) = report.predictions
    assert prediction.doubtful
    assert prediction.job_seconds is None
    assert prediction.figure.cosine is None


def test_the_comparison_refuses_a_method_that_does_not_fit() -> None:
    with pytest.raises(ProblemError, match="learning_rate"):
        compare_with_exact(
            small_problem(), [LearningRate(per="step")], TRAINING, [Shortcut(horizon=5)]
        )


def run_of(problem: object = None) -> TrainingRun:
    tuner = tuner_of(small_problem(), [L2(per="unit", init=-3.0), SampleWeight()], TRAINING)
    return tuner.replica.training_run(shaken(tuner), 0, Monitor()).run


def test_gauss_newton_product_is_j_transposed_h_j() -> None:
    """Against J and H as dense matrices, built by autograd from the outputs."""
    run = run_of()
    objective, batch = run.objective, run.batch(3, 2)
    parameters = objective.parameters
    model = parameters.model
    sample = objective.values.by_name["sample_weight"][batch.index]

    def outputs(weights: Tensor) -> Tensor:
        named = {
            slot.name: weights[slot.start : slot.stop].view(slot.shape) for slot in parameters.slots
        }
        z: Tensor = torch.func.functional_call(model, named, (batch.inputs,))
        return z.flatten()

    def loss(z: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(
            z.view(len(batch.index), -1), batch.targets, reduction="none"
        )
        return torch.dot(losses, sample) / len(losses)

    weights = parameters.weights.clone()
    jacobian = torch.func.jacrev(outputs)(weights)
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(outputs(weights).detach())
    direction = torch.randn(len(weights), generator=torch.Generator().manual_seed(1)).double()
    expected = jacobian.T @ (hessian @ (jacobian @ direction))
    found = gauss_newton_product(objective.inner, batch, direction)
    actual = torch.cat([p.flatten() for p in found.by_parameters if p is not None])
    assert relative(actual, expected) < 1e-10
    (by_sample,) = found.by_rows
    (exact,) = exact_product(objective.inner, batch, direction).by_rows
    assert by_sample is not None
    assert exact is not None
    assert relative(by_sample, exact) < 1e-10


def test_gauss_newton_is_the_hessian_of_a_linear_model() -> None:
    def linear() -> nn.Module:
        layer = nn.Linear(4, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(12).view(3, 4).sin())
            layer.bias.zero_()
        return layer

    kinds: list[Kind] = [
        L2(per="unit", init=-3.0),
        SampleWeight(),
        LearningRate(per="model"),
        TrainingData(),
    ]
    found = []
    curvatures: tuple[Curvature, ...] = ("hessian", "gauss_newton")
    for curvature in curvatures:
        method = Shortcut(max_stride=3, curvature=curvature)
        tuner = tuner_of(small_problem(linear()), kinds, TRAINING, method)
        found.append(tuner.evaluate(shaken(tuner, 0.1), 0))
    assert largest_difference(found[1], found[0].hypergradient) < 1e-10


def test_gauss_newton_needs_a_loss_of_outputs() -> None:
    method = Shortcut(curvature="gauss_newton")
    tuner = tuner_of(mixing_problem(), [CustomTensor("mixing")], TRAINING, method)
    with pytest.raises(ProblemError) as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert error.value.field == "hypergradient.curvature"


def test_strides_are_long_where_the_curvature_moves_little_and_single_where_much() -> None:
    def products(learning_rate: float) -> int:
        training = TrainingConfig("damped_sgd", 60, 6, learning_rate, momentum=0.5)
        tuner = tuner_of(
            small_problem(),
            [SampleWeight()],
            training,
            Shortcut(max_stride=10, minibatch_subsampling=1),
        )
        return tuner.evaluate(tuner.initial_values(), 0).backward_steps

    assert products(1e-4) == 1 + 1 + 1 + 1 + 5  # 1 + 2 + 4 + 8 + 10 · 4.5
    assert products(5.0) > 50


def test_contraction_holds_the_growth_of_the_adjoint() -> None:
    run = run_of()
    run.objective.begin_products()
    adjoint = Adjoint(run)
    adjoint.weights.normal_(generator=torch.Generator().manual_seed(2))
    first = float(adjoint.weights.norm())
    adjoint.begin(contraction=True)
    run.state[0].mul_(100.0)
    for step in range(20, 10, -1):
        adjoint.step_back(step)
    assert float(adjoint.weights.norm()) <= first * (1.0 + 1.01 * 10 * CONTRACTION) * 1.01
    assert adjoint.growth == pytest.approx(float(adjoint.weights.norm()) / first, rel=0.2)


def test_windows_that_reach_the_next_node_cover_almost_every_step() -> None:
    trajectory = InterpolatedTrajectory(node_steps(0, 1000, 15), 1000, None)
    covered = sum(last - first for first, last in trajectory._windows)
    assert covered > 700
    for (_, last), (first, _) in zip(trajectory._windows, trajectory._windows[1:], strict=False):
        assert last <= first + 1
