"""The same training as a PyTorch user writes it; also what the other libraries unroll."""

import torch
from torch import Tensor, nn

from drmad_workers import L2, Replay, Tuner
from drmad_workers.catalog import build_problem
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.random_streams import WEIGHTS, seed_of
from hypergradient_costs.mnist_mlp import ALPHA, GAMMA, PENALTY, problem_of, training_of


class Plain:
    """The MLP from the tuner's own first weights, on its minibatches."""

    def __init__(self, steps: int, device: torch.device) -> None:
        problem = problem_of()
        self.steps, self.device = steps, device
        tuner = Tuner(problem, [L2(per="unit", init=PENALTY)], training_of(steps), Replay())
        tuner.objective.parameters.attach()
        tuner.objective.set_hyperparameters(tuner.initial_values())
        with torch.random.fork_rng(devices=[]):
            initialize(tuner.objective, seed_of(WEIGHTS, 0, 0, 0))
        parameters = tuner.objective.parameters
        first = parameters.parts(parameters.weights.clone())
        model = build_problem({"name": "mlp", "hidden": [50, 50, 50]}, {"name": "digits"}).model
        assert isinstance(model, nn.Sequential)
        model[0] = nn.Linear(784, 50)
        self.model = model.to(device)
        self.first = [part.to(device) for part in first]
        train = Examples(problem.train, "train", device, torch.float32)
        self.valid = Examples(problem.valid, "valid", device, torch.float32)
        self._minibatches = Minibatches(train, 50, (0, 0, 0))
        self.raw = torch.full((934,), PENALTY, device=device)
        self.restore()

    def restore(self) -> None:
        with torch.no_grad():
            for parameter, first in zip(self.model.parameters(), self.first, strict=True):
                parameter.copy_(first)

    def loss(self, model: nn.Module, step: int, raw: Tensor) -> Tensor:
        batch = self._minibatches.join(step)
        total = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        parts = torch.split(raw.exp(), [matrix.shape[1] for matrix in matrices])
        for matrix, penalties in zip(matrices, parts, strict=True):
            total = total + (matrix.square() * penalties).sum()
        return total

    def outer(self, model: nn.Module) -> Tensor:
        batch = self.valid.chunk(0, self.valid.rows)
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def train(self) -> None:
        self.restore()
        rate = ALPHA * (1.0 - GAMMA)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=GAMMA)
        for step in range(self.steps):
            loss = self.loss(self.model, step, self.raw)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def train_by_hand(self) -> None:
        """As `train`, but the penalties' gradients are written out, as few users do."""
        self.restore()
        rate = ALPHA * (1.0 - GAMMA)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=GAMMA)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        sizes = [matrix.shape[1] for matrix in matrices]
        factors = torch.split(2.0 * self.raw.exp(), sizes)
        for step in range(self.steps):
            batch = self._minibatches.join(step)
            outputs = self.model(batch.inputs)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(outputs, batch.targets))
            with torch.no_grad():
                for matrix, factor in zip(matrices, factors, strict=True):
                    assert matrix.grad is not None
                    matrix.grad.addcmul_(matrix, factor)
            optimizer.step()
