"""How large a job the operator accepts; the spec itself refuses only what makes no sense."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from drmad_client.spec.job import JobSpec
from drmad_service.flags import setting

MAX_HYPERPARAMETERS = 100_000_000


@dataclass(frozen=True)
class JobLimits:
    """Upper limits on the size of a job."""

    steps: int = setting(1_000_000, "Maximum inner steps per training run of a job.", 1)
    replicas: int = setting(1024, "Maximum replicas per job.", 1)
    hyperparameters: int = setting(
        MAX_HYPERPARAMETERS, "Maximum hyperparameter values per job, over all its kinds.", 1
    )

    def violations(self, spec: JobSpec) -> Iterator[tuple[tuple[str, ...], str]]:
        """Path and message of each field that exceeds its limit, trials of a search among them."""
        own = dict(self._violations(spec))
        yield from own.items()
        if spec.search is None:
            return
        for path, parameter in spec.search.parameters.items():
            found = dict[tuple[str, ...], str]()
            for value in parameter.ends():
                with contextlib.suppress(ValidationError, LookupError):  # the search skips it
                    found |= dict(self._violations(spec.started_from({path: value})))
            for message in [found[field] for field in found if field not in own]:
                yield ("search", "parameters", path), message

    def _violations(self, spec: JobSpec) -> Iterator[tuple[tuple[str, ...], str]]:
        if spec.training.steps > self.steps:
            yield ("training", "steps"), too_many("steps", spec.training.steps, self.steps)
        if spec.replicas.count > self.replicas:
            count = spec.replicas.count
            yield ("replicas", "count"), too_many("replicas", count, self.replicas)
        counted = [h.entries(spec.sizes) or 0 for h in spec.hyperparameters]
        if sum(counted) > self.hyperparameters:
            message = too_many("hyperparameters", sum(counted), self.hyperparameters)
            yield ("hyperparameters",), message


def too_many(what: str, count: int, most: int) -> str:
    return f"this service accepts at most {most:,} {what} per job, got {count:,}"
