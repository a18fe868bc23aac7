"""Truncation: what the exact methods over the last N inner steps share."""

from dataclasses import dataclass

from drmad_workers.hypergradients.method import Method, check_horizon, last_steps
from drmad_workers.training.config import TrainingConfig


@dataclass(frozen=True)
class TruncatedMethod(Method):
    """An exact method that differentiates the last N inner steps.

    Attributes:
        horizon: N; None for T.
    """

    horizon: int | None = None

    @property
    def lockstep(self) -> bool:
        return self.hvp == "exact"

    def check(self, training: TrainingConfig) -> None:
        check_horizon(self.horizon, training.steps)

    def steps(self, training: TrainingConfig) -> range:
        return last_steps(self.horizon, training)
