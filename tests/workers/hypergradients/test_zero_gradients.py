"""Outer gradients and tangents that are 0 or as small as rounding, which no bound may reject."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    METHODS,
    CustomTensor,
    Forward,
    HypergradientDiverged,
    Hyperparameter,
    Implicit,
    Method,
    OneStep,
    Problem,
    Replay,
    SampleWeight,
    Shards,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.implicit import Solver
from drmad_workers.hypergradients.method import Adjoint, growth_bounds
from drmad_workers.problem import Batch
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training.progress import Monitor
from tests.workers.small import largest_difference, small_problem, tuner_of

TRAINING = TrainingConfig("damped_sgd", steps=24, batch_size=4, learning_rate=0.3, momentum=0.5)
BY_NAME: list[Method] = [made() for name, made in METHODS.items() if name != "implicit"]
EVERY_METHOD: list[Method] = [
    *BY_NAME,
    Implicit(damping=1.0),
    Implicit("neumann", damping=1.0, step_size=0.1),
    Shortcut(contraction=True),
    Shortcut(curvature="gauss_newton"),
    Shortcut(preset="paper"),
]


def hinge(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Every example is past a margin that no output reaches."""
    losses: Tensor = (forward(batch.inputs).abs().sum(dim=1) - 1e6).clamp_min(0.0)
    return losses.mean()


@pytest.mark.parametrize("method", EVERY_METHOD, ids=str)
def test_an_outer_loss_without_gradient_gives_a_hypergradient_of_zero(method: Method) -> None:
    problem = small_problem()
    problem.outer_loss = hinge
    tuner = tuner_of(problem, [L2(per="unit", init=-2.0), SampleWeight()], TRAINING, method)
    first = tuner.evaluate(tuner.initial_values(), 0)
    again = tuner.evaluate(tuner.initial_values(), 1, choice=first.choice)
    for evaluation in (first, again):
        assert evaluation.validation_loss == 0.0
        for gradient in evaluation.hypergradient.values():
            assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(
    "method", [Stored(), Replay(), Shortcut(), Implicit(damping=1.0), Forward(), Auto()], ids=str
)
def test_an_outer_gradient_whose_square_underflows_is_no_divergence(method: Method) -> None:
    problem = small_problem()

    def tiny(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(forward(batch.inputs), batch.targets) * 1e-170

    problem.outer_loss = tiny
    tuner = tuner_of(problem, [L2(per="unit", init=-2.0)], TRAINING, method)
    gradient = tuner.evaluate(tuner.initial_values(), 0).hypergradient["l2"]
    assert gradient.isfinite().all()
    assert float(gradient.abs().max()) < 1e-165


@pytest.mark.parametrize("method", [Stored(), Replay(), OneStep(), Shortcut()], ids=str)
def test_a_replica_without_gradient_bounds_no_other(method: Method) -> None:
    shards = Shards("disjoint", count=2, train=1.0, seed=3)
    problem = small_problem()
    held = shards.positions("valid", 9, 0)
    assert held is not None
    inputs, targets = problem.valid
    targets = torch.ones_like(targets).index_fill(0, held, 0)
    problem = Problem(
        problem.model, problem.train, (inputs, targets), initialize=problem.initialize
    )

    def of_class_one(
        forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        outputs = forward(batch.inputs)
        losses = nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
        mean: Tensor = (losses * batch.targets).mean()
        return mean

    problem.outer_loss = of_class_one
    together = ReplicaBatch(
        problem, [SampleWeight()], TRAINING, method, replicas=(0, 1), dtype=torch.float64,
        shards=shards,
    )  # fmt: skip
    assert together.reason is None
    values = together.initial_values()
    none, some = together.evaluate(values, 0)
    assert not none.hypergradient["sample_weight"].any()
    alone = together.tuners[1].evaluate(values, 0).hypergradient
    assert alone["sample_weight"].any()
    assert largest_difference(some, alone) < 1e-10


def test_a_first_tangent_of_rounding_is_no_measure_of_growth() -> None:
    """The first minibatch moves the tangents by 1e-17, and later ones by 1."""
    problem = small_problem()
    strength = torch.ones(12, dtype=torch.float64)

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        pulled = strength[batch.index] * hyperparameters["pull"] * outputs.sum(dim=1)
        loss: Tensor = nn.functional.cross_entropy(outputs, batch.targets) + pulled.mean()
        return loss

    problem.inner_loss = inner
    problem.hyperparameters = {"pull": Hyperparameter(torch.tensor(0.1, dtype=torch.float64))}
    forward, stored = (
        tuner_of(problem, [CustomTensor("pull")], TRAINING, method)
        for method in (Forward(), Stored())
    )
    strength[stored.replica.minibatches(0).index(0)] = 1e-17
    values = stored.initial_values()
    expected = stored.evaluate(values, 0).hypergradient
    assert abs(float(expected["pull"])) > 1e-3
    assert largest_difference(forward.evaluate(values, 0), expected) < 1e-10


def test_growth_is_bounded_for_each_replica_by_its_own_first_norm() -> None:
    first = torch.tensor([0.0, 1e-3, 2.0], dtype=torch.float64)
    zero, small, large = growth_bounds(first)
    assert zero == 1e8 * math.sqrt(torch.finfo(torch.float64).tiny)
    assert (small, large) == (1e8 * 1e-3, 2e8)


def test_an_exploding_replica_is_named_by_its_own_norm_and_bound() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], TRAINING, Stored())
    run = tuner.replica.training_run(tuner.initial_values(), 0, Monitor()).run
    adjoint = Adjoint(run)
    adjoint.weights.fill_(1.0)
    adjoint.begin(contraction=False)
    adjoint.weights.fill_(1e9)
    with pytest.raises(HypergradientDiverged) as error:
        adjoint.finish(0)
    assert error.value.norm == pytest.approx(10.0 * error.value.bound)


@pytest.mark.parametrize("solver", ["conjugate_gradient", "neumann"])
def test_a_solver_that_reaches_the_solution_exactly_stops(solver: Solver) -> None:
    """One weight: the first conjugate direction leaves no residual, not even by rounding."""
    inputs, targets = torch.ones(8, 1), torch.ones(8, 1)
    problem = Problem(
        nn.Linear(1, 1, bias=False),
        (inputs, targets),
        (inputs, 2.0 * targets),
        loss=lambda outputs, goal: (outputs - goal).square().sum(1),
        initialize="reset",
    )
    training = TrainingConfig(steps=3, batch_size=8, learning_rate=0.1)
    method = Implicit(solver=solver, tolerance=1.0, damping=0.0)
    tuner = Tuner(problem, [L2(init=-2.0)], training, method)
    (found,) = tuner.evaluate(tuner.initial_values(), 0).hypergradient.values()
    assert float(found) > 0.0
