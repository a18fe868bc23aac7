"""The usual recipe all together: torch's own loop step for step, and its derivatives."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    ConstantSchedule,
    CosineSchedule,
    Forward,
    InverseSqrtSchedule,
    LearningRate,
    LinearSchedule,
    Method,
    Momentum,
    OneCycleSchedule,
    ParameterGroup,
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
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from drmad_workers.training.schedules import Schedule
from tests.workers.judge.optimizers import DampedSGD
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.schedules import scheduler_of
from tests.workers.judge.verdict import assert_right
from tests.workers.small import largest_difference, small_problem, tuner_of

STEPS = 9
BASE = TrainingConfig("sgd", STEPS, 4, learning_rate=0.2, momentum=0.5, weight_decay=0.1)
GROUPS = (ParameterGroup("*.bias", weight_decay=0.0), ParameterGroup("0.*", learning_rate=0.03))
ADAMW = replace(BASE, optimizer="adamw", learning_rate=0.02, betas=(0.8, 0.95), eps=1e-4)
RECIPES: dict[str, TrainingConfig] = {
    "nesterov": replace(BASE, nesterov=True),
    "transformer": replace(
        ADAMW, schedule=CosineSchedule(warmup=0.3), groups=GROUPS, clip_norm=0.3, accumulate=2
    ),
    "adam": replace(
        ADAMW, optimizer="adam", schedule=LinearSchedule(final=0.1), clip_value=0.05, accumulate=3
    ),
    "vision": replace(
        BASE,
        nesterov=True,
        schedule=StepSchedule(milestones=(3, 6), factor=0.3),
        groups=GROUPS,
        clip_norm=0.3,
    ),
    "one cycle": replace(BASE, schedule=OneCycleSchedule(), clip_value=0.05),
    "damped": replace(
        BASE,
        optimizer="damped_sgd",
        schedule=ConstantSchedule(warmup=3),
        groups=(ParameterGroup("2.*", momentum=0.25), ParameterGroup("0.bias", frozen=True)),
        clip_norm=0.2,
        accumulate=2,
    ),
}

OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "nesterov": True},
    {"optimizer": "damped_sgd", "learning_rate": 0.1},
    {"optimizer": "adam", "learning_rate": 0.02, "betas": (0.8, 0.95), "eps": 1e-4},
    {"optimizer": "adamw", "learning_rate": 0.02, "betas": (0.8, 0.95), "eps": 1e-4},
)
SCHEDULES: tuple[Schedule, ...] = (
    ConstantSchedule(),
    ConstantSchedule(warmup=3),
    LinearSchedule(final=0.1),
    LinearSchedule(warmup=0.3),
    CosineSchedule(final=0.1),
    CosineSchedule(warmup=2),
    StepSchedule(milestones=(2, 4), factor=0.3),
    StepSchedule(every=2, factor=0.5),
    StepSchedule(every=2, factor=0.5, warmup=2),
    OneCycleSchedule(),
    InverseSqrtSchedule(timescale=3),
    InverseSqrtSchedule(warmup=2),
    TableSchedule(factors=(0.5, 1.0, 1.5, 1.0, 0.2, 0.1)),
)
CLIPS: tuple[dict[str, float], ...] = ({}, {"clip_norm": 0.3}, {"clip_value": 0.05})


@dataclass
class Path:
    """Records the weights before every step and after the last, shape (P,) each."""

    weights: list[Tensor] = field(default_factory=list)
    next_step: int = 0

    def visit(self, step: int, run: TrainingRun) -> None:
        self.weights.append(run.objective.parameters.weights.clone())
        self.next_step = step + 1


def torch_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer with parameter groups as a user writes them."""
    common = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer in ("sgd", "damped_sgd"):
        common["momentum"] = training.momentum
    names = {"learning_rate": "lr", "weight_decay": "weight_decay", "momentum": "momentum"}
    groups = []
    for name, parameter in model.named_parameters():
        own = dict(common)
        for group in training.groups:
            if name.startswith(group.match.strip("*")) or name.endswith(group.match.strip("*")):
                parameter.requires_grad_(not group.frozen)
                stated = {names[each]: getattr(group, each) for each in names}
                own |= {each: value for each, value in stated.items() if value is not None}
                break
        groups += [{"params": [parameter], **own}] if parameter.requires_grad else []
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=0.1, nesterov=training.nesterov)
    if training.optimizer == "damped_sgd":
        return DampedSGD(groups)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=training.betas, eps=training.eps)


