"""Validation losses over the meta-iterations: the best one, their noise, and when to stop."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.state import LOSS_WINDOW, MetaState


def record_loss(state: MetaState, validation_loss: float) -> MetaState:
    """The state with one more validation loss: best iteration, patience, noise.

    Fresh weights and minibatches make the loss noisy. To reset the patience, a loss must therefore
    be lower than the reference by more than a standard error of the loss.
    """
    recent = (*state.recent_losses, validation_loss)[-LOSS_WINDOW:]
    noise = standard_error(recent)
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


def standard_error(losses: Sequence[float]) -> float:
    """The standard error of one loss, √(Σ d² / 2n) over the n differences d of consecutive losses.

    A slow trend contributes little to it.
    """
    differences = [after - before for before, after in pairwise(losses)]
    return math.sqrt(sum(d * d for d in differences) / (2 * len(differences) or 1))


def stop_reason(state: MetaState, config: MetaConfig) -> str | None:
    """Why the outer loop stops: "iterations" or "patience"; None while it continues."""
    if state.iteration >= config.iterations:
        return "iterations"
    if config.patience is not None and state.stale >= config.patience:
        return "patience"
    return None
