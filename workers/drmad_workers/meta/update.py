"""The outer loop's state and its update; pure functions, so that a job resumes bit for bit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from drmad_workers.errors import EngineError, ProblemError
from drmad_workers.hypergradients.auto import Choice
from drmad_workers.hyperparameters.kinds import BoundHyperparameter

OuterOptimizer = Literal["sign", "sgd", "adam", "rmsprop"]
Bounds = tuple[float | None, float | None]

STATE_VERSION = 1
NOISE_WINDOW = 8
"""So many last validation losses tell how noisy they are."""


@dataclass(frozen=True)
class MetaConfig:
    """How the hyperparameters move.

    Attributes:
        optimizer: "sign" (λ -= η sign(g), as in the papers), "sgd", "adam" or "rmsprop"
            (both as in torch.optim, with its defaults).
        learning_rate: η > 0, in units of λ.
        iterations: budget of meta-iterations.
        rollback_tolerance: a meta-iteration is rolled back when its validation loss exceeds best
            by a tenth and this many standard errors; None accepts every finite loss.
        max_rollbacks: rollbacks in a row before the job fails; each halves the outer step.
        patience: ends after so many meta-iterations without a validation loss that is better by
            more than its noise; None for never.
    """

    optimizer: OuterOptimizer = "adam"
    learning_rate: float = 0.3
    iterations: int = 30
    rollback_tolerance: float | None = 5.0
    max_rollbacks: int = 5
    patience: int | None = None

    def __post_init__(self) -> None:
        optimizers = get_args(OuterOptimizer)
        if self.optimizer not in optimizers:
            raise ProblemError(
                f"optimizer must be one of {', '.join(optimizers)}, got {self.optimizer!r}",
                "meta.optimizer",
            )
        if not 0.0 < self.learning_rate < math.inf:
            raise ProblemError(
                f"learning_rate must be a positive number, got {self.learning_rate}",
                "meta.learning_rate",
            )
        if self.iterations < 0:
            raise ProblemError(
                f"iterations must be at least 0, got {self.iterations}", "meta.iterations"
            )
        if self.patience is not None and self.patience < 1:
            raise ProblemError(f"patience must be at least 1, got {self.patience}", "meta.patience")


ROLLBACK_DRAWS = 2**32
"""Draws between one rollback and the next: more than a job has meta-iterations."""


@dataclass(frozen=True)
class MetaState:
    """All that the next meta-iteration depends on.

    Attributes:
        hyperparameters: λ by name; the next meta-iteration trains with them.
        iteration: meta-iterations committed so far, and the number of the next one.
        version: of this layout.
        optimizer: what the outer optimizer remembers, as "<slot>/<name>".
        best_iteration: the one with the lowest validation loss; it trained with the λ *before*
            its update.
        best_validation_loss: of that iteration.
        reference_loss: what the patience compares with.
        stale: meta-iterations since the reference was beaten.
        recent_losses: the last NOISE_WINDOW validation losses.
        step_scale: of the outer learning rate; every rollback halves it.
        rollbacks: in a row, since a meta-iteration was last accepted.
        choice: what the method `auto` decided, and goes on from.
    """

    hyperparameters: dict[str, Tensor]
    iteration: int = 0
    version: int = STATE_VERSION
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best_iteration: int | None = None
    best_validation_loss: float | None = None
    reference_loss: float | None = None
    stale: int = 0
    recent_losses: tuple[float, ...] = ()
    step_scale: float = 1.0
    rollbacks: int = 0
    choice: Choice | None = None

    @property
    def draw(self) -> int:
        """Of its weights and minibatches: its number, or another one in every rollback.

        The draw may have had a part in the rollback.
        """
        return self.iteration + self.rollbacks * ROLLBACK_DRAWS

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name."""
        named = {f"hyperparameters/{name}": t for name, t in self.hyperparameters.items()}
        return named | {f"optimizer/{name}": t for name, t in self.optimizer.items()}

    def scalars(self) -> dict[str, Any]:
        """Everything else, as JSON takes it."""
        return {
            "version": self.version,
            "iteration": self.iteration,
            "best_iteration": self.best_iteration,
            "best_validation_loss": self.best_validation_loss,
            "reference_loss": self.reference_loss,
            "stale": self.stale,
            "recent_losses": list(self.recent_losses),
            "step_scale": self.step_scale,
            "rollbacks": self.rollbacks,
            "choice": None if self.choice is None else self.choice.as_dict(),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> "MetaState":
        """The state whose `tensors()` and `scalars()` these are."""
        if scalars["version"] != STATE_VERSION:
            raise EngineError(
                f"the state has version {scalars['version']} and this engine reads "
                f"{STATE_VERSION}: resume the job with the release that wrote it"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        choice = scalars.get("choice")
        rest = {
            **scalars,
            "recent_losses": tuple(scalars["recent_losses"]),
            "choice": None if choice is None else Choice.from_dict(choice),
        }
        return cls(under("hyperparameters/"), optimizer=under("optimizer/"), **rest)


def initial_state(hyperparameters: Mapping[str, BoundHyperparameter]) -> MetaState:
    """The state before the first meta-iteration."""
    return MetaState({name: bound.initial.clone() for name, bound in hyperparameters.items()})


def meta_update(
    state: MetaState,
    validation_loss: float,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds] | None = None,
    covered: Mapping[str, Tensor] | None = None,
) -> MetaState:
    """The state after one more meta-iteration; the old one is left as it is.

    Args:
        state: whose hyperparameters gave the other two.
        validation_loss: of this meta-iteration (the mean over the replicas).
        hypergradient: by name, in the shapes of λ.
        config: outer optimizer and patience.
        bounds: (lower, upper) of λ by name; λ is projected into them.
        covered: see `moved`.
    Raises:
        EngineError: a hypergradient is missing, has another shape or is not finite.
    """
    hyperparameters, memory = moved(state, hypergradient, config, bounds or {}, covered)
    return replace(
        judged(state, validation_loss),
        hyperparameters=hyperparameters,
        optimizer=memory,
        rollbacks=0,
    )


def rollback_reason(state: MetaState, validation_loss: float, config: MetaConfig) -> str | None:
    """Why a meta-iteration with this loss must be rolled back, or None.

    The last outer step went too far when the loss is not finite, or exceeds the best so far by more
    than a tenth of it and `rollback_tolerance` standard errors. Fewer than three losses give no
    estimate of the error.
    """
    if not math.isfinite(validation_loss):
        return f"the validation loss is {validation_loss}"
    best = state.best_validation_loss
    if config.rollback_tolerance is None or best is None or len(state.recent_losses) < 3:
        return None
    limit = best + 0.1 * abs(best) + config.rollback_tolerance * noise_of(state.recent_losses)
    if validation_loss <= limit:
        return None
    return f"the validation loss {validation_loss:.6g} is above {limit:.6g}; the best is {best:.6g}"


def rolled_back(
    state: MetaState,
    best: MetaState,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds] | None = None,
) -> MetaState:
    """The state that begins the same meta-iteration again, half an outer step from the best one.

    Args:
        state: whose meta-iteration is rolled back.
        best: the state with which the best meta-iteration trained.
        hypergradient: of the best meta-iteration.
    """
    scale = 0.5 * state.step_scale
    origin = replace(best, step_scale=scale)
    hyperparameters, memory = moved(origin, hypergradient, config, bounds or {})
    return replace(
        state,
        hyperparameters=hyperparameters,
        optimizer=memory,
        step_scale=scale,
        rollbacks=state.rollbacks + 1,
    )


