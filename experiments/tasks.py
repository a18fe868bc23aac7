"""The tasks of an experiment: jobs of the service, and their baselines."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

Spec = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One run, of which results.jsonl keeps one line.

    Attributes:
        case: the setting under which arms are compared, such as the share of wrong labels.
        arm: what is compared, such as drmad or exact.
        seed: of the run; the same for every arm that is compared with it.
        spec: the job. An opponent reads from it the problem and how it is trained.
        code: folder of the problem, where it is not a catalogued one.
    """

    case: str
    arm: str
    seed: int
    spec: Spec
    code: Path | None = None

    @property
    def name(self) -> tuple[str, str, int]:
        return self.case, self.arm, self.seed

    @property
    def key(self) -> str:
        """A digest of all that the result depends on; a task whose key changes runs again."""
        parts = asdict(self) | {"type": type(self).__name__}
        stated = parts["spec"]["problem"]
        if "options" in stated:  # the result does not depend on where the data lie
            stated["options"] = {n: v for n, v in stated["options"].items() if n != "roots"}
        if self.code is not None:
            parts["code"] = [file.read_text() for file in sorted(self.code.glob("*.py"))]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Tuned(Task):
    """A job of the service. `keep` names tensors whose best values are kept in an npz file."""

    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured(Task):
    """One hypergradient in a process of its own: CPU seconds and the peak of its memory."""


@dataclass(frozen=True)
class Search(Task):
    """Trials of whole training runs beside the service, by Optuna, with the engine's own training.

    Attributes:
        trials: training runs.
        sampler: tpe or random; "fixed" trains with the values in the middle of the space, each
            time with fresh weights and minibatches.
        space: (lowest, highest) raw value of every entry of a hyperparameter, by its name.
    """

    trials: int = 1
    sampler: Literal["tpe", "random", "fixed"] = "fixed"
    space: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrained(Search):
    """Plain training with `values`, raw and by name, that another arm found."""

    values: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fresh(Retrained):
    """Plain training in draws that no job and no search of the experiment has used.

    Attributes:
        first: the draw of the first training run.
    """

    first: int = 1000


def on(task: Task, data: str) -> Task:
    """The task with the built-in data set `data` in place of MNIST."""
    spec = copy.deepcopy(task.spec)
    for holder in (spec["problem"], spec["problem"].get("options", {})):
        if holder.get("data", {}).get("name") == "mnist":
            holder["data"]["name"] = data
    return replace(task, spec=spec)


def read_spec(path: Path) -> Spec:
    spec: Spec = yaml.safe_load(path.read_text())
    return spec


def changed(spec: Mapping[str, Any], **changes: Any) -> Spec:
    """The spec with some parts replaced; mappings are merged, other values are replaced.

    A part whose `method` or `entrypoint` changes is replaced as a whole, with its options.
    """
    merged = dict(spec)
    for name, change in changes.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            other = any(k in change and change[k] != old.get(k) for k in ("method", "entrypoint"))
            merged[name] = dict(change) if other else changed(old, **change)
        else:
            merged[name] = change
    return merged
