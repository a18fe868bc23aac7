"""Python code between the operations: what it decides anew in every step is no constant."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from drmad_workers import Batch, Problem, Stored, TrainingConfig, Tuner
from drmad_workers.numerics import Precision
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    INPUTS,
    WIDTH,
    H,
    class_weighted,
    each_loss,
    padded,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_right, assert_right_or_refused


class Ragged(nn.Module):
    """Averages what each row has, by lengths that Python reads."""

    def __init__(self, read: Callable[[Tensor], list[int]]) -> None:
        super().__init__()
        self.read = read
        self.first, self.last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        rows, lengths = inputs[:, :FEATURES], self.read(inputs[:, FEATURES].long())
        pieces = [
            torch.tanh(self.first(row[:length, None])).mean(0)
            for row, length in zip(rows, lengths, strict=True)
        ]
        outputs: Tensor = self.last(torch.stack(pieces))
        return outputs


class Packed(nn.Module):
    """A recurrent net over packed sequences of different lengths."""

    def __init__(self, recurrent: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = recurrent(1, WIDTH, batch_first=True)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        sequences, lengths = inputs[:, :FEATURES, None], inputs[:, FEATURES].long()
        packed = pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(packed)
        hidden = last[0] if isinstance(last, tuple) else last
        outputs: Tensor = self.last(hidden[0])
        return outputs


class Unpacked(nn.Module):
    """A recurrent net over sequences of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(1, WIDTH, batch_first=True)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.recurrent(inputs[:, :, None])
        outputs: Tensor = self.last(hidden[:, -1])
        return outputs


