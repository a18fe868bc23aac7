"""How large a job the operator takes; the spec itself has only the bounds of what makes sense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drmad_client.spec.entries import entries
from drmad_client.spec.job import JobSpec
from drmad_service.flags import setting


@dataclass(frozen=True)
class Bounds:
    """The largest job that is taken."""

    steps: int = setting(1_000_000, "Inner steps of a job.", 1)
    replicas: int = setting(1024, "Of a job.", 1)
    hyperparameters: int = setting(100_000_000, "Values that a job tunes, together.", 1)

    def misfits(self, spec: JobSpec) -> Iterator[tuple[tuple[str, ...], str]]:
        """Paths of what is larger, with a message."""
        if spec.training.steps > self.steps:
            yield ("training", "steps"), too_many("steps", spec.training.steps, self.steps)
        if spec.replicas.count > self.replicas:
            count = spec.replicas.count
            yield ("replicas", "count"), too_many("replicas", count, self.replicas)
        counted = [entries(h, spec.problem, spec.training) or 0 for h in spec.hyperparameters]
        if sum(counted) > self.hyperparameters:
            message = too_many("hyperparameters", sum(counted), self.hyperparameters)
            yield ("hyperparameters",), message


def too_many(what: str, count: int, most: int) -> str:
    return f"this service takes at most {most:,} {what} in a job, got {count:,}"
