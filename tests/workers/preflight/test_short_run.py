"""A job tried before anything of it counts: each fault is found, and what it takes is predicted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from drmad_client.records.job import PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.preflight import PreflightSpec
from drmad_workers import spec_adapter
from drmad_workers.errors import ProblemError
from drmad_workers.preflight import short_run
from drmad_workers.preflight.fidelity import OTHER_DRAW
from drmad_workers.preflight.short_run import preflight
from drmad_workers.user_code import UserCodeError

GOOD = """
import torch
from torch import nn
from drmad_workers import Hyperparameter, Problem

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g

def inner_loss(forward, hyperparameters, batch):
    outputs = forward(batch.inputs) @ hyperparameters["mixing"]
    return nn.functional.cross_entropy(outputs, batch.targets)

def build():
    torch.manual_seed(0)
    data = torch.randn(60, 4), torch.arange(60) % 3
    return Problem(
        model=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
        train=data, valid=data, inner_loss=inner_loss, initialize="reset",
        hyperparameters={"mixing": Hyperparameter(torch.eye(3)),
                         "idle": Hyperparameter(torch.zeros(2))},
    )
"""


def job(code: str, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "problem": {"entrypoint": f"m{digest(code)}:build", "code": f"sha256:{'0' * 64}"},
            "hyperparameters": [{"kind": "tensor", "name": "mixing"}],
            "training": {"steps": 200, "batch_size": 10},
            "hypergradient": {"method": "shortcut", "horizon": 40},
            "meta": {"iterations": 5},
        }
        | changes
    )


def digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def report_on(folder: Path, code: str, **changes: Any) -> PreflightReport:
    """Each code as a module of its own name, as one process serves them all here."""
    (folder / f"m{digest(code)}.py").write_text(code)
    return PreflightReport.model_validate(preflight(job(code, **changes), code=folder))


def test_a_good_job_is_described_and_what_it_takes_predicted(tmp_path: Path) -> None:
    report = report_on(tmp_path, GOOD)
    assert report.hyperparameters == {"mixing": [3, 3]}
    assert report.steps == 20
    assert report.method == "shortcut"
    assert set(report.fidelity) == {"shortcut"}
    cosine = report.fidelity["shortcut"]
    assert cosine is not None
    assert 0.5 < cosine <= 1.0 + 1e-6
    assert report.seconds is not None
    assert report.job_seconds is not None
    assert report.seconds > 0.0
    assert report.job_seconds > 5 * report.seconds  # 5 meta-iterations, each ten times as long


def test_what_a_whole_path_takes_is_added_to_what_was_measured(tmp_path: Path) -> None:
    steps = {"training": {"steps": 1_000_000, "batch_size": 10}}
    long = report_on(tmp_path, GOOD, hypergradient={"method": "stored"}, **steps)
    weights = 4 * 5 + 5 + 5 * 3 + 3
    assert long.memory_bytes is not None
    assert long.memory_bytes > (1_000_000 - 20) * weights * 4
    assert long.memory_bytes > 1e5 * report_on(tmp_path, GOOD).steps


def test_a_preflight_leaves_no_trace_in_the_numbers(tmp_path: Path) -> None:
    """The model that is tried is the job's own, with running statistics and dropout."""
    code = GOOD.replace("nn.Tanh()", "nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh()")
    (tmp_path / f"m{digest(code)}.py").write_text(code)
    spec = job(code)
    problem = spec_adapter.problem(spec, None, tmp_path)
    tuner = spec_adapter.tuner(spec, built=problem)
    before = tuner.evaluate(tuner.initial_values(), 0)
    given = {name: value.clone() for name, value in problem.model.state_dict().items()}
    found = short_run.report(spec, problem, tuner)
    assert found["hyperparameters"] == {"mixing": [3, 3]}
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, given[name]), name
    after = tuner.evaluate(tuner.initial_values(), 0)
    assert after.validation_loss == before.validation_loss
    assert torch.equal(after.hypergradient["mixing"], before.hypergradient["mixing"])
    for name, value in before.model.items():
        assert torch.equal(after.model[name], value), name


def test_training_that_diverges_has_a_report_with_the_proofs_that_could_run(
    tmp_path: Path,
) -> None:
    training = {"steps": 200, "batch_size": 10, "learning_rate": 1000.0, "momentum": 0.99}
    kinds = [{"kind": "tensor", "name": "mixing"}, {"kind": "l2", "init": 5.0}]
    report = report_on(tmp_path, GOOD, training=training, hyperparameters=kinds)
    assert report.failure is not None
    assert report.failure.code == "training_diverged"
    assert 0 < (report.failure.step or 0) < report.steps
    assert report.validation_loss is None
    proofs = {proof.name: proof.result for proof in report.proofs}
    assert proofs["repeatable"] == proofs["unchanged"] == "passed"
    assert proofs["hypergradient"] == "skipped"
    refusal = report.refusal(PreflightSpec())
    assert refusal.startswith("training diverges, so the job does not start:")
    assert "lower the learning rate" in refusal
    overridden = PreflightSpec(override=["training"])
    assert report.refusal(overridden) == ""
    (warning,) = report.warnings(overridden)
    assert "proofs that did not run: " in warning


