"""Training data that other processes read ahead of the pass that uses them."""

import gc
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Evaluation,
    Forward,
    Implicit,
    Method,
    OneStep,
    Problem,
    ProblemError,
    Replay,
    Reversible,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
    tune,
)
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.meta.config import MetaConfig
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.data.drawn_items import (
    CLASSES,
    Drawn,
    DrawnLengths,
    Ending,
    Failing,
    Telling,
    Unsendable,
    padded_with_noise,
)

TRAINING = TrainingConfig(
    "sgd", steps=12, batch_size=4, learning_rate=0.1, momentum=0.5, precision="float64"
)


def problem_of(data: Any, **stated: Any) -> Problem:
    draw = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()
    valid = torch.randn(9, 4, generator=draw, dtype=torch.float64), torch.arange(9) % CLASSES
    return Problem(model, data, stated.pop("valid", valid), **stated)


@pytest.fixture
def tuners() -> Iterator[Any]:
    """Makes tuners, whose processes end with the test."""
    made: list[Tuner] = []

    def tuner(
        workers: int,
        data: Any = None,
        method: Method | None = None,
        training: TrainingConfig = TRAINING,
        **stated: Any,
    ) -> Tuner:
        training = replace(training, data_workers=workers)
        problem = problem_of(Drawn() if data is None else data, **stated)
        made.append(Tuner(problem, [L2(per="unit")], training, method or Stored(), seed=5))
        return made[-1]

    yield tuner
    for each in made:
        each.close()


def ahead_of(tuner: Tuner) -> Any:
    assert tuner.train_examples.ahead is not None
    return tuner.train_examples.ahead


def results(tuner: Tuner, count: int = 2) -> list[tuple[float, float, list[float]]]:
    found = [tuner.evaluate(tuner.initial_values(), number) for number in range(count)]
    return [numbers(evaluation) for evaluation in found]


def numbers(found: Evaluation) -> tuple[float, float, list[float]]:
    return found.validation_loss, found.training_loss, found.hypergradient["l2"].tolist()


@pytest.mark.parametrize(
    "method",
    [
        Stored(),
        Replay(),
        Replay(horizon=7, hvp="finite_difference"),
        Reversible(),
        OneStep(),
        Forward(),
        Implicit(iterations=2, tolerance=1.0, solver="neumann", step_size=0.05),
        Shortcut(budget=2),
        Shortcut(interpolation_nodes=3, max_adjoint_change=None, max_stride=3),
        Shortcut(minibatch_subsampling=2, max_stride=4),
        Shortcut(preset="paper_tenth"),
        Auto(),
    ],
    ids=lambda method: f"{method.name}",
)
def test_every_method_takes_the_same_bits_and_reads_nothing_itself(
    tuners: Any, method: Method
) -> None:
    training = replace(TRAINING, steps=24 if isinstance(method, Shortcut) else 12)
    expected = results(tuners(0, method=method, training=training))
    tuner = tuners(2, method=method, training=training)
    assert results(tuner) == expected
    assert ahead_of(tuner).missed <= (2 if method.name == "shortcut" else 0)


