"""Proof 3 catches a wrong product, names the parameter, and knows the product that is right."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from drmad_workers.objective.inner import Derivatives, InnerObjective
from drmad_workers.objective.penalties import PowerPenalty
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.gauss_newton import gauss_newton_product
from drmad_workers.objective.products.product import Hvp
from drmad_workers.objective.products.right_product import right_product
from drmad_workers.preflight.proofs.plan import GROUPS
from drmad_workers.preflight.proofs.second_derivatives import second_derivatives
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.problem import Batch, Hyperparameter, Problem
from tests.workers.preflight.proofs.jobs import CLASSES, Calls, job, net, short, stated

Product = Callable[..., Derivatives]


def with_product(tried: ShortProblem, product: Product) -> ShortProblem:
    tried.tuner.objective.product = product
    return tried


def test_a_product_that_leaves_out_curvature_is_caught() -> None:
    finding = second_derivatives(with_product(short(), gauss_newton_product), "exact", GROUPS)
    assert finding.result == "failed"


@pytest.mark.parametrize(("number", "name"), [(0, "0.weight"), (3, "2.bias")])
def test_the_parameter_that_disagrees_is_named(number: int, name: str) -> None:
    def wrong(inner: InnerObjective, batch: Batch, *rest: Any) -> Derivatives:
        found = exact_product(inner, batch, *rest)
        parts = [part.clone() for part in found.by_parameters if part is not None]
        parts[number].mul_(1.001)
        return found._replace(by_parameters=parts)

    finding = second_derivatives(with_product(short(), wrong), "exact", GROUPS)
    assert (finding.result, finding.where) == ("failed", name)


def mixed(forward: nn.Module, tuned: Any, batch: Batch) -> Tensor:
    return cross_entropy(forward(batch.inputs) @ tuned["mixing"], batch.targets)


MIXING = {"mixing": Hyperparameter(torch.eye(CLASSES) + 0.1)}


def test_a_wrong_derivative_by_a_hyperparameter_is_named() -> None:
    def wrong(inner: InnerObjective, batch: Batch, *rest: Any) -> Derivatives:
        found = exact_product(inner, batch, *rest)
        return found._replace(by_leaves=[p if p is None else 0.9 * p for p in found.by_leaves])

    problem = stated(inner_loss=mixed, hyperparameters=MIXING)
    tried = short(problem, job({"kind": "tensor", "name": "mixing"}))
    assert second_derivatives(tried, "exact", GROUPS).result == "passed"
    finding = second_derivatives(with_product(tried, wrong), "exact", GROUPS)
    assert (finding.result, finding.where) == ("failed", "mixing")


def test_a_product_without_the_penalty_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PowerPenalty, "subtract_curvature", lambda *rest, **options: None)
    assert second_derivatives(short(), "exact", GROUPS).result == "failed"


class Swish(torch.autograd.Function):
    """Saves its derivative in the forward pass, so that no graph of it exists."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        gate = torch.sigmoid(inputs)
        ctx.save_for_backward(gate * (1 + inputs * (1 - gate)))
        return inputs * gate

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope


class Tilted(torch.autograd.Function):
    """A backward pass that is the derivative of nothing: its Jacobian is not symmetric."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(torch.tanh(inputs.roll(1, -1)))
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor


class SavedByNumpy(Swish):
    """Saves its derivative as NumPy computes it, out of the sight of autograd."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        plain = inputs.detach().numpy()
        gate = 1.0 / (1.0 + np.exp(-plain))
        ctx.save_for_backward(torch.from_numpy(gate * (1 + plain * (1 - gate))))
        return torch.from_numpy(plain * gate)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return 2.0 * inputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return 2.0 * gradients[0]


def applied(function: Any) -> Problem:
    return stated(net(Calls(lambda _, inputs: function.apply(inputs))))


