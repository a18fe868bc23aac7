"""Two workers that share a training run against one: seconds, and the difference of results.

    python benchmarks/workers.py [--quick] [--repeats 7] [--methods replay,..] [--json FILE]
                                 [--batch 1024] [--steps 10]

An MLP 784-1000-500-10 (1.3 million weights) on random images, SGD with batch 1,024 and T = 10, in
float32, one thread for each worker; a weight for every example and a penalty for every layer. Each
method is evaluated by one worker and by two in turn, in the same processes, so that a change of the
machine's load meets both. The efficiency of wall-clock time is s1 / (2 s2), of the medians; that of
CPU time is the CPU time of the one over that of the two together. Beside them stands the relative
difference of the hypergradients, largest over the hyperparameters.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    Method,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.distributed.group import WorkerGroup
from drmad_workers.hyperparameters.base import Kind

WORKERS = 2
METHODS: dict[str, Method] = {
    "replay": Replay(),
    "stored": Stored(),
    "shortcut": Shortcut(),
    "shortcut T/4": Shortcut(horizon=3),
}


class Worker:
    """One process with a tuner for each method, and its place in the group."""

    def __init__(self, folder: Path, rank: int, rows: int, batch: int, steps: int) -> None:
        torch.set_num_threads(1)
        draw = torch.Generator().manual_seed(0)

        def part(count: int) -> tuple[Tensor, Tensor]:
            return torch.randn(count, 784, generator=draw), torch.randint(
                10, (count,), generator=draw
            )

        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(784, 1000), nn.Tanh(), nn.Linear(1000, 500), nn.Tanh(), nn.Linear(500, 10)
        )
        problem = Problem(model, part(rows), part(1000), initialize="reset")
        training = TrainingConfig(steps=steps, batch_size=batch, learning_rate=0.05, momentum=0.9)
        kinds: list[Kind] = [L2("layer"), SampleWeight()]
        self.tuners = {
            name: Tuner(problem, kinds, training, method) for name, method in METHODS.items()
        }
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.group = WorkerGroup(folder, rank, WORKERS, torch.device("cpu"))

    def measure(self, method: str, shared: bool) -> dict[str, Any]:
        tuner = self.tuners[method]
        began, cpu = time.perf_counter(), time.process_time()
        if shared:
            with tuner.replica.shared_by(self.group):
                found = tuner.evaluate(tuner.initial_values(), 0)
        else:
            found = tuner.evaluate(tuner.initial_values(), 0)
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "phases": found.seconds,
            "hypergradient": found.hypergradient,
        }


_worker: Worker


def _begin(*arguments: Any) -> None:
    global _worker
    _worker = Worker(*arguments)


def _measure(method: str, shared: bool) -> dict[str, Any]:
    return _worker.measure(method, shared)


def _weights() -> int:
    return _worker.weights


class Workers:
    """The processes of the workers."""

    def __init__(self, folder: Path, rows: int, batch: int, steps: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, context, _begin, (folder, rank, rows, batch, steps))
            for rank in range(WORKERS)
        ]
        waiting = [pool.submit(_weights) for pool in self._pools]
        self.weights = min(each.result() for each in waiting)

    def measure(self, method: str, workers: int) -> list[dict[str, Any]]:
        begun: list[Future[dict[str, Any]]] = [
            pool.submit(_measure, method, workers > 1) for pool in self._pools[:workers]
        ]
        return [each.result() for each in begun]

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max(float((two[name] - part).norm() / part.norm()) for name, part in one.items())


def compared(workers: Workers, method: str, repeats: int) -> dict[str, Any]:
    """One worker and two in turn; the first round of each warms up."""
    ones, twos = [], []
    for number in range(repeats + 1):
        one, two = workers.measure(method, 1), workers.measure(method, WORKERS)
        if number:
            ones.append(one[0])
            twos.append(two)
    s1 = statistics.median(one["seconds"] for one in ones)
    s2 = statistics.median(max(each["seconds"] for each in two) for two in twos)
    cpu1 = statistics.median(one["cpu_seconds"] for one in ones)
    cpu2 = statistics.median(sum(each["cpu_seconds"] for each in two) for two in twos)
    pairs = [
        one["seconds"] / (WORKERS * max(each["seconds"] for each in two))
        for one, two in zip(ones, twos, strict=True)
    ]
    return {
        "method": method,
        "weights": workers.weights,
        "one_s": s1,
        "two_s": s2,
        "efficiency": s1 / (WORKERS * s2),
        "efficiency_of_pairs": sorted(pairs),
        "cpu_efficiency": cpu1 / cpu2,
        "difference": difference(ones[-1]["hypergradient"], twos[-1][0]["hypergradient"]),
        "load": os.getloadavg()[0],
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one method, smaller: half a minute")
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them, by name")
    parser.add_argument("--batch", type=int, default=1024, help="rows of a minibatch")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    batch, steps, repeats = options.batch, options.steps, options.repeats
    if options.quick:
        batch, steps, repeats = 256, 4, 1
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(Path(folder), 4 * batch, batch, steps)
        found = []
        print(
            "| method | one worker | two workers | efficiency | of CPU time | difference | load |"
        )
        print("|---|---|---|---|---|---|---|")
        for method in ["replay"] if options.quick else options.methods.split(","):
            line = compared(workers, method, repeats)
            found.append(line)
            print(
                f"| {method} | {line['one_s']:.2f} s | {line['two_s']:.2f} s "
                f"| {line['efficiency']:.2f} | {line['cpu_efficiency']:.2f} "
                f"| {line['difference']:.1e} | {line['load']:.1f} |",
                flush=True,
            )
        workers.close()
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
