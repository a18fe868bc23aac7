"""Ways to find the harmful training rows: each gives scores, the rows it keeps, and its cost.

Costs are in plain training runs of the problem, final training excluded. A gradient, a directional
derivative or a Gauss-Newton product of a row counts as a training step's share of a row.

[Ren2018] Learning to reweight examples for robust deep learning, 1803.09050.
[Northcutt2021] Confident learning: estimating uncertainty in dataset labels, 1911.00068.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from drmad_workers import (
    MetaConfig,
    MetaState,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    error_rate,
    tune,
)
from drmad_workers.attribution.attributor import Attributor
from experiments.gradient_scores import Losses, influence, tracin, weights_of
from experiments.weighted_training import Noisy, Pair, agrees, fresh, minibatches, trained

CHECKPOINTS = 10
SOLVED = 50
"""Products that influence functions take, at most."""
FOLDS = 5
REWEIGHTING_RATE = 0.3
"""Share of the learning rate at which one-step reweighting trains: with all of it it is worse."""
DAMPING = 0.1
"""Of influence functions; 0.001, 0.01 and 1 are worse. The seeds 10 and 11 chose both."""
WINDOW, ONLINE_RATE = 10, 0.3
"""Of the online run: inner steps between two updates, and the rate of the outer Adam."""
REFINED = 1.5
"""λ of the rows that the clean net agrees with, where the online run starts; -λ of the others."""


@dataclass(frozen=True)
class Found:
    """What a way finds.

    Attributes:
        scores: of every training row, shape (N,); the lower, the more harmful.
        weights: of every training row for the final training, shape (N,); 0 leaves it out.
        cost: in plain training runs.
        nets: where the way trains its net itself, nets of several draws; `cost` counts one.
    """

    scores: Tensor
    weights: Tensor
    cost: float
    nets: list[nn.Module] | None = None


Way = Callable[[Noisy, int, bool], Found]
"""(problem, seed, whether the clean rows may train) -> what it finds."""


def confidence(net: nn.Module, rows: Pair) -> Tensor:
    """The log-probability of each row's label."""
    with torch.no_grad():
        return -cross_entropy(net(rows[0]), rows[1], reduction="none")


def own_loss(problem: Noisy, seed: int, clean: bool) -> Found:
    """The loss of the net that all rows train; keeps the rows whose label it predicts."""
    every = torch.ones(problem.rows, dtype=torch.bool)
    net = trained(problem, problem.kept(every, clean), draw_of(seed, 0))
    return Found(confidence(net, problem.train), agrees(net, problem.train).float(), 1.0)


def filtered(problem: Noisy, seed: int, clean: bool, rounds: int = 1) -> Found:
    """Keeps the rows whose label a net predicts that the clean rows trained.

    In every further round the rows that were kept, and the clean ones if they may, train the net.
    """
    net = trained(problem, problem.clean, draw_of(seed, 0))
    for each in range(1, rounds):
        rows = problem.kept(agrees(net, problem.train), clean)
        net = trained(problem, rows, draw_of(seed, each))
    return Found(confidence(net, problem.train), agrees(net, problem.train).float(), float(rounds))