def test_method_without_a_hypergradient_over_a_few_steps_may_have_one_over_all(
    tmp_path: Path,
) -> None:
    report = report_on(tmp_path, GOOD, hypergradient={"method": "implicit"})
    assert report.failure is not None
    assert report.failure.code == "hypergradient_failed"
    assert report.refusal(PreflightSpec()) == ""
    assert {proof.name: proof.result for proof in report.proofs}["training"] == "passed"


def test_running_statistics_that_implicit_takes_as_constants_are_named(tmp_path: Path) -> None:
    code = GOOD.replace("nn.Tanh()", "nn.BatchNorm1d(5), nn.Tanh()")
    report = report_on(tmp_path, code, hypergradient={"method": "implicit"})
    warnings = report.warnings(PreflightSpec())
    assert "implicit takes 1.running_mean, 1.running_var as constants" in warnings[0]
    assert report_on(tmp_path, code, hypergradient={"method": "stored"}).limits == []


def test_auto_is_tried_with_what_it_measures(tmp_path: Path) -> None:
    kinds = [{"kind": "tensor", "name": "mixing"}]
    report = report_on(tmp_path, GOOD, hyperparameters=kinds, hypergradient={"method": "auto"})
    assert report.fidelity
    assert all(cosine is None or -1.001 <= cosine <= 1.001 for cosine in report.fidelity.values())


def test_schedules_over_all_steps_are_tried_by_the_exact_method(tmp_path: Path) -> None:
    """A shortcut over all steps would cost as much, so that there is nothing to measure."""
    kinds = [{"kind": "learning_rate", "per": "step"}, {"kind": "tensor", "name": "mixing"}]
    report = report_on(tmp_path, GOOD, hyperparameters=kinds, hypergradient={"method": "auto"})
    assert report.hyperparameters["learning_rate"] == [200]
    assert (report.method, report.fidelity) == ("stored", {})


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("import torch\n", "import no_such\nimport torch\n", UserCodeError, "no_such"),
        ("    torch.manual_seed(0)", "    1 / 0", UserCodeError, "ZeroDivisionError"),
        ("batch.targets)", "batch.targets) + exit(3)", UserCodeError, "SystemExit: 3"),
        ("    return Problem(", "    return dict(", ProblemError, "must return a drmad_workers"),
        ("model=nn.Sequential(", "model=list(", UserCodeError, "list expected"),
        ("nn.Tanh()", "nn.Linear(7, 7)", UserCodeError, "shapes cannot be multiplied"),
        ("batch.targets)", "batch.targets, reduction='none')", ProblemError, "got shape"),
        ("batch.targets)", "batch.targets).sub(9).log()", ProblemError, "must be finite at"),
        ("batch.inputs)", "batch.inputs.double())", UserCodeError, "dtype=x.dtype"),
        ("@ hyperparameters", "@ torch.eye(3); hyperparameters", ProblemError, "'mixing'"),
        ("forward(batch.inputs)", "Once.apply(forward(batch.inputs))", ProblemError, "only once"),
    ],
)  # fmt: skip
def test_every_fault_is_found_before_a_gpu_is_asked_for(
    tmp_path: Path, old: str, new: str, error: type[Exception], words: str
) -> None:
    assert old in GOOD
    with pytest.raises((UserCodeError, ProblemError)) as caught:
        report_on(tmp_path, GOOD.replace(old, new))
    assert words in str(caught.value)
    assert isinstance(caught.value, error)


def test_a_hyperparameter_that_is_not_connected_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="'idle'"):
        report_on(tmp_path, GOOD, hyperparameters=[{"kind": "tensor", "name": "idle"}])


@pytest.mark.parametrize("method", ["shortcut", "auto", "replay"])
def test_the_agreement_of_two_draws_stands_beside_the_fidelity(tmp_path: Path, method: str) -> None:
    fields = {
        "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 20, "batch_size": 20},
        "hypergradient": {"method": method},
    }
    report = PreflightReport.model_validate(preflight(JobSpec.model_validate(fields)))
    exact = JobSpec.model_validate(fields | {"hypergradient": {"method": "replay"}})
    tuner = spec_adapter.tuner(exact)
    one, other = (
        tuner.evaluate(tuner.initial_values(), 0, draw=draw).hypergradient["sample_weight"]
        for draw in (0, OTHER_DRAW)
    )
    assert report.agreement == pytest.approx(
        float(torch.nn.functional.cosine_similarity(one, other, dim=0)), abs=1e-4
    )
    fixed = fields | {"training": {"steps": 20, "batch_size": 20, "resample": False}}
    report = PreflightReport.model_validate(preflight(JobSpec.model_validate(fixed)))
    assert report.agreement is None
