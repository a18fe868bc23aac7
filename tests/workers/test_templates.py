"""Every template of `drmad init` passes the preflight as it is, and tunes.

Templates with a training loop of their own are trained by it too, without the engine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from experiments import plain

from drmad_client.cli.main import run
from drmad_client.cli.submission import Template
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import job_file
from drmad_workers import TuningResult, spec_adapter, tune

SMALL = {
    Template.TEXT: ["problem.options.width=8"],
    Template.VISION: ["hypergradient.horizon=4"],
    Template.TABULAR: [],
    Template.LORA: [],
    Template.HUGGING_FACE: ["hypergradient.horizon=4"],
}
"""What makes the job of a template short; the tests of the documentation run `basic`."""


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
OWN_LOOP = (Template.HUGGING_FACE, Template.LORA, Template.VISION, Template.TABULAR)
"""The templates whose my_training.py trains without drmad."""
SHORT = ["training.steps=8", "training.batch_size=10", "meta.iterations=2"]


@pytest.fixture
def _modules_of_users() -> Iterator[None]:
    """Forgets the modules of examples and templates: all have the same name."""
    path = list(sys.path)
    for name in ("my_problem", "my_training"):
        sys.modules.pop(name, None)
    yield
    sys.path[:] = path
    for name in ("my_problem", "my_training"):
        sys.modules.pop(name, None)


def tuned(fields: dict[str, Any], folder: Path) -> TuningResult:
    """Tunes by the engine what a job states, in this process."""
    job_file.assign(fields, f"problem.code=sha256:{64 * '0'}")  # what --code fills in
    spec = JobSpec.model_validate(fields)
    return tune(
        spec_adapter.problem(spec, None, folder),
        [spec_adapter.kind(each) for each in spec.hyperparameters],
        spec_adapter.training(spec),
        spec_adapter.method(spec.hypergradient),
        spec_adapter.meta(spec),
        seed=spec.seed,
    )


@pytest.mark.usefixtures("_modules_of_users")
@pytest.mark.parametrize("template", SMALL)
def test_a_template_passes_the_preflight_and_tunes(
    template: Template, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "--template", template, str(tmp_path)]) == 0
    job = tmp_path / "job.yaml"
    fields = job_file.read(job)
    for change in [*SMALL[template], *SHORT]:
        job_file.assign(fields, change)
    job.write_text(yaml.safe_dump(fields))
    # Over so few steps the fidelity of a shortcut may be doubtful; a failed proof exits with 1.
    assert run(["check", str(job), "--code", str(tmp_path)]) == 0
    assert "passed" in capsys.readouterr().out
    result = tuned(fields, tmp_path)
    assert len(result.evaluations) == 2
    assert len(result.best) == len(fields["hyperparameters"])
    for evaluation in result.evaluations:
        assert all(hypergradient.any() for hypergradient in evaluation.hypergradient.values())


@pytest.mark.usefixtures("_modules_of_users")
@pytest.mark.parametrize("template", OWN_LOOP)
@pytest.mark.parametrize("is_tuned", [False, True], ids=["untuned", "tuned"])
def test_the_users_own_loop_takes_the_steps_of_the_job(
    template: Template, is_tuned: bool, tmp_path: Path
) -> None:
    """From the same weights, with the same rows, augmentation and dropout, in float64."""
    assert run(["init", "--template", template, str(tmp_path)]) == 0
    fields = job_file.read(tmp_path / "job.yaml")
    for change in [*SHORT, "problem.options.seed=1"]:
        job_file.assign(fields, change)
    fields.pop("hypergradient")
    folder = None
    if is_tuned:
        draw = torch.Generator().manual_seed(1)
        initial = plain.tuner_of(tmp_path, fields, seed=1).initial_values()
        values = {n: torch.randn(v.shape, generator=draw) for n, v in initial.items()}
        folder = plain.written({n: v.flatten().tolist() for n, v in values.items()}, tmp_path)
    found = plain.differences(tmp_path, fields, seed=1, tuned=folder)
    assert {"loss", "error"} <= set(found)
    assert max(found.values()) < 1e-6  # the loop reads the weights in float32


@pytest.mark.usefixtures("_modules_of_users")
@pytest.mark.parametrize("template", OWN_LOOP)
def test_the_users_own_loop_knows_nothing_of_drmad(template: Template, tmp_path: Path) -> None:
    assert run(["init", "--template", template, str(tmp_path)]) == 0
    program = (tmp_path / "my_training.py").read_text()
    assert not re.search(r"^\s*(import|from) (drmad|my_problem)", program, re.MULTILINE)


@pytest.mark.full
@pytest.mark.usefixtures("_modules_of_users")
@pytest.mark.parametrize("template", SMALL)
def test_a_template_as_it_is_lowers_the_validation_loss(template: Template, tmp_path: Path) -> None:
    assert run(["init", "--template", template, str(tmp_path)]) == 0
    result = tuned(job_file.read(tmp_path / "job.yaml"), tmp_path)
    losses = [evaluation.validation_loss for evaluation in result.evaluations]
    assert min(losses) < 0.85 * losses[0]
