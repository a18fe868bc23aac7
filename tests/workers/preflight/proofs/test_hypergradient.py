"""Proof 4 catches a wrong hypergradient, names the hyperparameter, and keeps to its price."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from drmad_workers import Stored, spec_adapter
from drmad_workers.objective.gradient_sums import GradientSums
from drmad_workers.objective.objective import Objective
from drmad_workers.preflight.proofs import prove
from drmad_workers.preflight.proofs.finding import Finding
from drmad_workers.preflight.proofs.hypergradient import cost, hypergradient
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.problem import Hyperparameter, Problem
from tests.workers.preflight.proofs.jobs import CLASSES, L2, STEPS, job, short, stated
from tests.workers.preflight.proofs.test_second_derivatives import mixed

ENOUGH = 10_000
SAMPLE = {"kind": "sample_weight"}
RATE = {"kind": "learning_rate", "per": "step"}


def found(tried: ShortProblem, gradients: int = ENOUGH) -> Finding:
    return hypergradient(tried, "stored", "exact", None, gradients)


def mixing_problem() -> Problem:
    def outer(forward: Any, tuned: Mapping[str, Tensor], batch: Any) -> Tensor:
        return mixed(forward, tuned, batch) + 0.1 * tuned["mixing"].square().mean()

    stated_mixing = {"mixing": Hyperparameter(torch.eye(CLASSES) + 0.1)}
    return stated(inner_loss=mixed, outer_loss=outer, hyperparameters=stated_mixing)


def scaled(name: str, factor: float) -> Callable[[Objective], dict[str, Tensor]]:
    right = Objective.hypergradient

    def wrong(self: Objective) -> dict[str, Tensor]:
        gradient = right(self)
        gradient[name] = gradient[name] * factor
        return gradient

    return wrong


@pytest.mark.parametrize("name", ["l2", "sample_weight", "learning_rate"])
@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0])
def test_a_hypergradient_that_is_off_is_named(
    name: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = short(spec=job(L2, SAMPLE, RATE))
    assert found(tried).result == "passed"
    monkeypatch.setattr(Objective, "hypergradient", scaled(name, factor))
    finding = found(tried)
    assert (finding.result, finding.where) == ("failed", name)


def test_one_wrong_entry_is_caught_by_the_random_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Objective.hypergradient

    def wrong(self: Objective) -> dict[str, Tensor]:
        gradient = right(self)
        gradient["learning_rate"][3] = 0.0
        return gradient

    monkeypatch.setattr(Objective, "hypergradient", wrong)
    finding = found(short(spec=job(L2, RATE)))
    assert (finding.result, finding.where) == ("failed", "learning_rate")


def test_a_truncated_backward_pass_is_caught() -> None:
    tried = short()
    tried.tuner._method = Stored(horizon=STEPS // 2)
    assert found(tried).result == "failed"


def test_a_direct_derivative_of_the_outer_loss_that_is_missing_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = short(mixing_problem(), job({"kind": "tensor", "name": "mixing"}))
    assert found(tried).result == "passed"
    monkeypatch.setattr(GradientSums, "add_leaves", lambda self, by_leaves, share: None)
    assert found(tried).result == "failed"


def test_it_is_skipped_above_its_price_and_says_so() -> None:
    finding = found(short(), cost(2, STEPS) - 1)
    assert finding.result == "skipped"
    assert f"{cost(2, STEPS)} gradients" in finding.detail


def test_one_direction_joins_all_hyperparameters_where_each_costs_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = short(spec=job(L2, SAMPLE, RATE))
    assert found(tried, cost(2, STEPS)).result == "passed"
    monkeypatch.setattr(Objective, "hypergradient", scaled("sample_weight", 0.0))
    finding = found(tried, cost(4, STEPS) - 1)
    assert finding.result == "failed"


def test_the_detail_says_what_was_proved_of_an_approximate_method() -> None:
    tried = short(spec=job(hypergradient={"method": "shortcut", "horizon": 10}))
    finding = hypergradient(tried, "shortcut", "exact", 10, ENOUGH)
    assert finding.result == "passed"
    assert "stored with hvp exact, exact where shortcut may be approximate" in finding.detail


@pytest.mark.parametrize("method", ["replay", "forward"])
def test_an_exact_method_is_tried_itself(method: str) -> None:
    finding = found(short(spec=job(hypergradient={"method": method})))
    assert finding.result == "passed"
    assert f"{method} with hvp exact" in finding.detail


def test_the_tuner_is_left_for_others() -> None:
    tried = short()
    first = tried.tuner.evaluate(tried.tuner.initial_values(), 0)
    assert found(replace(tried)).result == "passed"
    second = tried.tuner.evaluate(tried.tuner.initial_values(), 0)
    assert torch.equal(first.hypergradient["l2"], second.hypergradient["l2"])


class Raises(torch.autograd.Function):
    """A backward pass with an error, which the engine may never reach."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise KeyError("no such key")


def test_an_error_of_the_users_code_is_a_finding_with_its_line() -> None:
    problem, spec = stated(), job()
    tuner = spec_adapter.tuner(spec, built=problem)
    right = problem.loss

    def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
        raised: Tensor = Raises.apply(outputs)  # type: ignore[no-untyped-call]
        return right(raised, targets)

    problem.loss = wrong
    found = {fields["name"]: fields for fields in prove(spec, problem, tuner)}
    assert found["training"]["result"] == "failed"
    assert "KeyError" in found["training"]["detail"]
    assert found["training"]["where"].startswith("test_hypergradient.py:")
