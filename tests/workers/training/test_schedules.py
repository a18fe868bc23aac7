"""The schedules against those of torch and transformers, and their derivatives by every method."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    ConstantSchedule,
    CosineSchedule,
    Forward,
    Implicit,
    InverseSqrtSchedule,
    LearningRate,
    LinearSchedule,
    Method,
    Momentum,
    OneCycleSchedule,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    StepSchedule,
    Stored,
    TableSchedule,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.training.optimizers import MomentumSGD, Rate
from drmad_workers.training.schedules import Schedule
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.schedules import factors_of
from tests.workers.judge.verdict import assert_right
from tests.workers.small import largest_difference, shaken, small_problem, tuner_of

STEPS = 8
DOWN_TO_ZERO = (0.0, 0.5, 1.0, 0.0, 1.0, 0.5, 0.0, 0.0)
SCHEDULES: dict[str, Schedule] = {
    "constant": ConstantSchedule(),
    "warmup": ConstantSchedule(warmup=0.25),
    "linear": LinearSchedule(final=0.1),
    "linear with warmup": LinearSchedule(warmup=3),
    "cosine": CosineSchedule(warmup=0.2),
    "cosine to a rest": CosineSchedule(warmup=2, final=0.2),
    "step": StepSchedule(every=3),
    "milestones": StepSchedule(milestones=(2, 5), factor=0.5),
    "step with warmup": StepSchedule(warmup=3, every=2, factor=0.5),
    "one cycle": OneCycleSchedule(),
    "one cycle of two steps up": OneCycleSchedule(warmup=3, start=0.2, final=0.01),
    "inverse root": InverseSqrtSchedule(warmup=3),
    "inverse root of a timescale": InverseSqrtSchedule(timescale=5),
    "table": TableSchedule(DOWN_TO_ZERO),
}
TRAINING = TrainingConfig("sgd", steps=STEPS, batch_size=4, learning_rate=0.2, momentum=0.5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [STEPS, 57])
def test_a_schedule_is_that_of_torch(name: str, steps: int) -> None:
    schedule = SCHEDULES[name]
    if name == "table":
        schedule = TableSchedule(tuple(torch.rand(steps).tolist()))
    assert schedule.values(steps) == pytest.approx(
        factors_of(schedule, steps), rel=1e-12, abs=1e-15
    )


def test_a_table_is_interpolated_between_positions() -> None:
    schedule = TableSchedule((0.0, 1.0, 1.0, 0.0), at=(0.0, 0.25, 0.5, 1.0))
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert schedule.values(8) == pytest.approx(expected)


KINDS: dict[str, tuple[Kind, ...]] = {
    "per model": (LearningRate(per="model"), Momentum(per="model"), SampleWeight()),
    "per step": (LearningRate(per="step"), Momentum(per="step")),
    "per step and layer": (LearningRate(per="step_and_layer"), WeightDecay(init=-2.0)),
}


@pytest.mark.parametrize("optimizer", ["sgd", "damped_sgd", "adam", "adamw"])
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", ["cosine", "table"])
def test_exact_methods_are_central_differences_of_scheduled_trainings(
    name: str, kinds: str, optimizer: OptimizerName
) -> None:
    """The schedules begin with a rate of 0, and the table ends with two."""
    training = replace(
        TRAINING, optimizer=optimizer, eps=1e-4, weight_decay=0.1, schedule=SCHEDULES[name]
    )
    methods: list[Method] = [Stored(), Replay(), Forward()]
    assert_right(Recipe(small_problem, KINDS[kinds], training), methods, step=1e-6)


def test_reversible_undoes_scheduled_steps() -> None:
    training = replace(TRAINING, schedule=SCHEDULES["table"])
    kinds = (LearningRate(per="step"), SampleWeight())
    assert_right(Recipe(small_problem, kinds, training), [Reversible()])


@pytest.mark.parametrize("name", ["cosine", "table"])
def test_truncation_has_the_last_steps_of_the_schedule(name: str) -> None:
    """The steps before the horizon are a training of their own, from whose end it starts."""
    training = replace(TRAINING, schedule=SCHEDULES[name])
    kinds: list[Kind] = [LearningRate(per="model"), SampleWeight()]
    values = shaken(tuner_of(small_problem(), kinds, training))
    parts = [
        tuner_of(small_problem(), kinds, training, Stored(horizon=horizon)).evaluate(values, 0)
        for horizon in (3, STEPS)
    ]
    replayed = tuner_of(small_problem(), kinds, training, Replay(horizon=3)).evaluate(values, 0)
    assert largest_difference(replayed, parts[0].hypergradient) < 1e-10
    assert largest_difference(parts[0], parts[1].hypergradient) > 1e-3


@pytest.mark.parametrize("optimizer", ["sgd", "damped_sgd", "adamw"])
@pytest.mark.parametrize("name", ["cosine", "table"])
def test_the_shortcut_is_exact_with_a_node_at_every_step(
    name: str, optimizer: OptimizerName
) -> None:
    """Also where a rate of 0 lets no velocity follow from the points."""
    training = replace(TRAINING, optimizer=optimizer, schedule=SCHEDULES[name])
    kinds: list[Kind] = [LearningRate(per="model"), SampleWeight()]
    everywhere = Shortcut(interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1)
    exact = tuner_of(small_problem(), kinds, training, Replay())
    values = shaken(exact)
    found = tuner_of(small_problem(), kinds, training, everywhere).evaluate(values, 0)
    assert largest_difference(found, exact.evaluate(values, 0).hypergradient) < 1e-8


def test_a_stride_over_changing_rates_is_its_steps() -> None:
    draw = torch.Generator().manual_seed(0)
    state, adjoint, gradient = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((2, 5), (2, 5), (5,))
    )
    total = torch.zeros(1, 1, dtype=torch.float64)
    rate = Rate(torch.tensor([[0.3]]).double(), [5], total, factors=DOWN_TO_ZERO)
    dynamics = MomentumSGD(rate, Rate(0.6, [5]), damped=False)
    leaves = [
        each.clone().requires_grad_() for each in (state, gradient, torch.tensor(0.3).double())
    ]
    weights, velocity = leaves[0]
    for factor in DOWN_TO_ZERO[1:6]:
        velocity = 0.6 * velocity - leaves[1]
        weights = weights + leaves[2] * factor * velocity
    expected: tuple[Tensor, ...] = torch.autograd.grad(
        torch.stack([weights, velocity]), leaves[:2], adjoint
    )
    cotangent = torch.empty(5, dtype=torch.float64)
    dynamics.pull_back(1, 5, adjoint, cotangent, state, gradient)
    torch.testing.assert_close(adjoint, expected[0])
    torch.testing.assert_close(-cotangent, expected[1])


def test_neumann_takes_the_rate_before_its_schedule() -> None:
    """The first factor of a warm-up is 0, a step size at which the series has no sum."""
    found = []
    for schedule in (ConstantSchedule(), LinearSchedule(warmup=2)):
        training = replace(TRAINING, steps=200, momentum=0.0, schedule=schedule)
        method = Implicit(solver="neumann", damping=1.0, tolerance=0.1)
        tuner = tuner_of(small_problem(), [SampleWeight()], training, method)
        found.append(tuner.evaluate(tuner.initial_values(), 0))
    assert found[0].backward_steps == pytest.approx(found[1].backward_steps, abs=3)


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (ConstantSchedule(warmup=9), "warmup"),
        (ConstantSchedule(warmup=1.5), "warmup"),
        (StepSchedule(), "every"),
        (StepSchedule(every=2, milestones=(3,)), "every"),
        (StepSchedule(milestones=(2.5,)), "milestones"),
        (TableSchedule((1.0,)), "factors"),
        (TableSchedule((1.0, 0.0), at=(0.5,)), "at"),
        (TableSchedule((1.0, 0.0), at=(0.5, 0.2)), "at"),
    ],
)
def test_options_that_do_not_fit_are_refused(schedule: Schedule, field: str) -> None:
    with pytest.raises(ProblemError) as caught:
        replace(TRAINING, schedule=schedule)
    assert caught.value.field == f"training.schedule.{field}"


def test_a_factor_must_not_be_negative() -> None:
    with pytest.raises(ProblemError, match="factors must be at least 0, got -1"):
        TableSchedule((1.0, -1.0))
