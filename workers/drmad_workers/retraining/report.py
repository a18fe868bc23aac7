"""What the training runs of a retraining say. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from drmad_workers.validation.mean_interval import MeanInterval, mean_interval

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Arms:
    """One held-out figure of both recipes.

    Attributes:
        tuned, untuned: over the seeds; None if every run diverged, or the figure was not finite.
        difference: tuned less untuned under the same seed; None without a pair.
    """

    tuned: MeanInterval | None
    untuned: MeanInterval | None
    difference: MeanInterval | None


@dataclass(frozen=True)
class RetrainingReport:
    """The result of a retraining.

    Attributes:
        steps: the inner steps of every training run.
        rows: the training rows of the untuned recipe.
        dropped: the training rows that the tuned recipe leaves out.
        seeds: the draws of weights and minibatches, the same ones for both recipes.
        diverged, untuned_diverged: the runs of each recipe that diverged; no figure counts them.
        with_validation: whether the validation rows are among the training rows.
        best_seed: the seed whose model is kept: that of the lowest validation loss, or the first
            where the validation rows were trained on. None if every run diverged.
        figures: by name, such as validation_loss or test_error.
    """

    steps: int
    rows: int
    dropped: int
    seeds: int
    diverged: int
    untuned_diverged: int
    with_validation: bool
    best_seed: int | None
    figures: dict[str, Arms]

    def as_dict(self) -> dict[str, Any]:
        """The fields of drmad_client.records.side_runs.retraining.RetrainingReport."""
        return asdict(self)


def report(
    steps: int,
    rows: int,
    dropped: int,
    with_validation: bool,
    untuned: Sequence[Figures | None],
    tuned: Sequence[Figures | None],
) -> RetrainingReport:
    """The means and intervals of both recipes.

    Args:
        steps, rows, dropped, with_validation: see RetrainingReport.
        untuned, tuned: the held-out figures by seed; None for a run that diverged.
    """
    names = list(dict.fromkeys(name for run in [*untuned, *tuned] if run for name in run))
    return RetrainingReport(
        steps,
        rows,
        dropped,
        len(tuned),
        tuned.count(None),
        untuned.count(None),
        with_validation,
        best_seed(tuned),
        {name: _arms(name, untuned, tuned) for name in names},
    )


def best_seed(tuned: Sequence[Figures | None]) -> int | None:
    """The seed whose model is kept; no figure of the test data has a part in the choice."""
    losses = [
        (run.get("validation_loss", 0.0), seed) for seed, run in enumerate(tuned) if run is not None
    ]
    return min(losses)[1] if losses else None


def _arms(name: str, untuned: Sequence[Figures | None], tuned: Sequence[Figures | None]) -> Arms:
    columns = [[_finite(name, run) for run in runs] for runs in (tuned, untuned)]
    pairs = [a - b for a, b in zip(*columns, strict=True) if a is not None and b is not None]
    found = [[value for value in column if value is not None] for column in columns]
    return Arms(mean_interval(found[0]), mean_interval(found[1]), mean_interval(pairs))


def _finite(name: str, run: Figures | None) -> float | None:
    value = None if run is None else run.get(name)
    return value if value is not None and isfinite(value) else None
