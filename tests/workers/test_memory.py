"""What the methods keep: bytes of live tensors in a meta-iteration, at several lengths of it."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Forward,
    Implicit,
    Method,
    OneStep,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.hypergradients import replay
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.training.run import TrainingRun
from tests.workers import peaks
from tests.workers.small import small_problem

Peak = Callable[[Method, int], int]
WIDTH = 2000
WEIGHTS = 4 * WIDTH + WIDTH + 3 * WIDTH + 3
COPY = 4 * WEIGHTS


@pytest.fixture(autouse=True)
def only_new_objects() -> Iterator[None]:
    """Excludes the objects that exist before the test, which makes the search for tensors fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Of all tensors that Python made in this test and can still reach, storages counted once."""
    storages = {
        found.untyped_storage().data_ptr(): found.untyped_storage().nbytes()
        for found in gc.get_objects()
        if issubclass(type(found), Tensor) and not found.is_meta
    }
    return sum(storages.values())


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Peak:
    """The most bytes at the ends of both passes and at some steps on the way, above the first."""
    samples: list[int] = []

    def sampling(original: Callable[..., Any]) -> Callable[..., Any]:
        calls = [0]

        def sampled(*args: Any, **options: Any) -> Any:
            made = original(*args, **options)
            calls[0] += 1
            if calls[0] in (1, 2, 50, 150, 450, 1700):
                samples.append(live_bytes())
            return made

        return sampled

    def measure(method: Method, steps: int) -> int:
        samples.clear()
        model = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
        training = TrainingConfig("sgd", steps, 4, learning_rate=0.0005, momentum=0.5)
        kinds: list[Kind] = [L2(per="layer", init=-3.0)]
        kinds += [] if isinstance(method, Forward) else [SampleWeight()]
        tuner = Tuner(small_problem(model), kinds, training, method)
        before = live_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(TrainingRun, "take", sampling(TrainingRun.take))
            patched.setattr(Adjoint, "begin", sampling(Adjoint.begin))
            patched.setattr(Adjoint, "step_back", sampling(Adjoint.step_back))
            tuner.evaluate(tuner.initial_values(), 0)
        return max(samples) - before

    return measure


@pytest.mark.parametrize(
    ("method", "copies"),
    [
        pytest.param(Shortcut(interpolation_nodes=4), 5, marks=pytest.mark.full),
        (Shortcut(budget=5), 5),
    ],
)
def test_the_shortcut_keeps_as_much_of_5000_steps_as_of_500(
    method: Method, copies: int, peak: Peak
) -> None:
    short, long = (peak(method, steps) for steps in (500, 5000))
    assert abs(long - short) < 0.5 * COPY
    assert long < (copies + 8) * COPY


def test_replay_keeps_a_number_of_copies_that_grows_as_the_root_of_the_steps(
    peak: Peak, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the graphs that it keeps where there is room for them."""
    monkeypatch.setattr(replay, "graphs_fit", lambda *sizes: False)
    short, long = (peak(Replay(), steps) for steps in (200, 1800))
    assert (long - short) / COPY == pytest.approx(2 * (60 - 20), rel=0.05)


def test_stored_keeps_a_copy_of_every_step(peak: Peak) -> None:
    short, long = (peak(Stored(), steps) for steps in (50, 450))
    assert (long - short) / COPY == pytest.approx(400, rel=0.02)


def test_reversible_keeps_the_bits_that_momentum_forgets(peak: Peak) -> None:
    """1 bit a step at momentum 0.5, in words of 47: two copies in float32 for every 47 steps."""
    short, long = (peak(Reversible(), steps) for steps in (47, 470))
    assert (long - short) / COPY == pytest.approx(2 * 9, abs=1)


@pytest.mark.parametrize(
    "method", [OneStep(), Implicit(tolerance=1.0, iterations=3, damping=1.0), Forward()]
)
def test_the_others_keep_nothing_of_the_path(method: Method, peak: Peak) -> None:
    short, long = (peak(method, steps) for steps in (50, 450))
    assert abs(long - short) < 0.5 * COPY


def test_a_meta_iteration_leaves_nothing_behind() -> None:
    for method in (Shortcut(), Replay(), Stored(), Reversible(), Forward(), OneStep()):
        training = TrainingConfig("sgd", 20, 4)
        kinds: list[Kind] = [L2(per="layer"), SampleWeight()]
        tuner = Tuner(small_problem(), kinds, training, method)
        values = tuner.initial_values()
        tuner.evaluate(values, 0)
        gc.collect()
        before = live_bytes()
        for iteration in range(3):
            tuner.evaluate(values, iteration)
        gc.collect()
        assert live_bytes() - before < 4 * torch.finfo(torch.float32).bits, method.name


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.full), "adamw"])
def test_training_takes_at_most_one_and_a_half_copies_above_a_plain_loop(optimizer: str) -> None:
    """By what Linux reports, in a process of its own; so does the construction with its checks."""
    found = peaks.elsewhere("measured", optimizer)
    assert found["plain"] > (3 if optimizer == "sgd" else 4)
    assert found["train"] < found["plain"] + 1.5
    assert found["build"] < found["plain"] + 1.5


@pytest.mark.parametrize("method", [Stored(), Replay(), Reversible()])
def test_the_predicted_trajectory_is_what_a_run_keeps(
    method: Method, peak: Peak, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the graphs of replay, which Python cannot see."""
    monkeypatch.setattr(replay, "graphs_fit", lambda *sizes: False)
    model = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
    training = [TrainingConfig("sgd", steps, 4, momentum=0.5) for steps in (47, 470)]
    kinds: list[Kind] = [L2(per="layer"), SampleWeight()]
    tuner = Tuner(small_problem(model), kinds, training[0], method)
    short, long = (tuner.replica.trajectory_bytes([method], each)[method] for each in training)
    measured = peak(method, 470) - peak(method, 47)
    assert measured == pytest.approx(long - short, rel=0.05)


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["replay", "stored", "shortcut"])
def test_the_preflight_predicts_the_memory_of_a_large_job(optimizer: str, method: str) -> None:
    """10 million weights and 60 steps, by what Linux reports in processes of their own."""
    taken = peaks.elsewhere("taken", optimizer, method, "60")
    predicted = peaks.elsewhere("predicted", optimizer, method, "60")["bytes"]
    own = taken["bytes"] - taken["before"]
    assert predicted - taken["before"] == pytest.approx(own, rel=0.15)


@pytest.mark.parametrize(
    ("optimizer", "budget", "steps"),
    [
        ("sgd", 6, 40),
        pytest.param("sgd", 10, 250, marks=pytest.mark.full),
        pytest.param("adamw", 5, 40, marks=pytest.mark.full),
    ],
)
def test_the_budget_bounds_a_whole_backward_pass(optimizer: str, budget: int, steps: int) -> None:
    """5.8 million weights; by what Linux reports, in a process of its own."""
    found = peaks.elsewhere("backward", optimizer, str(budget), str(steps))["copies"]
    rows = 1 if optimizer == "sgd" else 3
    assert 0.7 * budget * rows < found <= budget * rows
