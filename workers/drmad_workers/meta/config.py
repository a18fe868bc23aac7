"""The settings of the outer loop."""

from dataclasses import dataclass
from typing import Literal, get_args

from drmad_client.spec import bounds, defaults
from drmad_workers.errors import ProblemError, require_bounds

OuterOptimizer = Literal["sign", "sgd", "adam", "rmsprop"]


@dataclass(frozen=True)
class MetaConfig:
    """How the hyperparameters are updated, and when the outer loop stops.

    Attributes:
        optimizer: "sign" (λ -= η sign(g), as in the papers), "sgd", "adam" or "rmsprop"
            (both as in torch.optim, with its defaults).
        learning_rate: η > 0, in units of λ.
        iterations: the maximum number of meta-iterations.
        rollback_tolerance: a meta-iteration is rolled back when its validation loss exceeds the
            best by more than a tenth and this many standard errors. None accepts every finite
            loss.
        max_rollbacks: consecutive rollbacks before the job fails; each halves the outer step.
        patience: consecutive meta-iterations without a significantly better validation loss before
            the loop stops; None never stops early.
        confirmation: the share of all training runs that may confirm the result, in [0, 0.5]; 0
            confirms nothing. See meta.confirmation.
    """

    optimizer: OuterOptimizer = defaults.Meta.optimizer
    learning_rate: float = defaults.Meta.learning_rate
    iterations: int = defaults.Meta.iterations
    rollback_tolerance: float | None = defaults.Meta.rollback_tolerance
    max_rollbacks: int = defaults.Meta.max_rollbacks
    patience: int | None = None
    confirmation: float = defaults.Meta.confirmation

    def __post_init__(self) -> None:
        optimizers = get_args(OuterOptimizer)
        if self.optimizer not in optimizers:
            raise ProblemError(
                f"optimizer must be one of {', '.join(optimizers)}, got {self.optimizer!r}",
                "meta.optimizer",
            )
        require_bounds(self, bounds.Meta, "meta")
