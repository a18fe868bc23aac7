"""Clipped gradients against torch's own, and derivatives of trainings that clip them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L2,
    Forward,
    LearningRate,
    Method,
    Momentum,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training.clipping import Clip, NormClip, ValueClip
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import largest_difference, relative, small_problem, tuner_of

STEPS = 7
TRAINING = TrainingConfig(
    "sgd", STEPS, 4, learning_rate=0.2, momentum=0.5, weight_decay=0.1, eps=1e-4
)
CLIPS: dict[str, Any] = {"clip_norm": 0.35, "clip_value": 0.08}
"""Bounds that some steps of the small problem exceed, and some do not."""
KINDS: dict[str, tuple[Kind, ...]] = {
    "losses": (SampleWeight(), L2(per="layer", init=-3.0)),
    "rates": (LearningRate(per="step"), Momentum(per="model"), WeightDecay(per="layer")),
}


@pytest.mark.parametrize("clip", [NormClip(0.5), ValueClip(0.4), NormClip(9.0)])
def test_gradients_are_those_of_torch_and_the_product_is_their_derivative(clip: Clip) -> None:
    draw = torch.Generator().manual_seed(0)
    gradient, direction = torch.randn(2, 3, 6, generator=draw, dtype=torch.float64)
    expected, products = [], []
    for own, along in zip(gradient, direction, strict=True):
        parameters = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (2, 4)]
        parameters[0].grad, parameters[1].grad = own[:2].clone(), own[2:].clone()
        if isinstance(clip, NormClip):
            nn.utils.clip_grad_norm_(parameters, clip.limit)
        else:
            nn.utils.clip_grad_value_(parameters, clip.limit)
        expected.append(torch.cat([p.grad for p in parameters if p.grad is not None]))
        ends = [clip.clipped(own + sign * 1e-6 * along) for sign in (1.0, -1.0)]
        products.append((ends[0] - ends[1]) / 2e-6)
    torch.testing.assert_close(clip.clipped(gradient), torch.stack(expected), rtol=1e-13, atol=0.0)
    found = clip.product(gradient, direction)
    torch.testing.assert_close(found, torch.stack(products), rtol=1e-8, atol=1e-9)
    beyond = clip.apply(gradient.clone())
    changed = [not torch.equal(one, other) for one, other in zip(gradient, expected, strict=True)]
    assert beyond.tolist() == changed


@pytest.mark.parametrize("optimizer", ["sgd", "damped_sgd", "adamw"])
@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
def test_exact_methods_are_central_differences_of_clipped_trainings(
    clip: str, kinds: str, optimizer: OptimizerName
) -> None:
    training = replace(TRAINING, optimizer=optimizer, **{clip: CLIPS[clip]})
    methods: list[Method] = [Stored(), Replay(), Forward()]
    if optimizer != "adamw" and kinds == "losses":
        methods.append(Reversible())
    assert_right(Recipe(small_problem, KINDS[kinds], training), methods, step=1e-6)
    tuner = tuner_of(small_problem(), [*KINDS["losses"]], training)
    share = tuner.evaluate(tuner.initial_values(), 0).metrics["clipped_steps"]
    assert 0.0 < share <= 1.0


def test_reversible_undoes_clipped_steps_of_a_model_with_running_statistics() -> None:
    def normalized() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))

    recipe = Recipe(
        lambda: small_problem(normalized()), KINDS["losses"], replace(TRAINING, clip_norm=0.3)
    )
    assert_right(recipe, [Reversible(), Stored(), Replay(), Forward()])


@pytest.mark.parametrize("clip", CLIPS)
def test_the_shortcut_is_exact_with_a_node_at_every_step(clip: str) -> None:
    training = replace(TRAINING, **{clip: CLIPS[clip]})
    everywhere = Shortcut(interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1)
    exact, shortcut = (
        tuner_of(small_problem(), [*KINDS["losses"], LearningRate()], training, method)
        for method in (Replay(), everywhere)
    )
    values = exact.initial_values()
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-9


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("method", [Stored(), Replay()])
def test_replicas_side_by_side_have_norms_of_their_own(method: Method, clip: str) -> None:
    training = replace(TRAINING, **{clip: CLIPS[clip]})
    batch = ReplicaBatch(
        small_problem(), [*KINDS["losses"]], training, method, replicas=(0, 1, 2),
        dtype=torch.float64,
    )  # fmt: skip
    assert batch.reason is None
    values = batch.initial_values()
    for tuner, found in zip(batch.tuners, batch.evaluate(values, 0), strict=True):
        alone = tuner.evaluate(values, 0)
        assert found.metrics["clipped_steps"] == alone.metrics["clipped_steps"]
        for name, expected in alone.hypergradient.items():
            assert relative(found.hypergradient[name], expected) < 1e-9


def test_two_bounds_are_refused() -> None:
    with pytest.raises(ProblemError, match="clip_value must be null beside clip_norm"):
        replace(TRAINING, clip_norm=1.0, clip_value=1.0)