def moved(
    state: MetaState,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds],
    covered: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Hyperparameters and the outer optimizer's memory after one step.

    `covered` names rows of λ, shape (rows,), bool: the others have no gradient in this step, and
    stay as they are with all that the optimizer remembers of them. No name means every row.
    """
    hyperparameters: dict[str, Tensor] = {}
    memory: dict[str, Tensor] = {}
    for name, value in state.hyperparameters.items():
        gradient = hypergradient.get(name)
        if gradient is None or gradient.shape != value.shape:
            got = "none" if gradient is None else f"shape {tuple(gradient.shape)}"
            raise EngineError(
                f"the hypergradient of {name!r} must have shape {tuple(value.shape)}, got {got}"
            )
        if not bool(gradient.isfinite().all()):
            raise EngineError(f"the hypergradient of {name!r} must be finite")
        gradient = gradient.to(value.dtype)
        rows = (covered or {}).get(name)
        there = None if rows is None else rows.view(-1, *(1,) * (value.ndim - 1))
        direction = outer_direction(config.optimizer, gradient, name, state, memory, there)
        lower, upper = bounds.get(name, (None, None))
        stepped = value - config.learning_rate * state.step_scale * direction
        if lower is not None or upper is not None:
            stepped = stepped.clamp(lower, upper)
        hyperparameters[name] = stepped if there is None else torch.where(there, stepped, value)
    return hyperparameters, memory


def outer_direction(
    optimizer: OuterOptimizer,
    gradient: Tensor,
    name: str,
    state: MetaState,
    memory: dict[str, Tensor],
    there: Tensor | None = None,
) -> Tensor:
    """What λ moves against, per unit of learning rate; new slots go into `memory`.

    adam (β 0.9 and 0.999, ε 1e-8) and rmsprop (decay 0.99, ε 1e-8) follow torch.optim. `there`,
    bool, broadcasts to the gradient: elsewhere the slots stay.
    """

    def slot(kind: str) -> Tensor:
        kept = state.optimizer.get(f"{kind}/{name}")
        return torch.zeros_like(gradient) if kept is None else kept

    def keep(kind: str, after: Tensor) -> Tensor:
        kept = after if there is None else torch.where(there, after, slot(kind))
        memory[f"{kind}/{name}"] = kept
        return kept

    if optimizer == "sign":
        return gradient.sign()
    if optimizer == "sgd":
        return gradient
    if optimizer == "rmsprop":
        square = keep("square", 0.99 * slot("square") + 0.01 * gradient.square())
        return gradient / (square.sqrt() + 1e-8)
    kept = state.optimizer.get(f"updates/{name}")
    one = torch.ones((), dtype=torch.int64) if there is None else there.to(torch.int64)
    updates = one if kept is None else kept + one
    memory[f"updates/{name}"] = updates
    first = keep("first", 0.9 * slot("first") + 0.1 * gradient)
    second = keep("second", 0.999 * slot("second") + 0.001 * gradient.square())
    # One count, or one for every row; a row that never had a gradient does not move anyway.
    count = int(updates) if updates.ndim == 0 else updates.clamp_min(1)
    scale = (second / (1.0 - 0.999**count)).sqrt() + 1e-8
    return first / (1.0 - 0.9**count) / scale


def judged(state: MetaState, validation_loss: float) -> MetaState:
    """The state with one more validation loss: best iteration, patience, noise.

    Fresh weights and minibatches make the loss noisy, so the patience asks for more than luck:
    the reference is beaten by a loss that is lower by a standard error, which is estimated from
    the differences of neighbouring losses (Σ d² / 2n, blind to a slow trend).
    """
    recent = (*state.recent_losses, validation_loss)[-NOISE_WINDOW:]
    noise = noise_of(recent)
    reference = state.reference_loss
    beaten = reference is None or validation_loss < reference - noise
    best = state.best_validation_loss
    is_best = best is None or validation_loss < best
    return replace(
        state,
        iteration=state.iteration + 1,
        best_iteration=state.iteration if is_best else state.best_iteration,
        best_validation_loss=validation_loss if is_best else best,
        reference_loss=validation_loss if beaten else reference,
        stale=0 if beaten else state.stale + 1,
        recent_losses=recent,
    )


def noise_of(losses: Sequence[float]) -> float:
    """Standard error of a loss, from the differences of neighbouring ones."""
    differences = [after - before for before, after in pairwise(losses)]
    return math.sqrt(sum(d * d for d in differences) / (2 * len(differences) or 1))


def finished(state: MetaState, config: MetaConfig) -> str | None:
    """Why the loop is over: "iterations", "patience", or None while it is not."""
    if state.iteration >= config.iterations:
        return "iterations"
    if config.patience is not None and state.stale >= config.patience:
        return "patience"
    return None
