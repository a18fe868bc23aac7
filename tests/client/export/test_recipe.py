"""The recipe as a file, in a process that has no drmad, against the engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drmad_client.export.recipe import NotPlain, recipe, shortcomings
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainSpec
from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.objective.parameters.weight_draw import reset_parameters
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.retraining.from_spec import retrainer
from drmad_workers.retraining.retrainer import FIRST_DRAW

ROWS = 60
SPEC: dict[str, Any] = {
    "problem": {
        "model": {"name": "mlp", "hidden": [12]},
        "data": {"name": "digits", "train": ROWS, "valid": 20, "test": 40},
    },
    # Every minibatch has all rows, so that its order has no effect.
    "training": {"steps": 12, "batch_size": ROWS, "precision": "float64"},
    "hyperparameters": [{"kind": "sample_weight"}],
}
OUTSIDE = """
import json, runpy, sys
for name in ("drmad_client", "drmad_workers", "drmad_service"):
    sys.modules[name] = None  # importing it now fails
import torch
from safetensors.torch import load_file
torch.set_default_dtype(torch.float64)
recipe = runpy.run_path(sys.argv[1])
data = load_file(sys.argv[2])
inputs, targets, trained = data["train_inputs"], data["train_targets"], len(data["train_targets"])
if recipe["SETTINGS"]["with_validation"]:
    inputs = torch.cat([inputs, data["valid_inputs"]])
    targets = torch.cat([targets, data["valid_targets"]])
model = recipe["build_model"](inputs, 10)
model.load_state_dict(load_file(sys.argv[3]))
model = recipe["train"](model, inputs, targets, 0, trained)
print(json.dumps(recipe["figures"](model, data["test_inputs"], data["test_targets"])))
"""


def outside(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("changes", "asked", "raw"),
    [
        (
            {
                "training": {"schedule": {"name": "cosine", "warmup": 3}, "weight_decay": 0.01},
                "hyperparameters": [
                    {"kind": "sample_weight"},
                    {"kind": "l2"},
                    {"kind": "learning_rate", "per": "step"},
                ],
            },
            {"steps": 24},
            {"sample_weight": ROWS, "l2": 64 + 12, "learning_rate": 12},
        ),
        (
            {
                "training": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 80},
                "problem": {"data": {"name": "digits", "train": 80, "valid": 20, "test": 40}},
                "hyperparameters": [{"kind": "sample_weight", "per": "class"}],
            },
            {},
            {"sample_weight": 10},
        ),
        (
            {"training": {"optimizer": "damped_sgd", "batch_size": 50}},
            {"drop_lowest": 10},
            {"sample_weight": ROWS},
        ),
    ],
)
def test_the_file_reaches_the_figures_of_the_engine_without_drmad(
    changes: dict[str, Any], asked: dict[str, Any], raw: dict[str, int], tmp_path: Path
) -> None:
    fields = SPEC | changes
    for part in ("training", "problem"):
        fields[part] = SPEC[part] | changes.get(part, {})
    spec = JobSpec.model_validate(fields)
    request = RetrainSpec.model_validate(asked)
    draw = torch.Generator().manual_seed(0)
    values = {
        name: torch.randn(count, generator=draw, dtype=torch.float64) for name, count in raw.items()
    }
    for name in ("l2", "learning_rate"):
        if name in values:
            values[name] -= 4.0
    made = retrainer(spec, request, values, None, Places(), None)
    expected = made.train(made.runs[1])
    assert expected is not None

    units = {"sample_weight": torch.sigmoid}
    tuned = {name: units.get(name, torch.exp)(value) for name, value in values.items()}
    save_file(tuned, tmp_path / "hyperparameters.safetensors")
    (tmp_path / "recipe.py").write_text(recipe(spec, request, "job_1"))
    problem = spec_adapter.problem(spec, Places(), None)
    data: dict[str, Tensor] = {}
    for part in ("train", "valid", "test"):
        inputs, targets = getattr(problem, part)
        data |= {f"{part}_inputs": inputs.double(), f"{part}_targets": targets}
    save_file(data, tmp_path / "data.safetensors")
    model = problem.model.double()
    torch.manual_seed(seed_of(WEIGHTS, spec.seed, FIRST_DRAW, 0))
    with torch.no_grad():
        reset_parameters(model)
    save_file(model.state_dict(), tmp_path / "start.safetensors")
    printed = outside(tmp_path, "-c", OUTSIDE, "recipe.py", "data.safetensors", "start.safetensors")
    found = json.loads(printed)
    assert found["test_loss"] == pytest.approx(expected[0]["test_loss"], rel=1e-6)
    assert found["test_error"] == expected[0]["test_error"]


def test_what_the_file_does_not_state_is_refused() -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(NotPlain) as error:
            recipe(JobSpec.model_validate(SPEC | changes), RetrainSpec(), "job_1")
        return str(error.value)

    assert "training.optimizer lion" in refused(
        training={"optimizer": "lion", "batch_size": 20, "learning_rate": 0.001}
    )
    assert "training.schedule one_cycle" in refused(
        training={"batch_size": 20, "schedule": {"name": "one_cycle"}}
    )
    both = {"optimizer": "lion", "batch_size": 20, "learning_rate": 0.001, "accumulate": 2}
    assert "training.optimizer lion" in refused(training=both)
    assert "; training.accumulate" in refused(training=both)
    assert "training_data" in refused(hyperparameters=[{"kind": "training_data"}])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"problem": {"model": {"name": "cnn"}, "data": {"name": "digits"}}}, "build_model"),
        ({"training": {"batch_size": 20, "accumulate": 2}}, "does not state training.accumulate"),
    ],
)
def test_what_the_file_lacks_is_known_before_anything_runs(
    changes: dict[str, Any], words: str
) -> None:
    found = shortcomings(JobSpec.model_validate(SPEC | changes))
    assert words in found
    assert bool(found) is bool(words)
