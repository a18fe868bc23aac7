"""The methods beside shortcut and replay: exact ones against each other, the rest by formula."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L1,
    L2,
    CurvatureIndefinite,
    CustomTensor,
    Forward,
    HypergradientDiverged,
    Implicit,
    InitScale,
    LearningRate,
    Method,
    Momentum,
    OneStep,
    PathNotRecovered,
    Problem,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    SolverNotConverged,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.implicit import Solver
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.products.product import Hvp
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from drmad_workers.trajectory.fixed_point import FixedPointMomentum, to_fixed
from tests.workers.small import (
    finite_difference,
    largest_difference,
    mixing_problem,
    shaken,
    small_problem,
    tuner_of,
)

EXACT: list[Method] = [Stored(), Reversible(), Forward()]
TRAINING = TrainingConfig("damped_sgd", steps=11, batch_size=4, learning_rate=0.5, momentum=0.75)

trainings = st.builds(
    TrainingConfig,
    optimizer=st.sampled_from(["sgd", "damped_sgd", "adam", "adamw"]),
    steps=st.integers(1, 12),
    batch_size=st.integers(1, 12),
    learning_rate=st.floats(0.01, 0.3),
    momentum=st.sampled_from([0.25, 0.5, 0.75]),
)
every_kind: list[Kind] = [
    L2(per="layer", init=-2.0),
    L1(per="model", init=-4.0),
    LearningRate(per="step"),
    Momentum(per="layer"),
    InitScale(),
    SampleWeight(),
    CustomTensor("mixing"),
]


@settings(settings.get_profile("engine"))
@given(trainings, st.sets(st.integers(0, len(every_kind) - 1), min_size=1), st.integers(0, 99))
def test_exact_methods_agree(training: TrainingConfig, chosen: set[int], seed: int) -> None:
    kinds = [every_kind[i] for i in sorted(chosen)]
    exact = tuner_of(mixing_problem(seed=seed), kinds, training)
    values = shaken(exact, 0.2)
    if "momentum" in values:  # as reversible rounds it
        values["momentum"] = (values["momentum"].sigmoid() * 65536).round().div(65536).logit()
    expected = exact.evaluate(values, 0).hypergradient
    for method in EXACT:
        if isinstance(method, Reversible) and not training.traits.reversible:
            continue
        found = tuner_of(mixing_problem(seed=seed), kinds, training, method).evaluate(values, 0)
        for name, gradient in expected.items():
            error = float((found.hypergradient[name] - gradient).abs().max())
            assert error < 1e-10 * max(1e-3, float(gradient.abs().max())), method.name


def test_forward_bounds_no_tangent_by_rounding_errors() -> None:
    """Adam's first step does not depend on its momentum: the first tangent is a rounding error."""
    for steps, rate in product((3, 12), (0.01, 0.1, 0.3)):
        training = TrainingConfig("adam", steps, 12, learning_rate=rate, momentum=0.75)
        tuners = [
            tuner_of(mixing_problem(), [Momentum(per="layer")], training, method)
            for method in (Replay(), Forward())
        ]
        values = shaken(tuners[0], 0.2)
        expected, found = (tuner.evaluate(values, 0).hypergradient["momentum"] for tuner in tuners)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_are_the_finite_difference_of_whole_training_runs(method: Method) -> None:
    training = replace(TRAINING, learning_rate=0.3)
    kinds = [kind for kind in every_kind if not isinstance(kind, L1 | Momentum)]
    tuner = tuner_of(mixing_problem(), kinds, training, method)
    values = shaken(tuner, 0.2)
    for name, gradient in tuner.evaluate(values, 0).hypergradient.items():
        coordinate = gradient.numel() // 2
        difference = finite_difference(tuner, values, name, coordinate)
        error = abs(difference - float(gradient.view(-1)[coordinate]))
        # The last places of reversible's numbers are worth 1e-12 of a loss, 1e-7 of a difference.
        assert error < 1e-6 * max(0.1, float(gradient.abs().max())), name


