"""Rollback: repeats a meta-iteration whose validation loss is too high, with a smaller step."""

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from drmad_client.student import quantile
from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.estimates import noise_of
from drmad_workers.meta.line_search import after_rollback
from drmad_workers.meta.state import MetaState
from drmad_workers.meta.update import Bounds, outer_update


def rollback_reason(state: MetaState, validation_loss: float, config: MetaConfig) -> str | None:
    """Why a meta-iteration with this loss must be rolled back, or None.

    The last outer step was too long if the loss is not finite, or if it exceeds the best smoothed
    loss by more than a tenth of it and `rollback_tolerance` standard errors of the difference.
    These are wider where few losses tell the noise. Fewer than three losses tell nothing of it, and
    then every finite loss is accepted.
    """
    if not math.isfinite(validation_loss):
        return f"the validation loss is not finite ({validation_loss})"
    best, noise = state.best_validation_loss, noise_of(state.recent_losses)
    if config.rollback_tolerance is None or best is None or noise is None:
        return None
    best_error = noise.deviation if state.best_error is None else state.best_error
    widened = quantile(noise.freedom) / quantile(math.inf)
    allowed = config.rollback_tolerance * widened * math.hypot(noise.deviation, best_error)
    limit = best + 0.1 * abs(best) + allowed
    if validation_loss <= limit:
        return None
    return (
        f"the validation loss {validation_loss:.6g} exceeds the limit {limit:.6g}; "
        f"the best level is {best:.6g}"
    )


def rolled_back(
    state: MetaState,
    best: MetaState,
    hypergradient: Mapping[str, Tensor],
    config: MetaConfig,
    bounds: Mapping[str, Bounds] | None = None,
    covered: Mapping[str, Tensor] | None = None,
) -> MetaState:
    """The state that repeats the meta-iteration, half an outer step away from the best one.

    Args:
        state: the state whose meta-iteration is rolled back.
        best: the state with which the best meta-iteration trained.
        hypergradient: the hypergradient of the best meta-iteration.
        config: the outer optimizer.
        bounds: see `meta_update`.
        covered: the rows that have a gradient in the best meta-iteration, see `outer_update`.
    """
    is_auto = config.optimizer == "auto"  # its rate remembers the shorter step
    scale = state.step_scale if is_auto else 0.5 * state.step_scale
    slots = after_rollback(state, best, config.learning_rate) if is_auto else {}
    origin = replace(best, step_scale=scale, optimizer={**best.optimizer, **slots})
    hyperparameters, memory = outer_update(origin, hypergradient, config, bounds or {}, covered)
    memory |= slots
    return replace(
        state,
        hyperparameters=hyperparameters,
        optimizer=memory,
        step_scale=scale,
        rollbacks=state.rollbacks + 1,
    )
