"""Small jobs on which proofs are tried, and a way to run one proof."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drmad_client.records.job import Proof
from drmad_client.spec.job import JobSpec
from drmad_workers import Problem, spec_adapter
from drmad_workers.preflight.proofs import prove
from drmad_workers.preflight.proofs.short_problem import ShortProblem, short_problem

CLASSES = 3
L2 = {"kind": "l2", "per": "layer", "init": -3.0}
STORED = {"method": "stored"}
STEPS = 12


def job(
    *kinds: Mapping[str, Any],
    hypergradient: Mapping[str, Any] = STORED,
    **training: Any,
) -> JobSpec:
    """A job on a problem that the test builds itself."""
    return JobSpec.model_validate(
        {
            "problem": {"entrypoint": "my_problem:build", "code": f"sha256:{'0' * 64}"},
            "hyperparameters": list(kinds) or [L2],
            "training": {"steps": 60, "batch_size": 10, "learning_rate": 0.1} | training,
            "hypergradient": hypergradient,
        }
    )


def examples(rows: int, seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, *(shape or (4,)), generator=draw)
    return inputs, torch.randint(CLASSES, (rows,), generator=draw)


def net(*between: nn.Module) -> nn.Sequential:
    """A small network with these modules between its two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), *(between or (nn.Tanh(),)), nn.Linear(5, CLASSES))


def stated(model: nn.Module | None = None, **fields: Any) -> Problem:
    fields = {"initialize": "reset"} | fields
    return Problem(model or net(), examples(60, 0), examples(30, 1), **fields)


class Calls(nn.Module):
    """A module whose forward is a function of the module and its inputs."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.function(self, inputs)


def short(problem: Problem | None = None, spec: JobSpec | None = None) -> ShortProblem:
    return short_problem(spec or job(), problem or stated(), STEPS, "cpu")


def proofs(problem: Problem, spec: JobSpec) -> dict[str, Proof]:
    tuner = spec_adapter.tuner(spec, built=problem)
    found = [Proof.model_validate(fields) for fields in prove(spec, problem, tuner)]
    return {proof.name: proof for proof in found}


def failed(problem: Problem, spec: JobSpec) -> list[Proof]:
    return [proof for proof in proofs(problem, spec).values() if proof.result == "failed"]