def bootstrapped(forward: nn.Module, _: Any, batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    targets = 0.7 * one_hot(batch.targets, CLASSES) + 0.3 * outputs.softmax(1).detach()
    loss: Tensor = -(targets * outputs.log_softmax(1)).sum(1).mean()
    return loss


def tilted_loss(forward: nn.Module, _: Any, batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    confidence = outputs.detach().square().sum(1).sigmoid()
    losses: Tensor = confidence * cross_entropy(outputs, batch.targets, reduction="none")
    return losses.mean()


def numbered_loss(forward: nn.Module, _: Any, batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    confidence = torch.from_numpy(outputs.square().sum(1).sigmoid().detach().numpy())
    losses: Tensor = confidence * cross_entropy(outputs, batch.targets, reduction="none")
    return losses.mean()


RIGHT: dict[str, tuple[Callable[[], Problem], Hvp | None]] = {
    "smooth": (stated, "exact"),
    "relu": (lambda: stated(net(nn.ReLU())), "exact"),
    "dropout": (lambda: stated(net(nn.Dropout(0.4), nn.Tanh())), "exact"),
    "a derivative that was saved": (lambda: applied(Swish), "exact"),
    "a derivative that NumPy saved": (lambda: applied(SavedByNumpy), "finite_difference"),
    "a kernel that is differentiable once": (lambda: applied(Once), "finite_difference"),
    "detached targets": (lambda: stated(inner_loss=bootstrapped), "exact"),
    "a gradient of nothing": (lambda: applied(Tilted), "exact"),
    "detached weights": (lambda: stated(inner_loss=tilted_loss), "exact"),
    "weights that are numbers": (lambda: stated(inner_loss=numbered_loss), None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_product_that_is_right_is_known(name: str) -> None:
    build, expected = RIGHT[name]
    spec = job(hypergradient={"method": "stored", "hvp": "finite_difference"})
    tried = short(build(), spec)
    run, _ = tried.run(tried.tuner.initial_values())
    before = tried.tuner.objective.parameters.weights.clone()
    assert right_product(tried.tuner.objective, run.batch(0)) == expected
    assert torch.equal(tried.tuner.objective.parameters.weights, before)
    assert all(parameter.grad is None for parameter in tried.plain.model.parameters())


def plain_double_backward(
    inner: InnerObjective, batch: Batch, cotangent: Tensor, *rest: Any
) -> Derivatives:
    """What autograd gives where nobody looks after its graph."""
    tensors = inner.parameters.tensors
    loss = inner.batch_loss(batch, inner.values.arguments, {})
    gradients = torch.autograd.grad(loss, tensors, create_graph=True)
    parts = inner.parameters.parts(cotangent)
    leaves = inner.values.leaves()
    found = torch.autograd.grad(gradients, [*tensors, *leaves], parts, allow_unused=True)
    return Derivatives(found[: len(tensors)], found[len(tensors) :], ())


@pytest.mark.parametrize("name", ["a derivative that NumPy saved"])
def test_the_remedy_is_finite_differences_where_they_are_right(name: str) -> None:
    build, _ = RIGHT[name]
    spec = job(hypergradient={"method": "stored", "hvp": "finite_difference"})
    tried = with_product(short(build(), spec), plain_double_backward)
    finding = second_derivatives(tried, "exact", GROUPS)
    assert finding.result == "failed"
    assert "hypergradient: {hvp: finite_difference}" in str(finding.remedy)


@pytest.mark.parametrize("name", ["smooth", "a derivative that was saved", "detached targets"])
def test_finite_differences_pass_where_they_are_right(name: str) -> None:
    build, _ = RIGHT[name]
    spec = job(hypergradient={"method": "stored", "hvp": "finite_difference"})
    assert second_derivatives(short(build(), spec), "finite_difference", GROUPS).result == "passed"


def test_finite_differences_fail_where_the_jacobian_is_not_symmetric() -> None:
    spec = job(hypergradient={"method": "stored", "hvp": "finite_difference"})
    finding = second_derivatives(short(applied(Tilted), spec), "finite_difference", GROUPS)
    assert finding.result == "failed"
