"""How long the training waits for data that do not lie in memory.

    python benchmarks/waiting.py --quick
    python benchmarks/waiting.py --json waiting.jsonl

Rows of 12,288 bytes lie in a file; an item reads one, makes it float32 and mirrors it at random. A
minibatch is as large as 20 MB a second of the training step ask for. The share of a pass is the
seconds within the calls that fetch minibatches, over the seconds of the pass, on one thread; beside
it a plain loop over torch.optim.SGD and a DataLoader with as many processes. Results are appended
to the file as they come, and measured cases are left out when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from drmad_workers import L2, Problem, Replay, TrainingConfig, Tuner
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hypergradients.method import Adjoint
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

CHANNELS, SIDE, CLASSES = 3, 64, 10
ROW_BYTES = CHANNELS * SIDE * SIDE
ITEM_BYTES = 4 * ROW_BYTES
RATE = 20e6
"""Bytes of minibatches a second of training."""


class FileRows(Dataset[Any]):
    """Rows of a file, mirrored at random."""

    def __init__(self, path: Path, rows: int) -> None:
        self._rows = np.memmap(path, np.uint8, "r", shape=(rows, CHANNELS, SIDE, SIDE))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self._rows[row].astype(np.float32)).div_(255.0)
        return image.flip(2) if float(torch.rand(())) < 0.5 else image, row % CLASSES


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(ROW_BYTES, width), nn.Tanh(), nn.Linear(width, 10))


def conv_net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(CHANNELS, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, CLASSES),
    )


@dataclass(frozen=True)
class Case:
    """A model whose training step takes about `step_s` on minibatches at the rate."""

    name: str
    model: Callable[[int], nn.Module]
    width: int
    step_s: float
    steps: int

    @property
    def batch_size(self) -> int:
        return max(1, round(RATE * self.step_s / ITEM_BYTES))


CASES = {
    case.name: case
    for case in (
        Case("steps of 60 ms", mlp, 256, 0.06, 40),
        Case("steps of 240 ms", mlp, 256, 0.24, 16),
        Case("conv net", conv_net, 16, 0.1, 30),
    )
}


@dataclass
class Shares:
    """Seconds of passes and, among them, of waiting, by name."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    waited: dict[str, list[float]] = field(default_factory=dict)
    waiting: float = 0.0

    @contextmanager
    def wait(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.waiting += time.perf_counter() - started

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        started, before = time.perf_counter(), self.waiting
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        self.waited.setdefault(name, []).append(self.waiting - before)

    def percent(self, name: str) -> list[float]:
        """The share of each of these passes."""
        pairs = zip(self.waited[name], self.seconds[name], strict=True)
        return [100.0 * waited / seconds for waited, seconds in pairs]


SHARES = Shares()


class TimedReplay(Replay):
    """Replay whose backward pass is timed."""

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        with SHARES.of("backward"):
            super().backward(run, recorder, adjoint)


def fitted(case: Case, data: FileRows) -> Case:
    """The case with the width at which a step takes its time on this machine."""
    batch = [data[row] for row in range(case.batch_size)]
    inputs, targets = torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch])

    def seconds(width: int) -> float:
        model, taken = case.model(width), []
        for _ in range(5):
            started = time.perf_counter()
            nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            taken.append(time.perf_counter() - started)
        return min(taken)

    width = case.width
    for _ in range(2):
        width = max(4, round(width * case.step_s / seconds(width)))
    return replace(case, width=width)


def tuner_of(case: Case, data: FileRows, workers: int) -> Tuner:
    torch.manual_seed(0)
    valid = torch.rand(8, CHANNELS, SIDE, SIDE), torch.arange(8) % CLASSES
    problem = Problem(case.model(case.width), data, valid)
    training = TrainingConfig(
        "sgd", steps=case.steps, batch_size=case.batch_size, learning_rate=1e-3,
        data_workers=workers,
    )  # fmt: skip
    return Tuner(problem, [L2()], training, TimedReplay())


def tuned(case: Case, data: FileRows, workers: int, rounds: int) -> float:
    """Evaluates meta-iterations, the first of which starts the processes; returns its seconds."""
    join, forward = Minibatches.join, TrainingRun.forward

    def timed_join(self: Minibatches, *of: int) -> Any:
        with SHARES.wait():
            return join(self, *of)

    def timed_forward(self: TrainingRun, recorder: TrajectoryRecorder) -> None:
        with SHARES.of("forward"):
            forward(self, recorder)

    tuner = tuner_of(case, data, workers)
    started = time.perf_counter()
    tuner.evaluate(tuner.initial_values(), 0)
    first = time.perf_counter() - started
    SHARES.__init__()  # type: ignore[misc]
    with (
        patch.object(Minibatches, "join", timed_join),
        patch.object(TrainingRun, "forward", timed_forward),
    ):
        for iteration in range(1, rounds + 1):
            tuner.evaluate(tuner.initial_values(), iteration)
    tuner.close()
    return first


def plain(case: Case, data: FileRows, workers: int, rounds: int) -> None:
    """The same training by hand, with a DataLoader that keeps its processes."""
    torch.manual_seed(0)
    model = case.model(case.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    own: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "forkserver"}
    loader: DataLoader[Any] = DataLoader(
        data, case.batch_size, shuffle=True, num_workers=workers, **(own if workers else {})
    )
    for number in range(rounds + 1):
        shares = SHARES if number else Shares()
        with shares.of("plain"):
            batches = None
            for _ in range(case.steps):
                with shares.wait():
                    batches = batches or iter(loader)
                    inputs, targets = next(batches)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def measured(name: str, workers: int, quick: bool, folder: Path) -> dict[str, Any]:
    rows = 2_000 if quick else 60_000
    path = folder / f"{rows}.bin"
    if not path.exists():
        np.random.default_rng(0).integers(0, 256, rows * ROW_BYTES, np.uint8).tofile(path)
    data = FileRows(path, rows)
    case = CASES[name]
    case = replace(case, steps=4) if quick else fitted(case, data)
    rounds = 1 if quick else 3
    first = tuned(case, data, workers, rounds)
    plain(case, data, workers, rounds)
    moved = case.batch_size * ITEM_BYTES * case.steps
    return {
        "case": name,
        "workers": workers,
        "width": case.width,
        "batch_size": case.batch_size,
        "step_ms": 1e3 * median(SHARES.seconds["forward"]) / case.steps,
        "forward_mb_s": moved / median(SHARES.seconds["forward"]) / 1e6,
        "first_s": first,
        "load": os.getloadavg()[0],
        "percent": {way: SHARES.percent(way) for way in ("forward", "backward", "plain")},
    }


def row(found: dict[str, Any]) -> str:
    shares = [
        f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})"
        for each in found["percent"].values()
    ]
    head = f"{found['case']} | {found['workers']} | {found['step_ms']:.0f} | "
    return f"| {head}{found['forward_mb_s']:.0f} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--case", choices=list(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="file to which results are appended")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.json.read_text().splitlines() if options.json and options.json.exists() else []
    known = {(found["case"], found["workers"]): found for found in map(json.loads, lines)}
    print("| case | processes | step, ms | MB/s | forward, % | backward, % | plain, % |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.case:
            for workers in [1] if options.quick else options.workers:
                found = known.get((name, workers))
                if found is None:
                    found = measured(name, workers, options.quick, Path(folder))
                    if options.json:
                        with options.json.open("a") as file:
                            file.write(json.dumps(found) + "\n")
                print(row(found), flush=True)


if __name__ == "__main__":
    main()
