"""Proof 2 catches an engine that trains anything else than torch.optim on the user's module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Problem, ProblemError
from drmad_workers.objective.inner import InnerObjective
from drmad_workers.preflight.proofs.finding import Finding
from drmad_workers.preflight.proofs.training import training
from drmad_workers.problem import Batch
from drmad_workers.training.optimizers import Adam, MomentumSGD
from tests.workers.preflight.proofs.jobs import CLASSES, L2, examples, job, net, short, stated


def test_a_gradient_that_misses_a_parameter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = InnerObjective.gradient

    def wrong(self: InnerObjective, batch: Batch, out: Tensor) -> Tensor:
        loss = right(self, batch, out)
        out[20:25] = 0.0  # the first bias
        return loss

    monkeypatch.setattr(InnerObjective, "gradient", wrong)
    finding = training(short())
    assert (finding.result, finding.where) == ("failed", "0.bias")
    assert "after step 1 of" in finding.detail


def test_a_stale_gradient_is_caught_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = InnerObjective.gradient
    kept: list[Batch] = []

    def stale(self: InnerObjective, batch: Batch, out: Tensor) -> Tensor:
        kept.append(batch)
        return right(self, kept[-1 if len(kept) < 5 else 0], out)

    monkeypatch.setattr(InnerObjective, "gradient", stale)
    assert training(short()).result == "failed"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_update_without_its_weight_decay_is_caught(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MomentumSGD, "_decayed", lambda self, weights, gradient, weight_decay: gradient
    )
    monkeypatch.setattr(Adam, "_coupled", lambda self, weights, gradient, weight_decay: gradient)
    spec = job(optimizer=optimizer, learning_rate=0.01, weight_decay=1e-3)
    assert training(short(spec=spec)).result == "failed"


def test_a_penalty_half_as_large_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from drmad_workers.objective.penalties import PowerPenalty

    def half(self: Any, weights: Tensor, out: Tensor) -> None:
        (term,) = self._terms
        out.addcmul_(term.coefficients, weights, value=0.5)

    monkeypatch.setattr(PowerPenalty, "add_gradient", half)
    finding = training(short())
    assert (finding.result, finding.where) == ("failed", "0.weight")


def clip(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.clamp_(-0.01, 0.01)


def clipping(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(clip)  # type: ignore[no-untyped-call]
    return model


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(inputs)))  # type: ignore[no-any-return]


def fresh_head(model: nn.Module) -> None:
    model.head = nn.Linear(5, CLASSES)


class Bounded(Body):
    """Writes into a parameter in forward."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.head.weight.data = self.head.weight.data.clamp(-0.2, 0.2)
        return super().forward(inputs)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(7, 4, max_norm=0.5), nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(inputs)))  # type: ignore[no-any-return]


def words() -> Problem:
    def part(rows: int) -> tuple[Tensor, Tensor]:
        return torch.arange(rows) % 7, examples(rows, rows)[1]

    return Problem(Words(), part(60), part(30))


FAULTS: dict[str, tuple[Callable[[], Problem], str]] = {
    "a hook behind the gradient": (lambda: stated(clipping(net())), "0.weight"),
    "a module assigned by initialize": (lambda: stated(Body(), initialize=fresh_head), "head"),
    "weight.data in forward": (lambda: stated(Bounded()), "head.weight"),
    "an embedding's max_norm": (words, "words.weight"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_parameter_that_slips_out_is_named_or_refused(name: str) -> None:
    build, where = FAULTS[name]
    try:
        finding = training(short(build()))
    except ProblemError as error:
        finding = Finding("failed", str(error), f"{where} {error}")
    assert finding.result == "failed"
    assert where.split(".")[0] in str(finding.where) or where in finding.detail


def bounded(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.03, 0.03)


def test_a_hook_that_is_not_linear_is_caught_with_a_penalty() -> None:
    model = net()
    for parameter in model.parameters():
        parameter.register_hook(bounded)  # type: ignore[no-untyped-call]
    try:
        finding = training(short(stated(model)))
    except ProblemError:
        return
    assert finding.result == "failed"
    assert "hook" in str(finding.remedy)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "weight_decay": 0.01},
        {"optimizer": "damped_sgd"},
        {"optimizer": "adam", "learning_rate": 0.01},
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        {"optimizer": "rmsprop", "learning_rate": 0.01, "momentum": 0.5},
        {"optimizer": "muon", "learning_rate": 0.01, "weight_decay": 0.1, "nesterov": True},
        {"precision": "bfloat16"},
    ],
)
def test_every_optimizer_is_that_of_torch(settings: dict[str, Any]) -> None:
    finding = training(short(spec=job(L2, {"kind": "l1", "per": "unit"}, **settings)))
    assert finding.result == "passed"
    assert ("without autocast" in finding.detail) == ("precision" in settings)


class Single(Body):
    """Runs in float32 only."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.float())


def test_a_model_that_knows_no_float64_is_compared_in_float32() -> None:
    finding = training(short(stated(Single())))
    assert finding.result == "passed"
    assert "float32, because in float64 its code raises RuntimeError" in finding.detail
