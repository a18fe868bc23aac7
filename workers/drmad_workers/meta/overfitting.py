"""Overfitting of the validation data: what tuning gains where its hypergradient looks, and beyond.

Where a part of the validation examples judges (`meta.judging_share`), every meta-iteration has two
losses: `validation_loss` of the examples that judge, and `fitted_loss` of those that are
differentiated. Both parts differ in difficulty already before tuning, so that the gap counts from
the first meta-iteration on.
"""

import math
from collections.abc import Mapping, Sequence

from drmad_client.student import quantile
from drmad_workers.meta.estimates import level_of, noise_of, smoothed

FITTED, GAP = "fitted_loss", "overfitting"
"""The metrics: the loss on the differentiated examples, and the growth of the gap."""

DOUBTFUL_SHARE = 0.5
"""The share of the gain on the differentiated examples whose loss elsewhere is a warning."""


def start_figures(
    start: Mapping[str, float] | None, validation_loss: float, metrics: Mapping[str, float]
) -> Mapping[str, float] | None:
    """The two losses of the first meta-iteration that has both; None while there is none."""
    if start is not None or FITTED not in metrics:
        return start
    return {"validation_loss": validation_loss, FITTED: metrics[FITTED]}


def gap(
    start: Mapping[str, float] | None, validation_loss: float, metrics: Mapping[str, float]
) -> dict[str, float]:
    """The metric GAP: by how much (validation loss - fitted loss) has grown; no entry without."""
    if start is None or FITTED not in metrics:
        return {}
    before = start["validation_loss"] - start[FITTED]
    return {GAP: validation_loss - metrics[FITTED] - before}


def overfitting_doubt(
    start: Mapping[str, float] | None,
    metrics: Sequence[Mapping[str, float]],
) -> str | None:
    """A warning where the judging examples have less than half of what the others gained.

    The smoothed gap must exceed zero by its error at 97.5 %, to which the single first draw adds
    the noise of one.

    Args:
        start: see `start_figures`.
        metrics: those of the last meta-iterations, as in MetaState.
    """
    gaps = [each[GAP] for each in metrics if GAP in each]
    noise = noise_of(gaps)
    if start is None or noise is None:
        return None
    level = smoothed(gaps, noise)
    fitted = level_of([each[FITTED] for each in metrics if GAP in each], level.draws, None).mean
    gain = start[FITTED] - fitted
    certain = quantile(noise.freedom) * math.hypot(level.error, noise.deviation)
    if gain <= 0.0 or level.mean <= max(certain, DOUBTFUL_SHARE * gain):
        return None
    return (
        f"the validation data are overfitted: tuning lowers the loss by {gain:.3g} on the examples "
        f"that it differentiates, and by {gain - level.mean:.3g} on those that judge "
        "(meta.judging_share); give more validation data, fewer hyperparameters, a patience "
        "(meta.patience) or a pull towards the start (meta.regularization)"
    )
