"""Random numbers of the user's code: one seed gives one result, in every process."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Batch, Problem
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    WIDTH,
    class_weighted,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_right, assert_right_or_refused


class Noisy(nn.Module):
    """Scales the inputs in training by numbers that it draws."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.net, self.draw = perceptron(), draw

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            inputs = inputs * self.draw(len(inputs))[:, None].to(inputs)
        outputs: Tensor = self.net(inputs)
        return outputs


def by_numpy(rows: int) -> Tensor:
    return torch.from_numpy(np.random.uniform(0.5, 1.5, rows))


def by_random(rows: int) -> Tensor:
    return torch.tensor([random.gauss(1.0, 0.3) for _ in range(rows)])


def by_torch(rows: int) -> Tensor:
    return 1.0 + 0.3 * torch.randn(rows, dtype=torch.float64)


def by_all(rows: int) -> Tensor:
    return by_numpy(rows) * by_random(rows) * by_torch(rows)


class Depth(nn.Module):
    """Leaves out its middle layer now and then, by a number of Python (stochastic depth)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        kept = 1.0 if not self.training or random.random() < 0.6 else 0.0
        outputs: Tensor = self.last(hidden + kept * torch.tanh(self.middle(hidden)))
        return outputs


def mixed_up(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Mixup: pairs of rows in a drawn share."""
    share, order = np.random.beta(2.0, 2.0), torch.randperm(len(batch.inputs))
    outputs = forward(share * batch.inputs + (1 - share) * batch.inputs[order])
    one, other = (each_loss(outputs, each) for each in (batch.targets, batch.targets[order]))
    return (tuned["h"][batch.targets] * (share * one + (1 - share) * other)).mean()


DRAWN: dict[str, Callable[[], Problem]] = {
    "numpy": lambda: problem_of(Noisy(by_numpy)),
    "random": lambda: problem_of(Noisy(by_random)),
    "torch": lambda: problem_of(Noisy(by_torch)),
    "all three": lambda: problem_of(Noisy(by_all)),
    "stochastic depth": lambda: problem_of(Depth()),
    "mixup in the loss": lambda: problem_of(perceptron(), mixed_up),
    "dropout": lambda: problem_of(nn.Sequential(nn.Dropout(0.3), perceptron())),
}


@pytest.mark.parametrize("name", DRAWN)
def test_global_generators_are_seeded_for_every_step(name: str) -> None:
    assert_right(recipe_of(DRAWN[name]), EXACT)


def drawn_by_numpy(model: nn.Module) -> None:
    for parameter in model.parameters():
        values = np.random.normal(0.0, 0.4, tuple(parameter.shape))
        parameter.copy_(torch.from_numpy(values))


def test_initial_weights_are_drawn_under_the_seed() -> None:
    assert_right(recipe_of(lambda: problem_of(perceptron(), initialize=drawn_by_numpy)), EXACT[:1])


def in_an_attribute() -> Problem:
    model = Noisy(by_torch)
    generator = torch.Generator().manual_seed(3)
    model.generator = generator  # type: ignore[assignment]
    model.draw = lambda rows: 1.0 + 0.3 * torch.randn(rows, generator=generator)
    return problem_of(model)


def in_a_closure() -> Problem:
    generator = np.random.default_rng(3)

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        noise = torch.from_numpy(generator.normal(size=tuple(batch.inputs.shape)))
        noisy = batch.with_inputs(batch.inputs + 0.2 * noise)
        return class_weighted(forward, tuned, noisy)

    return problem_of(perceptron(), loss)


def by_the_global_one() -> Problem:
    return problem_of(Noisy(by_torch))


@pytest.mark.parametrize("build", [in_an_attribute, in_a_closure])
def test_a_generator_of_ones_own_is_refused(build: Callable[[], Problem]) -> None:
    refusal = Refusal(("model", "problem.inner_loss"), "generator", by_the_global_one)
    assert_right_or_refused(recipe_of(build), EXACT, refusal)


MODULE = """
import random
import numpy as np
import torch
from torch import nn
from drmad_workers import Problem

X = torch.randn(60, 6)
Y = torch.from_numpy(np.random.randint(0, 3, 60))


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return X[row] + 0.1 * torch.randn(6) + random.random() + np.random.rand(), Y[row]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(8))
        self.scale = random.uniform(0.5, 1.5)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        return self.last(self.scale * torch.tanh(self.first(inputs) + self.token))


def build():
    return Problem(model=Net(), train=(X, Y), valid=(X, Y), initialize="reset")


def drawn_items():
    return Problem(model=Net(), train=Noise(), valid=Noise(), initialize="reset")
"""
EVALUATE = """
import hashlib, json, sys
from pathlib import Path
import torch
from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter

for fields in json.loads(sys.argv[1]):
    tuner = spec_adapter.tuner(JobSpec.model_validate(fields), code=Path(sys.argv[2]))
    found = tuner.evaluate(tuner.initial_values(), 0)
    digest = hashlib.sha256()
    for tensor in [*found.hypergradient.values(), *found.model.values()]:
        digest.update(tensor.numpy().tobytes())
    print(digest.hexdigest(), found.validation_loss)
"""


@pytest.mark.full
def test_two_processes_with_one_seed_have_the_same_bits(tmp_path: Path) -> None:
    """Module, build() and items draw from global generators that nobody has seeded."""
    (tmp_path / "my_problem.py").write_text(MODULE)

    def run(seed: int) -> list[str]:
        specs = [
            {
                "name": "case",
                "seed": seed,
                "problem": {
                    "entrypoint": f"my_problem:{entrypoint}",
                    "code": "sha256:" + "0" * 64,
                },
                "hyperparameters": [{"kind": "l2", "per": "layer", "init": -6}],
                "training": {
                    "optimizer": "sgd",
                    "steps": 5,
                    "batch_size": 20,
                    "learning_rate": 0.1,
                },
                "hypergradient": {"method": "stored"},
            }
            for entrypoint in ("build", "drawn_items")
        ]
        command = [sys.executable, "-c", EVALUATE, json.dumps(specs), str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    first, again, other = run(0), run(0), run(1)
    assert first == again
    assert not {*first} & {*other}
