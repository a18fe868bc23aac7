"""The state of the outer loop: everything that the next meta-iteration depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from drmad_client.records.migration import migrate_scalars
from drmad_workers.errors import EngineError, ProblemError
from drmad_workers.hypergradients.automatic.choice import Choice
from drmad_workers.hyperparameters.base import BoundHyperparameter

STATE_VERSION = 4
"""The version that `MetaState.scalars` writes; `restore` also reads versions 1 to 3."""

LOSS_WINDOW = 16
"""The number of recent validation losses from which their noise is estimated."""

ROLLBACK_DRAWS = 2**32
"""Distance of the draws of consecutive rollbacks: more than a job has meta-iterations."""


@dataclass(frozen=True)
class MetaState:
    """Everything that the next meta-iteration depends on.

    Attributes:
        hyperparameters: λ by name; the next meta-iteration trains with them.
        iteration: number of committed meta-iterations, which is the index of the next one.
        version: version of this layout.
        optimizer: state of the outer optimizer, as "<slot>/<name>".
        best_iteration: the meta-iteration with the lowest `best_bound`. It trained with the λ
            *before* its update.
        best_validation_loss: the smoothed validation loss of `best_iteration`.
        best_error: its standard error; None while it is unknown.
        best_bound: the bound by which it became the best, see record_loss; None while no bound is
            known.
        reference_loss: the smoothed loss that a new one must beat to reset the patience.
        stale: number of meta-iterations since `reference_loss` was beaten.
        recent_losses: the last LOSS_WINDOW validation losses.
        recent_metrics: the metrics that belong to them, by name.
        start_figures: the losses from which overfitting counts; see meta.overfitting.
        runs: the cost of all meta-iterations so far, in plain training runs of a replica.
        step_scale: factor on the outer learning rate; every rollback halves it.
        rollbacks: consecutive rollbacks since the last accepted meta-iteration.
        choice: the decision of the method `auto`, from which it continues.
    """

    hyperparameters: dict[str, Tensor]
    iteration: int = 0
    version: int = STATE_VERSION
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best_iteration: int | None = None
    best_validation_loss: float | None = None
    best_error: float | None = None
    best_bound: float | None = None
    reference_loss: float | None = None
    stale: int = 0
    recent_losses: tuple[float, ...] = ()
    recent_metrics: tuple[Mapping[str, float], ...] = ()
    start_figures: Mapping[str, float] | None = None
    runs: float = 0.0
    step_scale: float = 1.0
    rollbacks: int = 0
    choice: Choice | None = None

    @property
    def draw(self) -> int:
        """Fixes initial weights and minibatches; it differs after every rollback.

        An unlucky draw may have caused the rollback, and would cause it again.
        """
        return self.iteration + self.rollbacks * ROLLBACK_DRAWS

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name."""
        named = {f"hyperparameters/{name}": t for name, t in self.hyperparameters.items()}
        return named | {f"optimizer/{name}": t for name, t in self.optimizer.items()}

    def scalars(self) -> dict[str, Any]:
        """Everything except the tensors, serializable as JSON."""
        return {
            "version": self.version,
            "iteration": self.iteration,
            "best_iteration": self.best_iteration,
            "best_validation_loss": self.best_validation_loss,
            "best_error": self.best_error,
            "best_bound": self.best_bound,
            "reference_loss": self.reference_loss,
            "stale": self.stale,
            "recent_losses": list(self.recent_losses),
            "recent_metrics": [dict(metrics) for metrics in self.recent_metrics],
            "start_figures": None if self.start_figures is None else dict(self.start_figures),
            "runs": self.runs,
            "step_scale": self.step_scale,
            "rollbacks": self.rollbacks,
            "choice": None if self.choice is None else self.choice.as_dict(),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> "MetaState":
        """The state whose `tensors()` and `scalars()` these are; reads versions 1 to 4.

        Raises:
            EngineError: another release wrote the state, in a version that this one cannot read.
        """
        scalars = migrate_scalars(scalars)
        if scalars["version"] != STATE_VERSION:
            raise EngineError(
                f"the version of a state must be at most {STATE_VERSION}, got "
                f"{scalars['version']}: resume the job with the release that wrote it"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        choice = scalars.get("choice")
        others = {
            **scalars,
            "recent_losses": tuple(scalars["recent_losses"]),
            "recent_metrics": tuple(scalars["recent_metrics"]),
            "choice": None if choice is None else Choice.from_dict(choice),
        }
        return cls(under("hyperparameters/"), optimizer=under("optimizer/"), **others)


def require_fit(state: MetaState, hyperparameters: Mapping[str, BoundHyperparameter]) -> None:
    """
    Raises:
        ProblemError: the state belongs to hyperparameters of other names or shapes.
    """
    shapes = {name: tuple(value.shape) for name, value in state.hyperparameters.items()}
    expected = {name: tuple(bound.shape) for name, bound in hyperparameters.items()}
    for name in expected | shapes:
        if shapes.get(name) != expected.get(name):
            raise ProblemError(
                f"the state must hold {_described(name, expected)}, got "
                f"{_described(name, shapes)}: continue under the settings that led to the state "
                "(a schedule per step keeps its number of steps), or begin without it",
                f"hyperparameters.{name}",
            )


def _described(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name!r} of shape {shapes[name]}" if name in shapes else f"no {name!r}"


def initial_state(hyperparameters: Mapping[str, BoundHyperparameter]) -> MetaState:
    """The state before the first meta-iteration, at the initial λ."""
    return MetaState({name: bound.initial.clone() for name, bound in hyperparameters.items()})