def test_held_out_data_that_are_not_kept_are_read_by_the_processes_too(
    tuners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drmad_workers.data.items.IN_MEMORY_BYTES", 10)
    training = replace(TRAINING, evaluation_rows=4)
    held_out = {"valid": Drawn(15), "test": Drawn(9)}
    expected = results(tuners(0, training=training, **held_out))
    tuner = tuners(2, training=training, **held_out)
    assert results(tuner) == expected
    for examples in (tuner.valid_examples, tuner.replica.test_examples):
        assert examples.ahead.missed == 0
        assert len(examples.ahead.processes) == 2
    tuner.close()
    assert tuner.valid_examples.ahead.processes == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("method", [Replay(), Shortcut(max_stride=4)], ids=["replay", "shortcut"])
def test_steps_of_several_minibatches_take_the_same_bits(
    tuners: Any, workers: int, method: Method
) -> None:
    training = replace(TRAINING, accumulate=3, clip_norm=0.1)
    expected = results(tuners(0, method=method, training=training))
    tuner = tuners(workers, method=method, training=training)
    assert results(tuner) == expected
    assert ahead_of(tuner).missed == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_collate_function_draws_is_the_same(tuners: Any, workers: int) -> None:
    stated = {"data": DrawnLengths(), "valid": DrawnLengths(9), "collate_fn": padded_with_noise}
    expected = results(tuners(0, method=Replay(), **stated))
    tuner = tuners(workers, method=Replay(), **stated)
    assert results(tuner) == expected
    assert ahead_of(tuner).missed == 0
    strides = Shortcut(max_stride=4)
    expected = results(tuners(0, method=strides, **stated))
    tuner = tuners(workers, method=strides, **stated)
    assert results(tuner) == expected
    assert ahead_of(tuner).missed == 0


def test_replicas_side_by_side_take_the_same_bits() -> None:
    def evaluated(workers: int) -> list[tuple[float, float, list[float]]]:
        training = replace(TRAINING, data_workers=workers)
        batch = ReplicaBatch(problem_of(Drawn()), [L2()], training, Stored(), 5, (0, 1))
        assert batch.reason is None
        found = [numbers(each) for each in batch.evaluate(batch.initial_values(), 0)]
        ahead = batch.tuners[0].train_examples.ahead
        assert ahead is None or (ahead.missed == 0 and len(ahead.processes) == workers)
        batch.close()
        return found

    assert evaluated(2) == evaluated(0)


def test_global_generators_are_left_as_they_are(tuners: Any) -> None:
    tuner = tuners(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    results(tuner, 1)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert after == states


def test_processes_stay_between_passes_and_read_the_next_one_before_it_begins(
    tuners: Any,
) -> None:
    tuner = tuners(2)
    results(tuner, 1)
    ahead = ahead_of(tuner)
    processes = list(ahead.processes)
    assert len(processes) == 2
    following = [wanted.key for wanted, _ in ahead._requests.sent]
    assert following == [(step, (5, 1, 0)) for step in range(8)]
    tuner.evaluate(tuner.initial_values(), 1)
    assert ahead.processes == processes
    assert all(process.is_alive() for process in processes)


def test_another_draw_than_the_expected_one_is_read_too(tuners: Any) -> None:
    def draws(workers: int) -> list[Any]:
        tuner = tuners(workers)
        return [numbers(tuner.evaluate(tuner.initial_values(), n)) for n in (0, 4, 4, 0)]

    assert draws(1) == draws(0)


def test_a_reading_process_has_the_threads_and_the_type_of_the_training(tuners: Any) -> None:
    tuner = tuners(1, data=Telling())
    results(tuner, 1)
    content = tuner.replica.minibatches(1).join(0).content[0]
    assert content[:, 1].unique().tolist() == [float(ahead_of(tuner).processes[0].pid)]
    assert content[:, 2].unique().tolist() == [float(torch.get_num_threads())]
    assert content[:, 3].unique().tolist() == [0.0]


def test_data_in_memory_are_read_by_no_process(tuners: Any) -> None:
    class Fixed(Drawn):
        def __getitem__(self, row: int) -> Any:
            return torch.full((4,), float(row), dtype=torch.float64), row % CLASSES

    tensors: tuple[Tensor, Tensor] = (torch.ones(9, 4).double(), torch.arange(9) % CLASSES)
    for data in (tensors, Fixed()):
        tuner = tuners(2, data=data)
        results(tuner, 1)
        assert tuner.train_examples.ahead is None


@pytest.mark.parametrize(
    "error", [KeyError("image"), RuntimeError("broken file"), OSError(5, "lost disk")], ids=repr
)
def test_error_of_an_item_is_that_of_training_without_processes(
    tuners: Any, error: Exception
) -> None:
    found = []
    for workers in (0, 2):
        tuner = tuners(workers, data=Failing(17, error))
        with pytest.raises(Exception, match=r"image|broken file|lost disk") as raised:
            results(tuner)
        last = raised.traceback[-1]
        found.append((type(raised.value), str(raised.value), str(last.path), last.lineno))
    assert found[1] == found[0]
    assert found[0][0] is (ProblemError if isinstance(error, KeyError) else type(error))


def test_error_in_a_reading_process_alone_names_its_line_and_a_remedy(tuners: Any) -> None:
    data = Failing(17, OSError(9, "Bad file descriptor"), only_in_reader=True)
    with pytest.raises(
        ProblemError, match=r"Bad file descriptor \(drawn_items.py:\d+\).*or set"
    ) as e:
        results(tuners(1, data=data))
    assert e.value.field == "training.data_workers"


def test_process_that_is_killed_is_an_error_with_a_remedy(
    tuners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = tuners(2, data=Ending())
    with pytest.raises(ProblemError, match=r"ended by signal 9.*memory.*fewer processes") as error:
        results(tuner)
    assert error.value.field == "training.data_workers"
    assert ahead_of(tuner).processes == []


def test_data_that_no_process_can_receive_name_a_remedy(tuners: Any) -> None:
    with pytest.raises(ProblemError, match=r"cannot pickle.*lock.*top of a module") as error:
        results(tuners(1, data=Unsendable()))
    assert error.value.field == "training.data_workers"


def test_processes_end_with_tune_and_with_an_error_of_it() -> None:
    processes: list[Any] = []

    class Interrupted(Exception):
        pass

    def interrupt(number: int, evaluation: Evaluation) -> None:
        import multiprocessing

        processes.extend(multiprocessing.active_children())
        if number == 1:
            raise Interrupted

    training = replace(TRAINING, data_workers=1)
    problem = problem_of(Drawn())
    tune(problem, [L2()], training, Stored(), MetaConfig(iterations=1), on_iteration=interrupt)
    with pytest.raises(Interrupted):
        tune(problem, [L2()], training, Stored(), MetaConfig(iterations=3), on_iteration=interrupt)
    assert len(processes) == 3
    gc.collect()
    for process in processes:
        process.join(5)
        assert not process.is_alive()


KILLED = """
import sys, torch
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.data.pass_order import Order
from tests.workers.data.drawn_items import Drawn
if __name__ == "__main__":
    place = torch.device("cpu"), torch.float64
    examples = Examples(Drawn(), "train", *place, fixed=False, workers=2)
    minibatches = Minibatches(examples, 4, (0, 0, 0))
    minibatches.expect(Order(range(9)))
    minibatches.join(0)
    print(*(process.pid for process in examples.ahead.processes), flush=True)
    sys.stdin.read()
"""


def test_no_process_outlives_the_one_that_trains_when_it_is_killed(tmp_path: Any) -> None:
    script = tmp_path / "training.py"
    script.write_text(KILLED)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as training:
        assert training.stdout is not None
        readers = [os.pidfd_open(int(pid)) for pid in training.stdout.readline().split()]
        assert len(readers) == 2
        training.send_signal(signal.SIGKILL)
        for reader in readers:
            ended, _, _ = select.select([reader], [], [], 10)
            assert ended, "a reading process lives on"
            os.close(reader)
        # The server of the readers holds the pipe too, until it ends.
        ended, _, _ = select.select([training.stdout.fileno()], [], [], 10)
        assert ended
        assert training.stdout.read() == ""


LARGE = """
import sys
from pathlib import Path
import torch
from torch import nn
from drmad_workers import L2, Problem, Replay, TrainingConfig, Tuner
from drmad_workers.ray_actor.memory_limit import limit_memory
from tests.workers.data.drawn_items import LargeFile

def held(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))

if __name__ == "__main__":
    rows, width = 2**15, 2**14
    limit_memory(2**30)
    valid = torch.randn(9, width), torch.arange(9) % 3
    problem = Problem(nn.Linear(width, 3), LargeFile(sys.argv[1], rows, width), valid)
    training = TrainingConfig(
        "sgd", steps=256, batch_size=128, learning_rate=1e-4, data_workers=2
    )
    tuner = Tuner(problem, [L2()], training, Replay())
    for iteration in range(3):
        tuner.evaluate(tuner.initial_values(), iteration)
        ahead = tuner.train_examples.ahead
        pids = ["self", *(process.pid for process in ahead.processes)]
        print(ahead.missed, *map(held, pids), flush=True)
"""


@pytest.mark.full
def test_data_larger_than_the_memory_leave_the_resident_size_as_it_is(tmp_path: Any) -> None:
    data, script = tmp_path / "rows.bin", tmp_path / "training.py"
    with data.open("wb") as file:
        file.truncate(2**31)
    script.write_text(LARGE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    assert [missed for missed, *_ in lines] == [0, 0, 0]
    for first, *later in zip(*(held for _, *held in lines), strict=True):
        assert first < 2**29
        assert max(later) < first + 2**25, lines
