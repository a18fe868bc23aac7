"""The shortcut under Adam: its moments on the quantized trajectory, against `stored`."""

from dataclasses import replace

import pytest

from drmad_client.spec.optimizers import OptimizerName
from drmad_workers import (
    LearningRate,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hyperparameters.base import Kind
from tests.workers.small import mixing_problem, shaken, tuner_of


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("kind", [SampleWeight(), WeightDecay(init=-3.0)])
def test_quantized_points_under_adam_are_as_near_to_the_trajectory_as_15_nodes_are(
    optimizer: OptimizerName, kind: Kind
) -> None:
    """In a third of their memory: 16 copies of the weights instead of 48; over single steps."""
    training = TrainingConfig(optimizer, 150, 4, learning_rate=0.02)
    tuner = tuner_of(mixing_problem(rows=40), [kind, LearningRate(per="layer")], training, Stored())
    single = Shortcut(max_stride=1, max_adjoint_change=None)
    methods = [Stored(), single, replace(single, interpolation_nodes=15), Shortcut()]
    passes, _ = tuner.compare(shaken(tuner, 0.2), methods)
    found = [each for each in passes if isinstance(each, BackwardPass)]
    quantized, nodes, default = (
        agreement(each.hypergradient, found[0].hypergradient).cosine for each in found[1:]
    )
    assert 1.0 - quantized < 1.5 * (1.0 - nodes)
    assert quantized > 0.99
    assert default > 0.95


def test_the_copies_of_the_shortcut_are_those_of_the_weights_under_adam_too() -> None:
    for steps in (50, 200, 1000, 5000):
        training = TrainingConfig("adamw", steps, 4)
        assert training.path_rows * Shortcut().copies(training) <= 16.0
        assert training.path_rows * Shortcut(interpolation_nodes=15).copies(training) >= 48.0
