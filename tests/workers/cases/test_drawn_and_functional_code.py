"""Samples with and without a gradient, functions of functions, and graphs of several sizes."""

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional
from torch.utils.data import Dataset

from drmad_workers import L2, Batch, Problem, Replay, SampleWeight, Stored
from tests.workers.cases.small import (
    CLASSES,
    FEATURES,
    INPUTS,
    TARGETS,
    TRAINING,
    WIDTH,
    Loss,
    class_weighted,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import assert_right

SHORT = replace(TRAINING, steps=8)
METHODS = (Stored(), Replay())


class Hidden(nn.Module):
    """A network whose hidden values are drawn in training."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        outputs: Tensor = self.last(self.draw(hidden) if self.training else hidden.softmax(1))
        return outputs


def straight_through(hidden: Tensor) -> Tensor:
    shares = torch.sigmoid(hidden)
    return torch.bernoulli(shares) + shares - shares.detach()


class Posterior(nn.Module):
    """A Gaussian for every row, from which training draws."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 2 * WIDTH), nn.Linear(WIDTH, CLASSES)
        self.apart = torch.zeros(())

    def forward(self, inputs: Tensor) -> Tensor:
        mean, width = self.first(inputs).chunk(2, 1)
        found = Normal(mean, (0.3 * width).exp())
        prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        self.apart = kl_divergence(found, prior).sum(1).mean()
        sample = found.rsample() if self.training else mean
        outputs: Tensor = self.last(torch.tanh(sample))
        return outputs


def bounded(forward: Posterior, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    return class_weighted(forward, tuned, batch) + 0.1 * forward.apart


def rewarded(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The gradient of an expected reward by sampled actions."""
    outputs = forward(batch.inputs)
    policy = Categorical(logits=outputs)
    action = policy.sample()  # type: ignore[no-untyped-call]
    reward = (action == batch.targets).to(outputs) * tuned["h"][batch.targets]
    likely = policy.log_prob(action)  # type: ignore[no-untyped-call]
    gain: Tensor = (likely * (reward - reward.mean()).detach()).mean()
    return 0.3 * each_loss(outputs, batch.targets).mean() - gain


def mixed(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Mixup, whose share is drawn by NumPy and whose partner by Python."""
    share, shift = float(np.random.beta(0.4, 0.4)), random.randrange(1, 5)
    other = batch.targets.roll(shift)
    outputs = forward(share * batch.inputs + (1 - share) * batch.inputs.roll(shift, 0))
    losses = share * each_loss(outputs, batch.targets) + (1 - share) * each_loss(outputs, other)
    return (tuned["h"][batch.targets] * losses).mean()


class Produced(nn.Module):
    """The weights of the last layer are outputs of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES * CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.first(inputs.mean(0)).view(CLASSES, FEATURES))


class Ensemble(nn.Module):
    """Three networks side by side, by vmap of functional_call."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(perceptron() for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        each = [dict(net.named_parameters()) for net in self.nets]
        stacked = {name: torch.stack([own[name] for own in each]) for name in each[0]}

        def outputs(own: dict[str, Tensor]) -> Tensor:
            found: Tensor = torch.func.functional_call(self.nets[0], own, (inputs,))
            return found

        return torch.func.vmap(outputs)(stacked).mean(0)


class Followed(nn.Module):
    """A teacher that takes the weights over in every third step, by load_state_dict."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.teacher = deepcopy(self.net).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            if int(self.steps) % 3 == 0:
                self.teacher.load_state_dict(self.net.state_dict())
        outputs: Tensor = self.net(inputs)
        return outputs


def taught(forward: Followed, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs = forward(batch.inputs)
    with torch.no_grad():
        wanted = forward.teacher(batch.inputs)
    distance: Tensor = (outputs - wanted).square().mean(0)
    return each_loss(outputs, batch.targets).mean() + (tuned["h"] * distance).sum()


def sharpened(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The loss at the weights that a step uphill reaches (2010.01412)."""
    weights: dict[str, Tensor] = dict(forward.named_parameters())
    loss = class_weighted(forward, tuned, batch)
    slopes = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    length = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
    uphill = {n: w + 0.05 * s / length for (n, w), s in zip(weights.items(), slopes, strict=True)}
    outputs = torch.func.functional_call(forward, uphill, (batch.inputs,))
    losses = each_loss(outputs, batch.targets)
    return (losses * tuned["h"][batch.targets]).mean()


CODE: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "categories drawn with a gradient": (
        lambda: Hidden(lambda hidden: functional.gumbel_softmax(hidden, hard=True)),
        class_weighted,
    ),
    "bits straight through": (lambda: Hidden(straight_through), class_weighted),
    "variational": (Posterior, bounded),
    "policy gradient": (perceptron, rewarded),
    "mixup": (perceptron, mixed),
    "produced weights": (Produced, class_weighted),
    "ensemble by vmap": (Ensemble, class_weighted),
    "teacher by load_state_dict": (Followed, taught),
    "sharpness-aware": (perceptron, sharpened),
}


@pytest.mark.parametrize("name", CODE)
def test_it_is_exact_as_it_is(name: str) -> None:
    model, loss = CODE[name]
    assert_right(recipe_of(lambda: problem_of(model(), loss), training=SHORT), METHODS)


class Graphs(Dataset[Any]):
    """Rings of three to five nodes."""

    def __init__(self, rows: range) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        nodes = 3 + row % 3
        ring = torch.arange(nodes)
        edges = torch.stack([ring, ring.roll(-1)])
        return {"nodes": INPUTS[row, :nodes, None].clone(), "edges": edges, "y": TARGETS[row]}


def side_by_side(items: list[dict[str, Any]]) -> dict[str, Any]:
    """One graph of several, whose nodes know the row that they belong to."""
    sizes = torch.tensor([len(item["nodes"]) for item in items])
    starts = (sizes.cumsum(0) - sizes).tolist()
    edges = [item["edges"] + start for item, start in zip(items, starts, strict=True)]
    return {
        "nodes": torch.cat([item["nodes"] for item in items]),
        "edges": torch.cat(edges, 1),
        "row_of": torch.repeat_interleave(torch.arange(len(items)), sizes),
        "rows": len(items),
        "y": torch.stack([item["y"] for item in items]),
    }


class Messages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.message = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor, row_of: Tensor, rows: int) -> Tensor:
        hidden = torch.tanh(self.first(nodes))
        sent = self.message(hidden)[edges[0]]
        hidden = hidden + torch.zeros_like(hidden).index_add(0, edges[1], sent)
        summed = hidden.new_zeros(rows, WIDTH).index_add(0, row_of, hidden)
        outputs: Tensor = self.last(summed)
        return outputs


def test_graphs_of_several_sizes() -> None:
    def build() -> Problem:
        return Problem(
            Messages(),
            Graphs(range(60)),
            Graphs(range(60, 100)),
            collate_fn=side_by_side,
            loss=lambda outputs, content: each_loss(outputs, content["y"]),
            initialize="reset",
        )

    kinds = (SampleWeight(), L2(per="layer", init=-4.0))
    assert_right(recipe_of(build, kinds, SHORT), METHODS)
