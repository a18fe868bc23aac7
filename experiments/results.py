"""The results of runs: one line of JSON each, appended when a run ends, to resume a set later."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drmad_client.http.job_handle import Job
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from experiments.tasks import Task

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """Attributes:
    case, arm, seed, key: of the task.
    validation_loss: of every meta-iteration or trial.
    metrics: validation_error, test_error, ... of every meta-iteration or trial.
    cost: what it took, in plain training runs of the problem, counted in matrix products.
    seconds: by phase, the median of a meta-iteration or trial; total of the whole run.
    peak_memory_bytes: of the process that trained.
    methods: by which the hypergradients were computed.
    raw: the best raw values of hyperparameters with few entries, by name.
    figures: further numbers, which depend on the experiment.
    error: why there is no result.
    """

    case: str
    arm: str
    seed: int
    key: str
    validation_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    cost: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    methods: list[str] = field(default_factory=list)
    raw: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def best(self) -> int:
        """The run with the lowest validation loss; test figures have no part in the choice."""
        finite = [np.inf if not np.isfinite(loss) else loss for loss in self.validation_loss]
        return int(np.argmin(finite))

    def at_best(self, metric: str) -> float:
        return self.metrics[metric][self.best]

    def so_far(self, metric: str) -> list[float]:
        """The metric of the best run up to each."""
        best, found = 0, []
        for number, loss in enumerate(self.validation_loss):
            best = number if loss < self.validation_loss[best] else best
            found.append(self.metrics[metric][best])
        return found

    def as_line(self) -> str:
        full = {name: value for name, value in vars(self).items() if value or name == "seed"}
        return json.dumps(_rounded(full))


class Results:
    """The results in a folder, by case, arm and seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "results.jsonl"
        self._found: dict[tuple[str, str, int], Result] = {}
        self._lock = threading.Lock()
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                result = Result(**json.loads(line))
                for numbers in (result.validation_loss, *result.metrics.values()):
                    numbers[:] = [math.nan if number is None else number for number in numbers]
                self._found[result.case, result.arm, result.seed] = result

    def __iter__(self) -> Iterator[Result]:
        return iter(self._found.values())

    @property
    def is_empty(self) -> bool:
        return not self._found

    def has(self, task: Task) -> bool:
        found = self._found.get(task.name)
        return found is not None and found.key == task.key

    def of(self, case: str, arm: str) -> list[Result]:
        """The results of all seeds that have figures."""
        found = [r for r in self if (r.case, r.arm) == (case, arm) and r.validation_loss]
        return sorted(found, key=lambda result: result.seed)

    def get(self, case: str, arm: str, seed: int) -> Result | None:
        return self._found.get((case, arm, seed))

    def best(self, case: str, arm: str, metric: str = "test_error") -> list[float]:
        """A metric at the lowest validation loss, for each seed."""
        return [result.at_best(metric) for result in self.of(case, arm)]

    def add(self, result: Result) -> None:
        """Write a result to the file; it replaces an older one of the same task."""
        name = (result.case, result.arm, result.seed)
        with self._lock:
            replaced = name in self._found
            self._found[name] = result
            self.folder.mkdir(parents=True, exist_ok=True)
            if replaced:
                draft = self._path.with_suffix(".draft")
                draft.write_text("".join(r.as_line() + "\n" for r in self))
                draft.replace(self._path)
            else:
                with self._path.open("a") as file:
                    file.write(result.as_line() + "\n")
        logger.info("%s: %s", name, result.error or "gathered")

    def arrays(self, case: str, arm: str, seed: int) -> dict[str, np.ndarray[Any, Any]] | None:
        """The tensors kept from a run, by name; None if there are none."""
        path = self.folder / array_file(case, arm, seed)
        if not path.exists():
            return None
        with np.load(path) as file:
            return dict(file)


def array_file(case: str, arm: str, seed: int) -> str:
    words = "-".join(f"{case} {arm} {seed}".replace("/", " of ").split())
    return f"{words}.npz"


def from_job(task: Task, job: Job, history: Sequence[MetaIteration]) -> Result:
    """The result of a job."""
    spec = job.spec
    result = Result(task.case, task.arm, task.seed, task.key)
    result.validation_loss = [record.validation_loss for record in history]
    for record in history:
        for name, value in record.metrics.items():
            result.metrics.setdefault(name, []).append(value)
    result.cost = sum(cost_of(record, spec) for record in history) * spec.replicas.count
    phases = [_slowest(record) for record in history]
    if phases:
        result.seconds = {
            name: float(np.median([phase.get(name, 0.0) for phase in phases]))
            for name in ("forward", "backward")
        }
        result.peak_memory_bytes = max(r.peak_memory_bytes for h in history for r in h.replicas)
    result.seconds["total"] = job.progress.spent_s
    result.methods = sorted({record.method for record in history})
    if job.status is not JobStatus.SUCCEEDED:
        result.error = job.error.message if job.error else str(job.status)
    return result


def cost_of(record: MetaIteration, spec: JobSpec) -> float:
    """The cost of one meta-iteration and one replica, in plain training runs.

    A Hessian-vector product costs two training steps on the same rows; `replay` trains once more.
    What `auto` computes beside the hypergradient is counted by the engine.
    """
    if spec.hypergradient.method == "auto" and record.cost is not None:
        return record.cost
    total = spec.training.steps
    share = len(spec.hypergradient.steps(total)) / total
    return 1.0 + (3.0 if spec.hypergradient.method == "replay" else 2.0) * share


def _slowest(record: MetaIteration) -> Mapping[str, float]:
    return max((r.seconds for r in record.replicas), key=lambda seconds: sum(seconds.values()))


def _rounded(value: Any) -> Any:
    """The value with its numbers rounded to six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value