@pytest.mark.parametrize("name", RECIPES)
def test_training_takes_the_steps_of_a_loop_in_torch(name: str) -> None:
    training = RECIPES[name]
    clipped = steps_of_torch(training)
    assert clipped == (training.clip_norm is not None or training.clip_value is not None)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.full), 7])
@pytest.mark.parametrize(
    "optimizer", OPTIMIZERS, ids=lambda each: "-".join(map(str, each.values()))
)
def test_every_combination_takes_the_steps_of_a_loop_in_torch(
    optimizer: dict[str, Any], every: int
) -> None:
    base = replace(BASE, steps=6, **optimizer)
    combinations = [*product(SCHEDULES, CLIPS, ((), GROUPS), (1, 2))]
    clipped = set()
    for schedule, clip, groups, accumulate in combinations[::every]:
        stated: dict[str, Any] = {**clip, "groups": groups, "accumulate": accumulate}
        clipped.add((*clip, steps_of_torch(replace(base, schedule=schedule, **stated))))
    assert {("clip_norm", True), ("clip_value", True), (False,)} <= clipped


def steps_of_torch(training: TrainingConfig) -> bool:
    """Asserts that the engine's weights are those of a torch loop; returns whether it clipped."""
    problem = small_problem()
    tuner = tuner_of(problem, [SampleWeight(init=50.0)], training)
    model = small_problem().model
    optimizer = torch_optimizer(model, training)
    scheduler = scheduler_of(training.schedule, optimizer, training.steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    minibatches, path = tuner.replica.minibatches(0), Path()
    with tuner.replica.at_work():
        run = TrainingRun(tuner.objective, training, minibatches, Monitor())
        initialize(tuner.objective, 0)
        run.forward(path)
    for step, weights in enumerate(path.weights):
        expected = torch.cat([parameter.detach().flatten() for parameter in trained])
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-13)
        if step == training.steps:
            break
        optimizer.zero_grad()
        for part in range(training.accumulate):
            batch = minibatches.join(training.accumulate * step + part)
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            (loss / training.accumulate).backward()  # type: ignore[no-untyped-call]
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        if training.clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), training.clip_value)
        optimizer.step()
        scheduler.step()
    return bool(run.clipped.any())


KINDS: dict[str, tuple[Kind, ...]] = {
    "losses": (SampleWeight(), L2(per="layer", init=-3.0)),
    "rates": (LearningRate(per="step_and_layer"), Momentum(per="layer"), WeightDecay(per="layer")),
    "groups": (LearningRate(per="model"), Momentum(per="step"), WeightDecay(per="model")),
}


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", RECIPES)
def test_exact_methods_are_central_differences_of_whole_recipes(name: str, kinds: str) -> None:
    methods: list[Method] = [Stored(), Replay()]
    if kinds != "rates":
        methods.append(Forward())
    if kinds == "losses" and name in ("one cycle", "damped"):
        methods.append(Reversible())
    training = replace(RECIPES[name], steps=6)
    assert_right(Recipe(small_problem, KINDS[kinds], training), methods, step=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_the_shortcut_is_exact_with_a_node_at_every_step(name: str) -> None:
    everywhere = Shortcut(interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1)
    kinds: list[Kind] = [SampleWeight(), L2(per="layer"), LearningRate(per="model")]
    exact, shortcut = (
        tuner_of(small_problem(), kinds, RECIPES[name], method) for method in (Replay(), everywhere)
    )
    values = exact.initial_values()
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-8


@pytest.mark.parametrize("name", ["transformer", "vision", "one cycle"])
def test_the_shortcut_agrees_over_a_longer_training(name: str) -> None:
    """Strides clip the gradient of their joined minibatches, which is not that of each step."""
    training = replace(RECIPES[name], steps=60)
    kinds: list[Kind] = [L2(per="layer", init=-4.0)]
    exact, shortcut = (
        tuner_of(small_problem(), kinds, training, method) for method in (Replay(), Shortcut())
    )
    values = exact.initial_values()
    expected, found = (t.evaluate(values, 0).hypergradient["l2"] for t in (exact, shortcut))
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.9


def test_reversible_refuses_nesterovs_momentum() -> None:
    with pytest.raises(ProblemError, match="reversible cannot undo a step of Nesterov"):
        tuner_of(small_problem(), [SampleWeight()], RECIPES["nesterov"], Reversible())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"optimizer": "adam"}, "nesterov must be false with adam"),
    ],
)
def test_nesterov_without_effect_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        replace(BASE, nesterov=True, **changes)