def test_stored_takes_a_horizon_as_replay_does() -> None:
    replayed, stored = (
        tuner_of(small_problem(), [SampleWeight()], TRAINING, method)
        for method in (Replay(4), Stored(4))
    )
    values = shaken(replayed)
    expected = replayed.evaluate(values, 0)
    found = stored.evaluate(values, 0)
    assert found.backward_steps == expected.backward_steps == 4
    assert largest_difference(found, expected.hypergradient) == 0.0


@settings(settings.get_profile("engine"))
@given(
    st.sampled_from(["sgd", "damped_sgd"]),
    st.floats(0.0, 0.99),
    st.floats(0.001, 2.0),
    st.integers(1, 80),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_reversible_returns_the_initial_weights_bit_for_bit(
    optimizer: OptimizerName, momentum: float, learning_rate: float, steps: int, dtype: torch.dtype
) -> None:
    training = TrainingConfig(optimizer, steps, 4, learning_rate, momentum)
    run = run_of(training, dtype)
    recorder = Reversible().recorder(run)
    first: list[Tensor] = []
    watched = keeping(recorder.dynamics, first)
    recorder.dynamics.begin = watched  # type: ignore[method-assign,assignment]
    drawn = run.state[0].clone()
    run.forward(recorder)
    assert not torch.equal(run.state, first[0])
    run.objective.begin_products()
    adjoint = Adjoint(run)
    adjoint.weights.fill_(1e-6)
    Reversible().backward(run, recorder, adjoint)
    assert torch.equal(run.state, first[0])
    assert torch.equal(recorder.dynamics.integer_weights, to_fixed(drawn, 52))
    assert not recorder.dynamics.integer_velocity.any()
    torch.testing.assert_close(first[0][0], drawn, rtol=0.0, atol=2.0**-51)


def keeping(dynamics: FixedPointMomentum, states: list[Tensor]) -> Callable[[Tensor], None]:
    begin = dynamics.begin

    def kept(state: Tensor) -> None:
        begin(state)
        states.append(state.clone())

    return kept


def run_of(training: TrainingConfig, dtype: torch.dtype) -> TrainingRun:
    tuner = Tuner(small_problem(), [SampleWeight()], training, Replay(), dtype=dtype)
    run = tuner.replica.training_run(tuner.initial_values(), 0, Monitor()).run
    initialize(run.objective, 0)
    return run


def test_reversible_is_replay_at_the_momentum_that_it_rounds_to() -> None:
    rounded = replace(TRAINING, steps=60, momentum=58982 / 65536)
    values = shaken(tuner_of(small_problem(), [SampleWeight()], rounded))
    expected = tuner_of(small_problem(), [SampleWeight()], rounded).evaluate(values, 0)
    stated = replace(rounded, momentum=0.9)
    found = tuner_of(small_problem(), [SampleWeight()], stated, Reversible()).evaluate(values, 0)
    assert found.backward_steps == 60
    assert largest_difference(found, expected.hypergradient) < 1e-10


def test_reversible_refuses_gradients_that_do_not_repeat() -> None:
    problem, calls = small_problem(), [0.0]

    def unsteady(outputs: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1e-12
        losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return losses * (1.0 + calls[0])

    problem.loss = unsteady
    tuner = tuner_of(problem, [SampleWeight()], TRAINING, Reversible())
    with pytest.raises(PathNotRecovered, match="do not repeat bit for bit") as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert 0 < error.value.wrong <= error.value.weights


def test_weights_out_of_the_range_of_fixed_point_are_told_with_the_step() -> None:
    problem = small_problem()
    training = replace(TRAINING, learning_rate=1e5, optimizer="sgd", steps=30)
    tuner = tuner_of(problem, [SampleWeight()], training, Reversible())
    with pytest.raises(
        ProblemError, match=r"must stay below \d+ in fixed point, got .* before step 1:"
    ):
        tuner.evaluate(tuner.initial_values(), 0)


def test_reversible_refuses_adam() -> None:
    training = replace(TRAINING, optimizer="adamw")
    with pytest.raises(ProblemError, match="not adamw: use replay"):
        tuner_of(small_problem(), [SampleWeight()], training, Reversible())


def test_one_step_is_its_formula() -> None:
    """α δ <∇_w L_{T-1}(w_{T-1}), ∇f(w_T)>, differentiated by λ alone; w_{T-1} by a shorter run."""
    problem = small_problem()
    tuner = tuner_of(problem, [SampleWeight()], TRAINING, OneStep())
    values = shaken(tuner)
    found = tuner.evaluate(values, 0)
    shorter = tuner_of(problem, [SampleWeight()], replace(TRAINING, steps=TRAINING.steps - 1))
    before = shorter.evaluate(values, 0).model
    raw = values["sample_weight"].clone().requires_grad_()
    weights = [value.clone().requires_grad_() for value in before.values()]
    after = [value.clone().requires_grad_() for value in found.model.values()]

    def losses(at: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        named = dict(zip(before, at, strict=True))
        made = torch.func.functional_call(problem.model, named, (inputs,))
        return torch.nn.functional.cross_entropy(made, targets, reduction="none")

    outer = torch.autograd.grad(losses(after, *problem.valid).mean(), after)
    batch = tuner.replica.minibatches(0).join(TRAINING.steps - 1)
    inner = (losses(weights, batch.inputs, batch.targets) * raw[batch.index].sigmoid()).mean()
    gradient = torch.autograd.grad(inner, weights, create_graph=True)
    product = sum((g * o).sum() for g, o in zip(gradient, outer, strict=True))
    (by_raw,) = torch.autograd.grad(product, raw)  # type: ignore[arg-type]
    scale = TRAINING.learning_rate * (1.0 - TRAINING.momentum)
    assert found.backward_steps == 1
    assert largest_difference(found, {"sample_weight": -scale * by_raw}) < 1e-12


def quadratic(rows: int = 8, features: int = 3, seed: int = 0) -> Problem:
    """Ridge regression: a loss whose minimum and whose hypergradient are written down."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(features, 1, bias=False).double()

    def part(count: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, features, generator=draw, dtype=torch.float64)
        return inputs, torch.randn(count, 1, generator=draw, dtype=torch.float64)

    return Problem(
        model,
        part(rows),
        part(5),
        loss=lambda outputs, targets: (outputs - targets).square().squeeze(1),
    )


@pytest.mark.parametrize("method", [Implicit(), Implicit("neumann", 400, step_size=0.1)])
def test_implicit_is_the_closed_form_on_a_quadratic(method: Implicit) -> None:
    """w* = (XᵀX/n + e^λ)⁻¹ Xᵀy/n, differentiated by autograd."""
    method = replace(method, tolerance=1e-12)
    training = TrainingConfig("sgd", 1200, 8, learning_rate=0.1, momentum=0.5)
    problem = quadratic()
    tuner = tuner_of(problem, [L2(per="weight", init=-1.0)], training, method)
    values = shaken(tuner)
    found = tuner.evaluate(values, 0)
    raw = values["l2"].clone().requires_grad_()
    (inputs, targets), (held_out, wanted) = problem.train, problem.valid
    matrix = inputs.T @ inputs / len(inputs) + torch.diag(raw.exp())
    weights = torch.linalg.solve(matrix, inputs.T @ targets / len(inputs))
    (held_out @ weights - wanted).square().mean().backward()
    assert raw.grad is not None
    assert largest_difference(found, {"l2": raw.grad}) < 1e-9
    assert found.backward_steps <= (5 if method.solver == "conjugate_gradient" else 401)


def test_neumann_is_truncated_replay_that_stands_still_at_the_end() -> None:
    """On a quadratic without momentum the Hessian is the same everywhere."""
    training = TrainingConfig("sgd", 500, 8, learning_rate=0.05, momentum=0.0)
    kind = L2(per="weight", init=-2.0)
    methods = (Replay(horizon=7), Implicit("neumann", iterations=7, tolerance=1.0))
    replayed, series = (tuner_of(quadratic(), [kind], training, method) for method in methods)
    values = shaken(replayed)
    expected = replayed.evaluate(values, 0).hypergradient
    found = series.evaluate(values, 0)
    assert found.backward_steps == 8
    assert largest_difference(found, expected) < 1e-3  # 500 steps do not end at the minimum


@pytest.mark.parametrize("solver", ["conjugate_gradient", "neumann"])
def test_implicit_tells_indefinite_curvature(solver: Solver) -> None:
    problem = quadratic()
    problem.inner_loss = lambda forward, _, batch: (
        -forward(batch.inputs).square().mean() + 3.0 * forward(batch.inputs).mean()
    )
    method = Implicit(solver, step_size=0.1 if solver == "neumann" else None)
    training = TrainingConfig("sgd", 3, 8, learning_rate=0.01)
    tuner = tuner_of(problem, [L2(per="weight", init=-9.0)], training, method)
    with pytest.raises(CurvatureIndefinite, match="set a damping") as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert error.value.curvature < 0.0
    damped = replace(method, damping=10.0, step_size=method.step_size and 0.05)
    made = tuner_of(problem, [L2(per="weight", init=-9.0)], training, damped)
    assert made.evaluate(made.initial_values(), 0).hypergradient["l2"].isfinite().all()


@pytest.mark.parametrize(
    "method",
    [Implicit(iterations=1), Implicit("neumann", 5), Implicit("neumann", 90, step_size=3.0)],
)
def test_implicit_tells_a_series_that_has_not_converged(method: Implicit) -> None:
    tuner = tuner_of(quadratic(), [L2(per="weight", init=-2.0)], TRAINING, method)
    with pytest.raises(SolverNotConverged, match="allow more of them") as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert error.value.residual > error.value.tolerance
    assert error.value.iterations <= method.iterations


@pytest.mark.parametrize(
    ("method", "training", "field"),
    [
        (Implicit(iterations=0), TRAINING, "hypergradient.iterations"),
        (Implicit(tolerance=0.0), TRAINING, "hypergradient.tolerance"),
        (Implicit(damping=-1.0), TRAINING, "hypergradient.damping"),
        (Implicit("cholesky"), TRAINING, "hypergradient.solver"),  # type: ignore[arg-type]
        (Implicit("neumann"), replace(TRAINING, optimizer="adam"), "hypergradient.step_size"),
        (
            Implicit(),
            replace(TRAINING, optimizer="adamw", weight_decay=0.1),
            "training.weight_decay",
        ),
        (Implicit(step_size=0.1), TRAINING, "hypergradient.step_size"),
        (Shortcut(budget=8, interpolation_nodes=4), TRAINING, "hypergradient.budget"),
        (Forward(hvp="finite_difference"), TRAINING, "hypergradient.hvp"),
        (Replay(hvp="guess"), TRAINING, "hypergradient.hvp"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    method: Method, training: TrainingConfig, field: str
) -> None:
    with pytest.raises(ProblemError) as error:
        tuner_of(small_problem(), [SampleWeight()], training, method)
    assert error.value.field == field


@pytest.mark.parametrize("kind", [LearningRate(per="model"), Momentum(per="step"), InitScale()])
def test_implicit_refuses_what_the_minimum_does_not_depend_on(kind: Kind) -> None:
    with pytest.raises(ProblemError, match="how it was reached") as error:
        tuner_of(small_problem(), [SampleWeight(), kind], TRAINING, Implicit())
    assert error.value.field == f"hyperparameters.{kind.name}"


def test_forward_refuses_what_comes_in_thousands() -> None:
    tuner_of(small_problem(rows=256), [SampleWeight()], TRAINING, Forward())
    with pytest.raises(ProblemError, match="at most 256, and this has 257"):
        tuner_of(small_problem(rows=257), [SampleWeight()], TRAINING, Forward())


def test_forward_tells_tangents_that_outgrow_their_digits() -> None:
    problem = small_problem()
    problem.train = (3.0 * problem.train[0], problem.train[1])
    wild = TrainingConfig("damped_sgd", 3000, 4, learning_rate=3.0, momentum=0.9)
    tuner = tuner_of(problem, [L2(per="model", init=-3.0)], wild, Forward())
    with pytest.raises(HypergradientDiverged) as error:
        tuner.evaluate(tuner.initial_values(), 0)
    assert 0 < error.value.step < 3000


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", [Replay(), Stored(), Shortcut(), Reversible(), OneStep()])
def test_finite_differences_stand_in_for_second_derivatives(
    method: Method, optimizer: OptimizerName
) -> None:
    if isinstance(method, Reversible) and optimizer == "adam":
        return
    training = replace(TRAINING, optimizer=optimizer, learning_rate=0.05)
    kinds: list[Kind] = [L2(per="layer", init=-2.0), SampleWeight(), CustomTensor("mixing")]
    kinds += [] if isinstance(method, OneStep) else [LearningRate(per="step")]
    exact, differences = (
        tuner_of(mixing_problem(), kinds, training, replace(method, hvp=hvp))
        for hvp in ("exact", "finite_difference")
    )
    values = shaken(exact, 0.2)
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(differences.evaluate(values, 0), expected) < 1e-6


def test_finite_differences_see_the_same_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    exact, differences = (
        tuner_of(small_problem(model), [SampleWeight()], TRAINING, Replay(hvp=hvp))
        for hvp in get_args(Hvp)
    )
    values = shaken(exact)
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(differences.evaluate(values, 0), expected) < 1e-6


short: list[Method] = [Replay(3), Stored(3), Shortcut(3), OneStep(), Shortcut(preset="paper_tenth")]


@pytest.mark.parametrize("method", short, ids=lambda method: method.name)
@pytest.mark.parametrize("kind", [InitScale(), LearningRate("rate", per="step"), Momentum()])
def test_a_short_horizon_refuses_what_acts_before_it(method: Method, kind: Kind) -> None:
    if method == Shortcut(preset="paper_tenth") and isinstance(kind, InitScale):
        return
    with pytest.raises(ProblemError, match=f"{method.name} has no hypergradient") as error:
        tuner_of(small_problem(), [SampleWeight(), kind], TRAINING, method)
    assert error.value.field == f"hyperparameters.{kind.name}"
    tuner_of(small_problem(), [LearningRate(per="layer")], TRAINING, method)


def test_all_methods_walk_back_from_one_training_run() -> None:
    """In any order, each as if it were alone: what one does to the run no other sees."""
    training = replace(TRAINING, steps=15)
    kinds: list[Kind] = [L2(per="layer", init=-1.0)]
    methods: list[Method] = [
        Forward(),
        Reversible(),
        Implicit(tolerance=1.0, iterations=2, damping=1.0),
        Shortcut(),
        OneStep(),
        Stored(),
        Replay(),
    ]
    tuner = tuner_of(mixing_problem(), kinds, training)
    values = shaken(tuner)
    together = tuner.compare(values, methods)[0]
    reverse = tuner.compare(values, methods[::-1])[0]
    for method, backward_pass, again in zip(methods, together, reversed(reverse), strict=True):
        assert isinstance(backward_pass, BackwardPass)
        assert isinstance(again, BackwardPass)
        alone = tuner_of(mixing_problem(), kinds, training, method).evaluate(values, 0)
        assert alone.backward_steps == backward_pass.products
        assert largest_difference(alone, backward_pass.hypergradient) < 1e-9
        assert torch.equal(backward_pass.hypergradient["l2"], again.hypergradient["l2"])


@pytest.mark.parametrize(
    "method",
    [
        Stored(),
        Stored(hvp="finite_difference"),
        Reversible(),
        OneStep(),
        Implicit(tolerance=1.0, iterations=2, damping=1.0),
        Forward(),
    ],
)
def test_replicas_together_are_replicas_alone(method: Method) -> None:
    kinds: list[Kind] = [L2(per="layer", init=-2.0), SampleWeight()]
    made = (small_problem(), kinds, TRAINING, method)
    together = ReplicaBatch(*made, replicas=(0, 1), dtype=torch.float64)
    assert (together.reason is not None) == method.takes_part
    values = shaken(tuner_of(small_problem(), kinds, TRAINING))
    for replica, found in enumerate(together.evaluate(values, 0)):
        alone = Tuner(*made, replica=replica, dtype=torch.float64).evaluate(values, 0)
        assert largest_difference(found, alone.hypergradient) < 1e-9
        assert found.backward_steps == alone.backward_steps
