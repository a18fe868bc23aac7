"""Groups of parameters: rates of their own, and parameters that do not train."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L2,
    Forward,
    Implicit,
    LearningRate,
    Method,
    Momentum,
    ParameterGroup,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Stored,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import small_problem, tuner_of

STEPS = 7
GROUPS = (
    ParameterGroup("*.bias|norm*", weight_decay=0.0),
    ParameterGroup("0.*", learning_rate=0.02, momentum=0.3),
)
TRAINING = TrainingConfig(
    "sgd", STEPS, 4, learning_rate=0.2, momentum=0.5, weight_decay=0.1, eps=1e-4, groups=GROUPS
)
FROZEN = (ParameterGroup("0.weight", frozen=True), ParameterGroup("*.bias", learning_rate=0.1))
KINDS: dict[str, tuple[Kind, ...]] = {
    "none": (SampleWeight(), L2(per="layer", init=-3.0)),
    "model": (LearningRate(per="model"), WeightDecay(per="model"), Momentum(per="model")),
    "step": (LearningRate(per="step"), Momentum(per="step")),
    "group": (LearningRate(per="group"), Momentum(per="group"), WeightDecay(per="group")),
    "layer": (LearningRate(per="layer"), WeightDecay(per="layer")),
    "patterns": (
        LearningRate(per="group", groups=("*.bias|9.*", "2.*")),
        Momentum(per="group", groups=("2.*",)),
    ),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("per", KINDS)
def test_exact_methods_are_central_differences_of_trainings_by_group(
    per: str, optimizer: OptimizerName
) -> None:
    groups = GROUPS
    if optimizer == "adamw":
        groups = (GROUPS[0], replace(GROUPS[1], momentum=None))
    training = replace(TRAINING, optimizer=optimizer, groups=groups)
    methods: list[Method] = [Stored(), Replay(), Forward()]
    assert_right(Recipe(small_problem, KINDS[per], training), methods, step=1e-6)


@pytest.mark.parametrize("per", ["none", "group"])
def test_a_frozen_group_is_not_trained(per: str) -> None:
    training = replace(TRAINING, groups=FROZEN)
    methods: list[Method] = [Stored(), Forward()]
    assert_right(Recipe(small_problem, KINDS[per], training), methods)


def test_reversible_undoes_steps_by_group() -> None:
    groups = (GROUPS[0], replace(GROUPS[1], momentum=0.25))
    assert_right(
        Recipe(small_problem, KINDS["none"], replace(TRAINING, groups=groups)), [Reversible()]
    )


def test_the_model_keeps_what_requires_a_gradient_and_its_frozen_values() -> None:
    def redrawn(model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.normal_(parameter)

    stated = small_problem()
    stated.initialize = redrawn
    before = {name: tensor.clone() for name, tensor in stated.model.state_dict().items()}
    tuner = tuner_of(stated, [SampleWeight()], replace(TRAINING, groups=FROZEN))
    trained = tuner.evaluate(tuner.initial_values(), 0).model
    assert all(parameter.requires_grad for parameter in stated.model.parameters())
    for name, tensor in stated.model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(trained[name], before[name])


def test_a_rate_starts_from_the_rates_of_the_groups() -> None:
    kinds: list[Kind] = [
        LearningRate(per="group"),
        Momentum(per="layer"),
        WeightDecay(per="group", groups=("2.*", "0.bias")),
    ]
    tuner = tuner_of(small_problem(), kinds, TRAINING)
    raw = tuner.initial_values()
    assert raw["learning_rate"].exp().tolist() == pytest.approx([0.2, 0.02, 0.2])
    assert raw["momentum"].sigmoid().tolist() == pytest.approx([0.3, 0.5, 0.5, 0.5])
    assert raw["weight_decay"].exp().tolist() == pytest.approx([0.1, 1e-4])
    labels = [group.label for group in tuner.hyperparameters["learning_rate"].groups]
    assert labels == ["*.bias|norm*", "0.*", "others"]


@pytest.mark.parametrize(
    ("groups", "kind", "words"),
    [
        ((ParameterGroup("head.*"),), SampleWeight(), "it is for none of 0.weight, 0.bias, 2.w"),
        (
            (ParameterGroup("*"), ParameterGroup("0.*")),
            SampleWeight(),
            "'0.\\*' must be the first",
        ),
        (
            (ParameterGroup("*", learning_rate=0.1),),
            LearningRate(per="model"),
            "every group of training.groups states its own",
        ),
        ((ParameterGroup("*", frozen=True),), SampleWeight(), "must have a parameter that requi"),
        ((), LearningRate(per="group"), "needs patterns in groups, or training.groups"),
    ],
)
def test_groups_without_effect_are_refused(
    groups: tuple[ParameterGroup, ...], kind: Kind, words: str
) -> None:
    with pytest.raises(ProblemError, match=words):
        tuner_of(small_problem(), [kind], replace(TRAINING, groups=groups))


@pytest.mark.parametrize(
    ("group", "optimizer", "field"),
    [
        (ParameterGroup("*", momentum=0.5), "adam", "momentum"),
        (ParameterGroup("*", learning_rate=0.1, frozen=True), "sgd", "learning_rate"),
        (ParameterGroup("*", weight_decay=-1.0), "sgd", "weight_decay"),
    ],
)
def test_rates_that_no_parameter_takes_are_refused(
    group: ParameterGroup, optimizer: OptimizerName, field: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        replace(TRAINING, optimizer=optimizer, groups=(group,))
    assert caught.value.field == f"training.groups[0].{field}"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Implicit(), "from which weight_decay leads away"),
        (Implicit(solver="neumann"), "under groups with rates of their own"),
    ],
)
def test_implicit_differentiation_refuses_what_the_groups_state(method: Method, words: str) -> None:
    groups = (ParameterGroup("0.*", learning_rate=0.1),)
    if "leads" in words:
        groups = (ParameterGroup("0.*", weight_decay=0.1),)
    training = replace(TRAINING, weight_decay=0.0, groups=groups)
    with pytest.raises(ProblemError, match=words):
        tuner_of(small_problem(), [SampleWeight()], training, method)
