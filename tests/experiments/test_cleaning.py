"""The ways to find wrong labels do what their papers say, and find some."""

from __future__ import annotations

import pytest
import torch
from experiments.cleaning import Cleaned, clean
from experiments.gradient_scores import Losses, Weights, influence, weights_of
from experiments.row_scores import WAYS, reweighted
from experiments.tasks import changed
from experiments.weighted_training import Noisy, noisy
from experiments.wrong_labels.experiment import CLEANING, stated
from torch import nn
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""torch's own, when it differentiates forward."""

SMALL = changed(
    stated("40 %", 3),
    problem={"data": {"train": 300, "valid": 100}},
    training={"steps": 60},
)


@pytest.fixture(scope="module")
def problem() -> Noisy:
    return noisy(SMALL)


@pytest.fixture
def losses() -> Losses:
    """Twelve rows of a net that is small enough for dense matrices, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    pairs = [
        (torch.randn(rows, 3, dtype=torch.float64), torch.randint(0, 3, (rows,)))
        for rows in (12, 7)
    ]
    return Losses(net, pairs[0], pairs[1])


@pytest.fixture
def weights(losses: Losses) -> Weights:
    return weights_of(losses.net)


def test_derivatives_along_a_direction_are_central_differences(
    losses: Losses, weights: Weights
) -> None:
    direction = {name: torch.randn_like(part) for name, part in weights.items()}
    inputs, labels = losses.train

    def each(step: float) -> torch.Tensor:
        moved = {name: part + step * direction[name] for name, part in weights.items()}
        return cross_entropy(losses.outputs(moved, inputs), labels, reduction="none")

    differences = (each(1e-5) - each(-1e-5)) / 2e-5
    found = losses.along(weights, direction)
    torch.testing.assert_close(found, differences, rtol=1e-6, atol=1e-8)


def test_influence_is_that_of_the_dense_gauss_newton_matrix(
    losses: Losses, weights: Weights
) -> None:
    names = list(weights)
    sizes = [weights[name].numel() for name in names]

    def unflat(vector: torch.Tensor) -> Weights:
        parts = vector.split_with_sizes(sizes)
        return {n: part.view(weights[n].shape) for n, part in zip(names, parts, strict=True)}

    flat = torch.cat([weights[name].flatten() for name in names])
    inputs, labels = losses.train

    def outputs(vector: torch.Tensor) -> torch.Tensor:
        return losses.outputs(unflat(vector), inputs)

    jacobian = torch.func.jacrev(outputs)(flat)  # (rows, classes, P)
    chances = outputs(flat).softmax(-1)
    curvature = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None, :]
    matrix = torch.einsum("ncp,ncd,ndq->pq", jacobian, curvature, jacobian) / len(labels)
    by_outputs = chances - torch.nn.functional.one_hot(labels, 3)
    rows = torch.einsum("nc,ncp->np", by_outputs, jacobian)
    at = flat.clone().requires_grad_()
    (right,) = torch.autograd.grad(losses.validation(unflat(at)), at)
    damped = matrix + 0.1 * torch.eye(len(flat), dtype=torch.float64)
    expected = -rows @ torch.linalg.solve(damped, right)
    found = influence(losses, weights, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("way", ["filter", "filter, 6 rounds", "cleanlab", "influence"])
def test_a_way_keeps_fewer_wrong_labels_than_chance(problem: Noisy, way: str) -> None:
    found = WAYS[way](problem, 0, True)
    kept = found.weights > 0
    share = float(problem.wrong.double().mean())
    assert float(problem.wrong[kept].double().mean()) < 0.5 * share
    assert kept.sum() > 0.5 * (~problem.wrong).sum()


def test_reweighting_gives_wrong_labels_less_weight(problem: Noisy) -> None:
    found = reweighted(problem, 0, False, draws=1)
    assert found.weights[problem.wrong].mean() < 0.7 * found.weights[~problem.wrong].mean()


def test_a_final_training_counts_one_run_and_its_figures_are_those_of_the_test_rows() -> None:
    task = Cleaned("40 %", "filter", 0, SMALL, way="filter")
    result = clean(task)
    assert result.cost == 2.0
    assert 0.0 < result.at_best("test_error") < 0.4
    assert result.at_best("label_noise_auc") > 0.8
    figures = result.figures
    assert (
        figures["kept"]
        == 300 - int(noisy(SMALL).wrong.sum()) + figures["wrong_kept"] - figures["right_dropped"]
    )


def test_every_way_of_the_table_is_known() -> None:
    assert set(CLEANING) <= set(WAYS)
