"""The state of the outer loop through a resume and through releases."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from drmad_workers import EngineError, MetaConfig, MetaState
from drmad_workers.hypergradients import Choice, Shortcut, Stored
from drmad_workers.hypergradients.automatic.choice import method_of
from drmad_workers.meta.config import OuterOptimizer
from tests.client.records.version_1 import SCALARS_1, SCALARS_2, SCALARS_3, SCALARS_4
from tests.workers.meta.updates import START, run


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd", "sign"])
def test_resume_through_tensors_and_json_changes_no_bit(optimizer: OuterOptimizer) -> None:
    config = MetaConfig(optimizer)
    undisturbed = run(MetaState(dict(START)), config, 9)
    halfway = run(MetaState(dict(START)), config, 4)
    scalars = json.loads(json.dumps(halfway.scalars()))
    resumed = run(MetaState.restore(halfway.tensors(), scalars), config, 9)
    assert resumed.scalars() == undisturbed.scalars()
    for name, tensor in undisturbed.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor)
    assert resumed.tensors().keys() == undisturbed.tensors().keys()


@pytest.mark.parametrize("scalars", [SCALARS_1, SCALARS_2, SCALARS_3, SCALARS_4])
def test_a_state_of_an_earlier_version_is_restored(scalars: dict[str, Any]) -> None:
    tensors = MetaState(dict(START)).tensors()
    state = MetaState.restore(tensors, json.loads(json.dumps(scalars)))
    known = SCALARS_2["choice"]
    choice = known | {
        "probes": [probe | {"usefulness": None, "gain": None} for probe in known["probes"]],
        **dict.fromkeys(("steps", "trial", "agreement")),
        **dict.fromkeys(("spent", "choosing"), 0.0),
    }
    assert json.loads(json.dumps(state.scalars())) == SCALARS_4 | {"choice": choice}
    assert (state.rollbacks, state.best_validation_loss) == (1, 0.75)
    assert state.choice is not None
    assert (state.choice.reason, state.choice.next_probe) == ("scheduled", 15)
    assert method_of(state.choice.method) == Shortcut(horizon=10)
    assert [method_of(probe.method) for probe in state.choice.probes] == [
        Stored(),
        Shortcut(
            horizon=25,
            interpolation_nodes=4,
            averaging_window=3,
            max_stride=5,
            max_adjoint_change=None,
            minibatch_subsampling=2,
        ),
        Shortcut(horizon=10),
    ]


def test_a_choice_survives_json() -> None:
    choice = Choice.from_dict(SCALARS_2["choice"])
    assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice


def test_state_of_another_version_is_refused() -> None:
    scalars = replace(MetaState(dict(START)), version=99).scalars()
    with pytest.raises(EngineError, match="got 99"):
        MetaState.restore({}, scalars)
