"""The kind weight_decay: torch's own steps, and the derivatives of whole training runs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from drmad_client.spec.inner.optimizers import OPTIMIZERS, OptimizerName
from drmad_workers import (
    Forward,
    Implicit,
    LearningRate,
    Method,
    Momentum,
    ProblemError,
    Replay,
    Reversible,
    Shortcut,
    Stored,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.judge.optimizers import Lion, MuonAndAdamW
from tests.workers.small import (
    finite_difference,
    largest_difference,
    relative,
    shaken,
    small_problem,
    tuner_of,
)

STEPS = 9
TRAINING = TrainingConfig(
    "sgd", steps=STEPS, batch_size=4, learning_rate=0.05, momentum=0.7, weight_decay=0.2
)
KINDS: dict[str, Kind] = {
    "model": WeightDecay(init=-2.0),
    "layer": WeightDecay(per="layer", init=-2.0),
    "group": WeightDecay(per="group", groups=("*.bias", "2.*"), init=-2.0),
}
NAMES = [name for name in OPTIMIZERS if name != "custom"]
METHODS = [
    Replay(),
    pytest.param(Stored(), marks=pytest.mark.full),
    pytest.param(Forward(), marks=pytest.mark.full),
]
EVERYWHERE = Shortcut(interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1)


def reference(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    rate = TRAINING.learning_rate
    if name == "adam":
        return torch.optim.Adam(groups, rate, TRAINING.betas)
    if name == "adamw":
        return torch.optim.AdamW(groups, rate, TRAINING.betas)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, rate, TRAINING.smoothing, momentum=TRAINING.momentum)
    if name == "muon":
        made = [{"lr": rate, "momentum": TRAINING.momentum, **group} for group in groups]
        return MuonAndAdamW(made, TRAINING)
    if name == "lion":
        return Lion([{"lr": rate, **group} for group in groups], TRAINING.betas)
    return torch.optim.SGD(
        groups,
        rate,
        TRAINING.momentum,
        dampening=TRAINING.momentum if name == "damped_sgd" else 0.0,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per", KINDS)
def test_training_takes_the_steps_of_torch_with_that_weight_decay(
    per: str, name: OptimizerName
) -> None:
    problem = small_problem()
    config = replace(TRAINING, optimizer=name, steps=12)
    tuner = tuner_of(problem, [KINDS[per]], config)
    values = shaken(tuner)
    own = values["weight_decay"].exp()
    rows: dict[str, list[int | None]] = {
        "model": [0, 0, 0, 0],
        "layer": [0, 1, 2, 3],
        "group": [None, 0, 1, 0],
    }
    decays = [config.weight_decay if i is None else float(own[i]) for i in rows[per]]
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    network.load_state_dict(problem.model.state_dict())
    parameters = list(network.parameters())
    optimizer = reference(
        name,
        [{"params": [p], "weight_decay": d} for p, d in zip(parameters, decays, strict=True)],
    )
    if name == "damped_sgd":
        # torch does not damp its first step: a zero gradient first leaves a velocity of 0.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    minibatches = tuner.replica.minibatches(0)
    for step in range(config.steps):
        batch = minibatches.join(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = tuner.evaluate(values, 0).model
    for key, expected in network.state_dict().items():
        torch.testing.assert_close(trained[key], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_exact_methods_are_central_differences_of_whole_trainings(
    method: Method, per: str, name: OptimizerName
) -> None:
    kinds = [KINDS[per], LearningRate(per="layer"), Momentum(per="step")]
    config = replace(TRAINING, optimizer=name)
    tuner = tuner_of(small_problem(), kinds, config, method)
    values = shaken(tuner, 0.3)
    for key, gradient in tuner.evaluate(values, 0).hypergradient.items():
        for coordinate in range(0, gradient.numel(), 3 if key == "momentum" else 1):
            difference = finite_difference(tuner, values, key, coordinate)
            error = abs(difference - float(gradient.view(-1)[coordinate]))
            assert error < 1e-6 * max(1e-2, float(gradient.abs().max())), (key, coordinate)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per", KINDS)
def test_the_shortcut_is_exact_with_a_node_at_every_step(per: str, name: OptimizerName) -> None:
    config = replace(TRAINING, optimizer=name)
    kinds = [KINDS[per], LearningRate()]
    exact, shortcut = (
        tuner_of(small_problem(), kinds, config, method) for method in (Replay(), EVERYWHERE)
    )
    values = shaken(exact, 0.3)
    expected = exact.evaluate(values, 0).hypergradient
    assert float(expected["weight_decay"].abs().max()) > 1e-6
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-9


@pytest.mark.parametrize("name", ["sgd", "damped_sgd"])
@pytest.mark.parametrize("per", KINDS)
def test_reversible_recovers_a_training_with_weight_decay(per: str, name: OptimizerName) -> None:
    # 0.75 lies on the grid of the fixed point's momentum.
    config = replace(TRAINING, optimizer=name, momentum=0.75)
    tuners = [
        tuner_of(small_problem(), [KINDS[per]], config, method)
        for method in (Replay(), Reversible())
    ]
    results = [tuner.evaluate(tuner.initial_values(), 0) for tuner in tuners]
    exact, reversible = (result.hypergradient["weight_decay"] for result in results)
    assert relative(reversible, exact) < 1e-9


def test_implicit_differentiation_refuses_it_by_name() -> None:
    with pytest.raises(ProblemError, match="implicit has no hypergradient for weight_decay"):
        tuner_of(small_problem(), [WeightDecay()], replace(TRAINING, weight_decay=0.0), Implicit())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WeightDecay(per="group"), "needs patterns in groups, or training.groups"),
        (WeightDecay(groups=("*",)), "groups are those of per group"),
        (WeightDecay(per="group", groups=("*", "*.bias")), "'\\*.bias' must be the first"),
        (WeightDecay(per="group", groups=("head.*",)), "'head.\\*' must be the first"),
    ],
)
def test_groups_that_hold_no_parameter_are_refused(kind: WeightDecay, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        tuner_of(small_problem(), [kind], TRAINING)


def test_it_starts_from_the_decay_of_the_training() -> None:
    tuner = tuner_of(small_problem(), [WeightDecay()], TRAINING)
    torch.testing.assert_close(
        tuner.initial_values()["weight_decay"].exp(), torch.tensor([0.2]).double()
    )
