"""The settings of the outer loop."""

from dataclasses import dataclass
from typing import Literal, get_args

from drmad_client.spec import bounds, defaults
from drmad_workers.errors import ProblemError, require_bounds

OuterOptimizer = Literal["auto", "sign", "sgd", "adam", "rmsprop"]
Mode = Literal["restart", "online"]


@dataclass(frozen=True)
class MetaConfig:
    """How the hyperparameters are updated, and when the outer loop stops.

    Attributes:
        optimizer: "sign" (λ -= η sign(g), as in the papers), "sgd", "adam" or "rmsprop"
            (both as in torch.optim, with its defaults); "auto" is adam with a step length that
            retraining chooses, see meta.line_search.
        learning_rate: η > 0, in units of λ; that of the first step for "auto".
        iterations: the maximum number of meta-iterations. An online run has one for each of its
            windows, and does not read this.
        rollback_tolerance: a meta-iteration is rolled back when its validation loss exceeds the
            best by more than a tenth and this many standard errors. None accepts every finite
            loss.
        max_rollbacks: consecutive rollbacks before the job fails; each halves the outer step.
        patience: consecutive meta-iterations without a significantly better validation loss before
            the loop stops; None never stops early.
        confirmation: the share of all training runs that may confirm the result, in [0, 0.5]; 0
            confirms nothing. See meta.confirmation. An online run is not confirmed: the loss of a
            window is that of weights which trained under the hyperparameters of all windows so
            far, so that it says nothing of those of one window.
        judging_share: the share of the validation examples that no hypergradient sees, in [0, 0.5].
            Validation loss, best, patience and rollback go by them; see meta.overfitting. An online
            run differentiates all.
        regularization: ρ >= 0; the outer objective gains ρ/2 mean((λ - λ_0)²) for every tensor λ,
            where λ_0 are the hyperparameters of the first update; for weights of examples with
            pull_to="class" it gains ρ/2 mean((λ_i - m_i)²), with the mean m_i of the class of i.
        mode: "restart" trains anew in every meta-iteration. "online" moves the hyperparameters
            after every window of one training run, see drmad_workers.online.
        window: the inner steps between two updates of an online run, which has a whole number of
            windows.
        validation_batch: the validation rows whose loss a window of an online run differentiates,
            other ones in every window; None takes all. Metrics are those of all rows.
    """

    optimizer: OuterOptimizer = defaults.Meta.optimizer
    learning_rate: float = defaults.Meta.learning_rate
    iterations: int = defaults.Meta.iterations
    rollback_tolerance: float | None = defaults.Meta.rollback_tolerance
    max_rollbacks: int = defaults.Meta.max_rollbacks
    patience: int | None = None
    confirmation: float = defaults.Meta.confirmation
    judging_share: float = defaults.Meta.judging_share
    regularization: float = defaults.Meta.regularization
    mode: Mode = "restart"
    window: int = defaults.Online.window
    validation_batch: int | None = defaults.Online.validation_batch

    def __post_init__(self) -> None:
        for name, allowed in (("optimizer", get_args(OuterOptimizer)), ("mode", get_args(Mode))):
            if getattr(self, name) not in allowed:
                raise ProblemError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}",
                    f"meta.{name}",
                )
        if self.mode == "online" and self.optimizer == "auto":
            raise ProblemError(
                "optimizer must be another one with mode online, whose windows cannot be trained "
                "again at other hyperparameters, got 'auto': take adam",
                "meta.optimizer",
            )
        require_bounds(self, bounds.Meta, "meta")
        require_bounds(self, bounds.Online, "meta")