def cleanlab(problem: Noisy, seed: int, clean: bool) -> Found:
    """Confident learning [Northcutt2021] from nets that did not see the row."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    inputs, labels = problem.train
    order = torch.randperm(problem.rows, generator=torch.Generator().manual_seed(seed))
    outputs = []
    for fold, held in enumerate(order.chunk(FOLDS)):
        kept = torch.ones(problem.rows, dtype=torch.bool)
        kept[held] = False
        net = trained(problem, problem.kept(kept, clean), draw_of(seed, fold))
        with torch.no_grad():
            outputs.append(net(inputs[held]).softmax(-1).double())
    probabilities = np.empty((problem.rows, outputs[0].shape[1]))
    probabilities[order.numpy()] = torch.cat(outputs).numpy()
    issues = find_label_issues(labels.numpy(), probabilities, n_jobs=1)
    scores = get_label_quality_scores(labels.numpy(), probabilities)
    return Found(torch.from_numpy(scores), torch.from_numpy(~issues).float(), float(FOLDS))


def reweighted(problem: Noisy, seed: int, clean: bool, draws: int = 3) -> Found:
    """One-step online reweighting [Ren2018]: its own nets, and the mean weights of the rows.

    A step weighs a row by max(0, <∇ℓ_i, ∇f>) over its minibatch, with f the loss of a minibatch of
    clean rows: the derivative of f after one step of plain descent. If the clean rows may train,
    the loss of that minibatch is added to the loss of the step.
    """
    nets, sums = [], torch.zeros(problem.rows)
    visits = torch.full((problem.rows,), 1e-12)
    for draw in range(draws):
        net = fresh(problem, draw_of(seed, draw))
        losses = Losses(net, problem.train, problem.clean)
        rate = REWEIGHTING_RATE * problem.rate
        optimizer = torch.optim.SGD(net.parameters(), rate, problem.momentum)
        held = minibatches(len(problem.clean[1]), problem.batch, problem.steps)
        for batch in minibatches(problem.rows, problem.batch, problem.steps):
            rows = next(held)
            losses.valid = problem.clean[0][rows], problem.clean[1][rows]
            at = weights_of(net)
            weights = losses.along(at, grad(losses.validation)(at), batch).clamp_min(0.0)
            weights = weights / weights.sum().clamp_min(1e-12)
            if draw == 0:
                sums[batch] += weights * len(batch)
                visits[batch] += 1.0
            optimizer.zero_grad()
            outputs = net(problem.train[0][batch])
            labels = problem.train[1][batch]
            each = cross_entropy(outputs, labels, reduction="none")
            loss = (weights * each).sum()
            if clean:
                loss = loss + cross_entropy(net(losses.valid[0]), losses.valid[1])
            torch.autograd.backward(loss)
            optimizer.step()
        nets.append(net)
    mean = sums / visits
    return Found(mean, mean, 4.0 if clean else 3.0, nets)


def by_tracin(problem: Noisy, seed: int, clean: bool) -> Found:
    """TracIn over ten checkpoints of a run on all rows; keeps the rows that help."""
    checkpoints = []

    def after(step: int, net: nn.Module) -> None:
        if step % (problem.steps // CHECKPOINTS) == 0:
            checkpoints.append((weights_of(net), problem.rate))

    net = trained(problem, problem.train, draw_of(seed, 0), after=after)
    scores = -tracin(Losses(net, problem.train, problem.clean), checkpoints)
    rows = CHECKPOINTS * (problem.rows + len(problem.clean[1]))
    return Found(scores, (scores > 0).float(), 1.0 + rows / problem.row_steps)


def by_influence(problem: Noisy, seed: int, clean: bool, damping: float = DAMPING) -> Found:
    """Influence functions at the end of a run on all rows; keeps the rows that help."""
    net = trained(problem, problem.train, draw_of(seed, 0))
    losses = Losses(net, problem.train, problem.clean)
    scores = -influence(losses, weights_of(net), damping)
    rows = (SOLVED + 1) * problem.rows + len(problem.clean[1])
    return Found(scores, (scores > 0).float(), 1.0 + rows / problem.row_steps)


def attributed(
    problem: Noisy, seed: int, clean: bool, tenth: bool = False, draws: int = 1
) -> Found:
    """drmad's attribution to the loss of the clean rows; keeps the rows that help.

    Args:
        tenth: the shortcut over the last tenth of the steps, in the place of the exact method.
        draws: over which the scores are means.
    """
    method = Shortcut(horizon=problem.steps // 10) if tenth else Replay()
    attributor = Attributor(stated(problem), recipe(problem), method, seed=seed)
    found = [attributor.scores(draw) for draw in range(draws)]
    scores = torch.stack([each.influence[0] for each in found]).mean(0)
    return Found(scores, (scores > 0).float(), sum(each.cost for each in found))


def tuned(problem: Noisy, seed: int, clean: bool, iterations: int = 30) -> Found:
    """drmad's weights of examples, tuned by restarts with the shortcut over the last tenth."""
    result = tune(
        stated(problem),
        [SampleWeight()],
        recipe(problem),
        Shortcut(horizon=problem.steps // 10),
        MetaConfig("adam", 0.3, iterations, confirmation=0.0),
        seed=seed,
    )
    assert result.state is not None
    weights = result.best["sample_weight"].sigmoid().flatten()
    return Found(weights, (weights >= 0.5).float(), result.state.runs)


def online(problem: Noisy, seed: int, clean: bool, rounds: int = 0) -> Found:
    """drmad's weights of examples from one run whose weights move after every window.

    With rounds, the run starts at the agreement with the net of the clean rows, and rounds of the
    filter follow it.
    """
    first = filtered(problem, seed, clean) if rounds else None
    state = None
    if first is not None:
        started = REFINED * (2.0 * first.weights - 1.0)
        state = MetaState({"sample_weight": started})
    result = tune(
        stated(problem),
        [SampleWeight()],
        recipe(problem),
        Stored(),
        MetaConfig(
            "adam",
            ONLINE_RATE if first is None else ONLINE_RATE / 3.0,
            mode="online",
            window=WINDOW,
        ),
        seed=seed,
        state=state,
    )
    assert result.state is not None
    weights = result.best["sample_weight"].sigmoid().flatten()
    found = Found(weights, (weights >= 0.5).float(), result.state.runs)
    if first is None:
        return found
    scores, kept = weights, weights >= 0.5
    for each in range(rounds):
        net = trained(problem, problem.kept(kept, clean), draw_of(seed, 1 + each))
        scores, kept = confidence(net, problem.train), agrees(net, problem.train)
    return Found(scores, kept.float(), first.cost + found.cost + rounds)


def stated(problem: Noisy) -> Problem:
    """The problem for the engine; the clean rows validate."""
    return Problem(
        copy.deepcopy(problem.net),
        problem.train,
        problem.clean,
        problem.test,
        metrics={"error": error_rate},
        initialize="reset",
    )


def recipe(problem: Noisy) -> TrainingConfig:
    return TrainingConfig("sgd", problem.steps, problem.batch, problem.rate, problem.momentum)


def draw_of(seed: int, number: int) -> int:
    """The draw of a way's training run; those of the final trainings are above."""
    return 1000 * seed + number


WAYS: dict[str, Way] = {
    "own loss": own_loss,
    "filter": filtered,
    "filter, 6 rounds": partial(filtered, rounds=6),
    "cleanlab": cleanlab,
    "reweighting": reweighted,
    "TracIn": by_tracin,
    "influence": by_influence,
    "exact": attributed,
    "exact, 4 draws": partial(attributed, draws=4),
    "last tenth": partial(attributed, tenth=True),
    "online": online,
    "tuned": tuned,
    "online, then filter": partial(online, rounds=5),
}
"""By the name that an arm has."""
