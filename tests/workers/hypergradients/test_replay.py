"""Replay with and without the graphs of its segments, on models that carry more than weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, LearningRate, Replay, SampleWeight, Stored, TrainingConfig
from drmad_workers.hypergradients import replay
from drmad_workers.hypergradients.replay import graphs_fit
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.autograd.graph_memory import graph_bytes
from drmad_workers.objective.inner import InnerObjective
from drmad_workers.problem import Batch
from drmad_workers.training.progress import Monitor
from tests.workers.small import CLASSES, largest_difference, shaken, small_problem, tuner_of

TRAINING = TrainingConfig("damped_sgd", steps=23, batch_size=6, learning_rate=0.4, momentum=0.8)


class Listed(nn.Module):
    """Computes with a parameter that it also holds in a list, past the module's attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, CLASSES))
        self.held = [self.matrix]

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.held[0]) @ torch.eye(CLASSES, dtype=inputs.dtype)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.there, self.back, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.back.weight = self.there.weight

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.back(torch.tanh(self.there(inputs)))))
        return out


class Reading(nn.Module):
    """Reads a value into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs)
        return out if float(inputs.sum()) > 1e9 else torch.tanh(out)


def model_named(name: str) -> nn.Module:
    if name == "listed":
        return Listed()
    if name == "tied":
        return Tied()
    middle = {
        "plain": nn.Identity(),
        "batch_norm": nn.BatchNorm1d(5),
        "dropout": nn.Dropout(0.3),
    }[name]
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(5, CLASSES))


@pytest.mark.parametrize("name", ["plain", "batch_norm", "dropout", "tied", "listed"])
@pytest.mark.parametrize("rates", [False, True])
def test_replay_with_graphs_is_the_stored_path(
    name: str, rates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "TRACED_BYTES", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        problem = small_problem(model_named(name))
    kinds: list[Kind] = [L2(per="unit", init=-2.0), SampleWeight()]
    kinds += [LearningRate(per="step")] if rates else []
    replayed, stored = (tuner_of(problem, kinds, TRAINING, m) for m in (Replay(), Stored()))
    values = shaken(replayed)
    expected = stored.evaluate(values, 0)
    assert largest_difference(replayed.evaluate(values, 0), expected.hypergradient) < 1e-10


def test_without_room_for_graphs_replay_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = tuner_of(small_problem(), [L2(init=-2.0, per="weight")], TRAINING, Replay())
    values = shaken(tuner)
    expected = tuner.evaluate(values, 0).hypergradient
    monkeypatch.setattr(replay, "graphs_fit", lambda *sizes: False)
    assert largest_difference(tuner.evaluate(values, 0), expected) < 1e-10


def test_a_small_model_that_is_traced_holds_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it give anything else than the stored path, to the bit."""
    problem = small_problem(model_named("plain"))
    kinds: list[Kind] = [L2(init=-2.0, per="weight")]
    replayed, stored = (tuner_of(problem, kinds, TRAINING, m) for m in (Replay(), Stored()))
    held = []
    for bound in (replay.TRACED_BYTES, 0):
        monkeypatch.setattr(replay, "TRACED_BYTES", bound)
        run = replayed.replica.training_run(replayed.initial_values(), 0, Monitor()).run
        held.append(Replay().recorder(run).graphs)
    assert held == [False, True]
    monkeypatch.undo()
    values = shaken(replayed)
    expected = stored.evaluate(values, 0).hypergradient
    assert torch.equal(replayed.evaluate(values, 0).hypergradient["l2"], expected["l2"])


def test_graphs_are_held_where_products_are_not_traced() -> None:
    """The velocity of tuned rates needs the gradient; a value read into Python stops a trace."""
    rates = tuner_of(small_problem(), [LearningRate(per="step")], TRAINING, Replay())
    reading = tuner_of(small_problem(Reading()), [L2(init=-2.0, per="layer")], TRAINING, Replay())
    for tuner in (rates, reading):
        values = tuner.initial_values()
        tuner.evaluate(values, 0)
        run = tuner.replica.training_run(values, 0, Monitor()).run
        assert Replay().recorder(run).graphs


@pytest.mark.parametrize(("name", "movable"), [("tied", True), ("listed", False)])
def test_graphs_are_kept_only_where_the_model_can_be_moved(
    monkeypatch: pytest.MonkeyPatch, name: str, movable: bool
) -> None:
    sizes: list[int | None] = []
    measure = graph_bytes

    def noted(inner: InnerObjective, draw: Callable[[], Batch]) -> int | None:
        sizes.append(measure(inner, draw))
        return sizes[-1]

    monkeypatch.setattr(replay, "graph_bytes", noted)
    tuner = tuner_of(
        small_problem(model_named(name)), [L2(init=-2.0, per="weight")], TRAINING, Replay()
    )
    tuner.evaluate(tuner.initial_values(), 0)
    assert [size is not None for size in sizes] == [movable]


def test_graphs_may_double_the_memory_but_not_more_once_it_counts() -> None:
    million = 10**6
    assert graphs_fit(2000, 2 * million, million, 3 * million)
    assert not graphs_fit(2000, 80 * million, 40 * million, 200 * million)
    assert graphs_fit(2000, 80 * million, 40 * million, 120 * million)
