"""Two processes, one job and one seed: the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest

OWN = '''
import random
import numpy as np
import torch
from torch import nn
from drmad_workers import Problem

x = torch.randn(90, 6)
y = torch.randint(3, (90,))


class Rows(torch.utils.data.Dataset):
    """Inputs with noise that is drawn when a row is read."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, row):
        noise = torch.from_numpy(np.random.normal(size=6)).float() * random.random()
        return x[self.first + row] + 0.1 * noise, y[self.first + row]


class Net(nn.Module):
    """No module resets the token; the forward pass draws from NumPy."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(8) * random.uniform(0.5, 2.0))
        self.scale = nn.Parameter(torch.from_numpy(np.random.normal(size=8)).float())
        self.first, self.drop, self.last = nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = torch.tanh(self.scale * self.first(inputs) + self.token)
        if self.training:
            hidden = hidden * float(np.random.uniform(0.9, 1.1))
        return self.last(self.drop(hidden))


def build():
    return Problem(Net(), Rows(0, 60), Rows(60, 90), initialize="reset")


def given():
    return Problem(Net(), Rows(0, 60), Rows(60, 90))
'''


@pytest.mark.full
def test_two_processes_compute_the_same_bits(tmp_path: Path) -> None:
    """Catalog models, examples, and code whose weights, data and losses draw random numbers."""
    (tmp_path / "own_problem.py").write_text(OWN)
    printed = []
    for other_seed in ("0", "1"):
        command = [sys.executable, "-m", "tests.workers.one_seed", other_seed, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0] == printed[1]
    assert len({line.split()[-1] for line in printed[0]}) == len(printed[0])
    examples = [line for line in printed[0] if "/job.yaml" in line]
    assert len(examples) == len([*(Path(__file__).parents[2] / "examples").glob("*/job.yaml")]) >= 4
    assert len(printed[0]) >= 6
