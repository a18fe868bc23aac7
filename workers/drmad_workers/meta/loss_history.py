"""Validation losses over the meta-iterations: the best level, their noise, and when to stop."""

from collections.abc import Mapping
from dataclasses import replace

from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.estimates import (
    Estimate,
    isolated,
    level_of,
    noise_of,
    smoothed,
    upper_bound,
)
from drmad_workers.meta.overfitting import gap, start_figures
from drmad_workers.meta.state import LOSS_WINDOW, MetaState

SUPPORT = 3
"""The least losses by whose median a meta-iteration becomes the best, once there are so many."""


def record_loss(
    state: MetaState,
    validation_loss: float,
    metrics: Mapping[str, float] | None = None,
    cost: float = 1.0,
) -> MetaState:
    """The state with one more validation loss: best iteration, patience, noise, cost.

    Fresh weights and minibatches make the loss noisy, so the smoothed loss is judged. To reset the
    patience it must be lower than the reference by more than its standard error. To be the best,
    the median of at least SUPPORT losses must be lower with two standard errors added (see
    `upper_bound`), and its own loss may not be `isolated`: a single low loss may be luck.

    Args:
        metrics: the metrics of the meta-iteration, by name; the gap of overfitting joins them.
        cost: its cost in plain training runs.
    """
    start = start_figures(state.start_figures, validation_loss, metrics or {})
    metrics = {**(metrics or {}), **gap(start, validation_loss, metrics or {})}
    recent = (*state.recent_losses, validation_loss)[-LOSS_WINDOW:]
    noise = noise_of(recent)
    level = smoothed(recent, noise)
    reference, best = state.reference_loss, state.best_validation_loss
    beaten = reference is None or level.mean < reference - level.error
    bound = None
    if noise is None:
        is_best = best is None or level.mean < best
    else:
        bound = upper_bound(recent, max(level.draws, SUPPORT), noise)
        kept = state.best_bound
        if kept is None and best is not None:
            kept = best + 2.0 * noise.deviation  # the best so far is one loss
        before = smoothed(recent[:-1], noise)
        is_best = kept is None or (bound < kept and not isolated(recent, before.draws))
    return replace(
        state,
        iteration=state.iteration + 1,
        best_iteration=state.iteration if is_best else state.best_iteration,
        best_validation_loss=level.mean if is_best else best,
        best_error=_error(level) if is_best else state.best_error,
        best_bound=bound if is_best else state.best_bound,
        reference_loss=level.mean if beaten else reference,
        stale=0 if beaten else state.stale + 1,
        recent_losses=recent,
        recent_metrics=(*state.recent_metrics, metrics)[-LOSS_WINDOW:],
        start_figures=start,
        runs=state.runs + cost,
    )


def _error(level: Estimate) -> float | None:
    return level.error if level.freedom else None


def levels(state: MetaState) -> dict[str, Estimate]:
    """The smoothed validation loss and the smoothed metrics after the last meta-iteration.

    All are means over the same meta-iterations, by name; "validation_loss" is among them.
    """
    loss = smoothed(state.recent_losses, noise_of(state.recent_losses))
    found = {"validation_loss": loss}
    for name in state.recent_metrics[-1] if state.recent_metrics else ():
        values = [metrics[name] for metrics in state.recent_metrics if name in metrics]
        found[name] = level_of(values, loss.draws, noise_of(values))
    return found


def stop_reason(state: MetaState, config: MetaConfig) -> str | None:
    """Why the outer loop stops: "iterations" or "patience"; None while it continues."""
    if state.iteration >= config.iterations:
        return "iterations"
    return "patience" if out_of_patience(state, config) else None


def out_of_patience(state: MetaState, config: MetaConfig) -> bool:
    return config.patience is not None and state.stale >= config.patience
