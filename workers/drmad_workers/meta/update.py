"""The outer update: one step of the hyperparameters along a hypergradient.

All functions are pure, so that a resumed job repeats an uninterrupted one bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from drmad_workers.errors import EngineError
from drmad_workers.hypergradients.automatic.usefulness import OuterLoop
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.meta.config import MetaConfig, OuterOptimizer
from drmad_workers.meta.line_search import candidates, rate_of, settled
from drmad_workers.meta.loss_history import record_loss
from drmad_workers.meta.state import MetaState


class Bounds(NamedTuple):
    """What the outer update keeps a hyperparameter to.

    Attributes:
        lower, upper: the bounds of λ; None where there is none.
        pull_groups: see BoundHyperparameter.
    """

    lower: float | None = None
    upper: float | None = None
    pull_groups: Tensor | None = None


def bounds_of(bound: Mapping[str, BoundHyperparameter]) -> dict[str, Bounds]:
    return {name: Bounds(b.lower, b.upper, b.pull_groups) for name, b in bound.items()}


def meta_update(
    state: MetaState,
    validation_loss: float,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds] | None = None,
    covered: Mapping[str, Tensor] | None = None,
    metrics: Mapping[str, float] | None = None,
    cost: float = 1.0,
    trials: Sequence[float] = (),
) -> MetaState:
    """The state after one accepted meta-iteration; the argument `state` stays as it is.

    Args:
        state: the state with which the meta-iteration trained.
        validation_loss: the validation loss of the meta-iteration, averaged over the replicas.
        hypergradient: by name, in the shapes of λ.
        config: the outer optimizer.
        bounds: the bounds of λ by name; λ is projected onto them.
        covered: see `outer_update`.
        metrics: the metrics of the meta-iteration, by name.
        cost: its cost in plain training runs.
        trials: the validation losses at its `trial_points`; empty where none were tried.
    Raises:
        EngineError: a hypergradient is missing, has another shape or is not finite.
    """
    begun, slots = state, dict[str, Tensor]()
    if config.optimizer == "auto":
        points = trial_points(state, bounds or {}) if trials else []
        origin, slots = settled(
            state, validation_loss, hypergradient, points, trials, config.learning_rate
        )
        begun = replace(state, hyperparameters=origin, optimizer={**state.optimizer, **slots})
    hyperparameters, memory = outer_update(begun, hypergradient, config, bounds or {}, covered)
    memory |= slots
    return replace(
        record_loss(state, validation_loss, metrics, cost),
        hyperparameters=hyperparameters,
        optimizer=memory,
        rollbacks=0,
    )


def outer_update(
    state: MetaState,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds],
    covered: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """λ and the state of the outer optimizer after λ <- clamp(λ - η s u, lower, upper).

    η is the learning rate, s the state's step scale, u the direction of `outer_direction` for the
    hypergradient with the derivative ρ (λ - λ_0) / N of the regularization added; towards the means
    m of groups it is ρ (λ - m) / N, exactly, for the differences to a mean sum to zero.

    Args:
        covered: by name, the rows of λ that have a gradient in this step, shape (rows,), bool. The
            other rows keep their value and their optimizer state. A missing name covers all rows.
    Raises:
        EngineError: a hypergradient is missing, has another shape or is not finite.
    """
    hyperparameters: dict[str, Tensor] = {}
    memory: dict[str, Tensor] = {}
    rate = config.learning_rate
    if config.optimizer == "auto":
        rate = rate_of(state, rate, config.iterations)
    for name, value in state.hyperparameters.items():
        gradient = hypergradient.get(name)
        if gradient is None or gradient.shape != value.shape:
            got = "none" if gradient is None else f"shape {tuple(gradient.shape)}"
            raise EngineError(
                f"the hypergradient of {name!r} must have shape {tuple(value.shape)}, got {got}"
            )
        if not bool(gradient.isfinite().all()):
            wrong = int((~gradient.isfinite()).sum())
            raise EngineError(
                f"the hypergradient of {name!r} must be finite, got nan or infinity in {wrong} "
                "entries"
            )
        gradient = gradient.to(value.dtype)
        if config.regularization:
            groups = Bounds(*bounds.get(name, ())).pull_groups
            if groups is None:
                aim = state.optimizer.get(f"start/{name}", value)
                memory[f"start/{name}"] = aim
            else:
                aim = _group_means(value, groups)
            gradient = gradient + config.regularization / value.numel() * (value - aim)
        rows = (covered or {}).get(name)
        mask = None if rows is None else rows.view(-1, *(1,) * (value.ndim - 1))
        direction = outer_direction(config.optimizer, gradient, name, state, memory, mask)
        stepped = value - rate * state.step_scale * direction
        hyperparameters[name] = stepped if mask is None else torch.where(mask, stepped, value)
    return projected(hyperparameters, bounds), memory


def outer_loop(state: MetaState, config: MetaConfig, bounds: Mapping[str, Bounds]) -> OuterLoop:
    """What the method `auto` has to know of the outer loop in the meta-iteration of this state."""
    return OuterLoop(
        config.iterations, lambda gradient: outer_update(state, gradient, config, bounds)[0]
    )


def trial_points(state: MetaState, bounds: Mapping[str, Bounds]) -> list[dict[str, Tensor]]:
    """The λ that a meta-iteration of the optimizer `auto` tries beside its own; most try none."""
    return [projected(each, bounds) for each in candidates(state)]


def projected(values: Mapping[str, Tensor], bounds: Mapping[str, Bounds]) -> dict[str, Tensor]:
    """λ by name, projected onto its bounds."""
    return {name: _clamped(value, Bounds(*bounds.get(name, ()))) for name, value in values.items()}


def _clamped(value: Tensor, bounds: Bounds) -> Tensor:
    low, high = bounds.lower, bounds.upper
    return value if low is None and high is None else value.clamp(low, high)


def _group_means(value: Tensor, groups: Tensor) -> Tensor:
    """For every entry the mean of its group; an entry without a group is its own mean."""
    held = groups >= 0
    size = int(groups.max()) + 1
    sums = torch.zeros(max(size, 0), dtype=torch.float64)
    sums = sums.index_add(0, groups[held], value[held].double())
    means = sums / groups[held].bincount(minlength=size)
    return value.masked_scatter(held, means[groups[held]].to(value.dtype))


def outer_direction(
    optimizer: OuterOptimizer,
    gradient: Tensor,
    name: str,
    state: MetaState,
    memory: dict[str, Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """The direction u of λ -= η u, in the shape of the gradient; writes new slots into `memory`.

    adam (β 0.9 and 0.999, ε 1e-8) and rmsprop (decay 0.99, ε 1e-8) follow torch.optim. `mask`,
    bool, broadcasts to the gradient; where it is false, the slots stay as they are.
    """

    def slot(kind: str) -> Tensor:
        kept = state.optimizer.get(f"{kind}/{name}")
        return torch.zeros_like(gradient) if kept is None else kept

    def keep(kind: str, after: Tensor) -> Tensor:
        kept = after if mask is None else torch.where(mask, after, slot(kind))
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
    one = torch.ones((), dtype=torch.int64) if mask is None else mask.to(torch.int64)
    updates = one if kept is None else kept + one
    memory[f"updates/{name}"] = updates
    first = keep("first", 0.9 * slot("first") + 0.1 * gradient)
    second = keep("second", 0.999 * slot("second") + 0.001 * gradient.square())
    # `updates` is one count, or one for every row. A row without any gradient does not move.
    count = int(updates) if updates.ndim == 0 else updates.clamp_min(1)
    scale = (second / (1.0 - 0.999**count)).sqrt() + 1e-8
    return first / (1.0 - 0.9**count) / scale
