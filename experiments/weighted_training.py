"""Noisy classification in plain PyTorch: a net trained on some rows, each with a weight.

It takes from the engine the data and the net, and nothing of its training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drmad_workers import error_rate
from drmad_workers.catalog import Places, build_problem, load_data
from experiments.opponents import data_roots
from experiments.tasks import Spec

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Noisy:
    """Training rows of which some have a wrong label, and clean validation and test rows.

    Attributes:
        train, clean, test: (inputs, labels).
        wrong: whether the label of a training row is wrong, shape (N,), bool.
        net: of the classes' logits; every training resets its weights.
        steps, batch: of a training run.
        rate, momentum: of torch.optim.SGD.
    """

    train: Pair
    clean: Pair
    test: Pair
    wrong: Tensor
    net: nn.Module
    steps: int
    batch: int
    rate: float
    momentum: float

    @property
    def rows(self) -> int:
        return len(self.wrong)

    @property
    def row_steps(self) -> int:
        """The rows of all steps of a training run, of which each costs one gradient."""
        return self.steps * self.batch

    def kept(self, kept: Tensor, clean: bool) -> Pair:
        """The kept training rows, with `clean` followed by the clean rows."""
        inputs, labels = self.train[0][kept], self.train[1][kept]
        if not clean:
            return inputs, labels
        return torch.cat([inputs, self.clean[0]]), torch.cat([labels, self.clean[1]])


def noisy(spec: Spec) -> Noisy:
    """The problem of a job on a catalogued data set with label noise.

    v' = γ v - (1 - γ) g and w' = w + α v' are the updates of torch's SGD at the rate (1 - γ) α.
    """
    data, training = dict(spec["problem"]["data"]), spec["training"]
    places = Places(data_roots())
    problem = build_problem(spec["problem"]["model"], data, places=places)
    split = load_data(data.pop("name"), data, places)
    assert split.wrong is not None
    assert split.test is not None
    momentum, damped = training["momentum"], training["optimizer"] == "damped_sgd"
    return Noisy(
        split.train,
        split.valid,
        split.test,
        split.wrong,
        problem.model,
        training["steps"],
        training["batch_size"],
        training["learning_rate"] * (1.0 - momentum if damped else 1.0),
        momentum,
    )


def fresh(problem: Noisy, draw: int) -> nn.Module:
    """The net with weights of its own, as its layers draw them."""
    torch.manual_seed(draw)
    net = copy.deepcopy(problem.net)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
    return net


def minibatches(rows: int, size: int, steps: int) -> Iterator[Tensor]:
    """Shuffled epochs without incomplete minibatches."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(rows)
        yield order[:size]
        order = order[size:]


def trained(
    problem: Noisy,
    rows: Pair,
    draw: int,
    weights: Tensor | None = None,
    after: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """One training run on these rows.

    Args:
        draw: seeds the weights and the minibatches.
        weights: of each row's loss; None for one.
        after: called with the number of steps done and the net.
    """
    net = fresh(problem, draw)
    optimizer = torch.optim.SGD(net.parameters(), problem.rate, problem.momentum)
    inputs, labels = rows
    size = min(problem.batch, len(labels))
    for step, batch in enumerate(minibatches(len(labels), size, problem.steps)):
        optimizer.zero_grad()
        losses = cross_entropy(net(inputs[batch]), labels[batch], reduction="none")
        weighted = losses if weights is None else losses * weights[batch]
        torch.autograd.backward(weighted.mean())
        optimizer.step()
        if after is not None:
            after(step + 1, net)
    return net


def agrees(net: nn.Module, rows: Pair) -> Tensor:
    """Whether the net predicts each row's label."""
    with torch.no_grad():
        predicted: Tensor = net(rows[0]).argmax(-1)
    return predicted == rows[1]


def figures(problem: Noisy, net: nn.Module) -> dict[str, float]:
    """Loss and error on the clean rows and on the test rows."""
    found = {}
    with torch.no_grad():
        for name, (inputs, labels) in (("validation", problem.clean), ("test", problem.test)):
            outputs = net(inputs)
            found[f"{name}_loss"] = float(cross_entropy(outputs, labels))
            found[f"{name}_error"] = float(error_rate(outputs, labels))
    return found