class Longest(nn.Module):
    """Reads as far as the longest row of the minibatch."""

    def __init__(self, read: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.read = read
        self.first, self.last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.read(inputs[:, FEATURES].long().min())
        hidden = torch.tanh(self.first(inputs[:, :first, None])).sum(1)
        outputs: Tensor = self.last(hidden)
        return outputs


READ: dict[str, Callable[[], nn.Module]] = {
    "tolist": lambda: Ragged(lambda lengths: lengths.tolist()),
    "numpy": lambda: Ragged(lambda lengths: [int(each) for each in lengths.numpy()]),
    "iteration": lambda: Ragged(lambda lengths: [int(each) for each in lengths]),
    "item": lambda: Longest(lambda length: int(length.item())),
    "int": lambda: Longest(int),
    "index": lambda: Longest(lambda length: range(FEATURES + 1)[length]),
    "numpy scalar": lambda: Longest(lambda length: int(length.numpy())),
    "packed GRU": lambda: Packed(nn.GRU),
    "packed LSTM": lambda: Packed(nn.LSTM),
}


@pytest.mark.parametrize("name", READ)
def test_numbers_of_the_batch_are_read_in_every_step(name: str) -> None:
    recipe = recipe_of(lambda: problem_of(READ[name](), inputs=padded()))
    assert_right(recipe, EXACT)


class Features(nn.Module):
    """Random features that every training run draws anew, in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, CLASSES)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.directions = torch.randn(FEATURES, WIDTH, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(torch.tanh(inputs @ self.directions))
        return outputs


class Anchored(nn.Sequential):
    """Keeps its initial weights in an attribute, and is pulled towards them (L2-SP)."""

    start: list[Tensor]


def keep_start(model: nn.Module) -> None:
    assert isinstance(model, Anchored)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    model.start = [each.detach().clone() for each in model.parameters()]


def anchored_loss(forward: Anchored, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    fit = each_loss(forward(batch.inputs), batch.targets).mean()
    pairs = zip(forward.parameters(), forward.start, strict=True)
    distances = torch.stack([(one - other).square().sum() for one, other in pairs])
    return fit + 0.1 * tuned["h"].sum() * distances.sum()


def anchored() -> Problem:
    return problem_of(Anchored(*perceptron()), anchored_loss, initialize=keep_start)


def anchored_from_the_beginning() -> Problem:
    problem = anchored()
    keep_start(problem.model)
    return problem


def rebound_in_a_closure() -> Problem:
    """`initialize` draws the prior of the loss, which the loss finds in a closure."""
    prior = [torch.zeros(CLASSES, dtype=torch.float64)]

    def draw(model: nn.Module) -> None:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        prior[0] = torch.randn(CLASSES, dtype=torch.float64)

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        losses = each_loss(forward(batch.inputs) + prior[0], batch.targets)
        return (losses * tuned["h"][batch.targets]).mean()

    return problem_of(perceptron(), loss, initialize=draw)


def mean_of_the_step() -> Problem:
    """The loss keeps a tensor of the present minibatch where the model reads it."""

    class Shifted(nn.Module):
        mean = torch.zeros(FEATURES, dtype=torch.float64)

        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron()

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.net(inputs - self.mean if self.training else inputs)
            return outputs

    def loss(forward: Shifted, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        forward.mean = batch.inputs.mean(0)
        return class_weighted(forward, tuned, batch)

    return problem_of(Shifted(), loss)


def by_index() -> Problem:
    """Tensors of the problem are read by the numbers of the rows."""
    strength = INPUTS[:60].norm(dim=1)

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        losses = each_loss(forward(batch.inputs), batch.targets)
        weights = torch.stack([strength[int(row)] for row in batch.index])
        return (losses * weights * tuned["h"][batch.targets]).mean()

    return problem_of(perceptron(), loss)


REBOUND: dict[str, Callable[[], Problem]] = {
    "random features": lambda: problem_of(Features()),
    "initial weights in an attribute": anchored_from_the_beginning,
    "initial weights in an attribute of initialize": anchored,
    "tensor in a closure": rebound_in_a_closure,
    "tensor of the step in an attribute": mean_of_the_step,
    "rows read by their numbers": by_index,
}


@pytest.mark.parametrize("name", REBOUND)
def test_tensors_that_are_bound_anew_are_read_anew(name: str) -> None:
    assert_right(recipe_of(REBOUND[name]), EXACT, draws=(0, 1))


PERIOD = 10
GLOBAL = {"calls": 0}


class Attribute(nn.Module):
    """Counts the calls in training in an attribute: every tenth step is regularized."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = perceptron(), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += self.training
        scale = 0.2 if self.calls % PERIOD == 0 else 1.0
        outputs: Tensor = scale * self.net(inputs)
        return outputs


def counted(count: Callable[[], int]) -> Problem:
    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        scale = 0.2 if count() % PERIOD == 0 else 1.0
        return scale * class_weighted(forward, tuned, batch)

    return problem_of(perceptron(), loss)


def in_a_global() -> Problem:
    GLOBAL["calls"] = 0

    def count() -> int:
        GLOBAL["calls"] += 1
        return GLOBAL["calls"]

    return counted(count)


def in_a_closure() -> Problem:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return counted(count)


COUNTERS: dict[str, Callable[[], Problem]] = {
    "attribute": lambda: problem_of(Attribute()),
    "global": in_a_global,
    "closure": in_a_closure,
}


@pytest.mark.parametrize("name", COUNTERS)
def test_what_python_counts_is_right_or_refused(name: str) -> None:
    """A backward pass evaluates a step again, when the counter is elsewhere."""
    refusal = Refusal(("model", "problem.inner_loss"), "buffer|repeat|differ|again")
    assert_right_or_refused(recipe_of(COUNTERS[name]), EXACT, refusal)


PRECISIONS: tuple[Precision, ...] = ("float32", "float64")


def test_the_fused_lstm_of_float32_is_differentiated_as_that_of_float64() -> None:
    found = []
    for precision in PRECISIONS:
        torch.manual_seed(0)
        training = TrainingConfig("adam", steps=12, batch_size=10, precision=precision)
        problem = problem_of(Unpacked(), initialize=None)
        tuner = Tuner(problem, H, training, Stored())
        found.append(tuner.evaluate(tuner.initial_values(), 0).hypergradient["h"].double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-8)
