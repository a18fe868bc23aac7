"""Retraining without some training rows, beside all of them under the same seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from drmad_client.spec import bounds
from drmad_workers.data.shards import Part, Shards
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.hypergradients import Replay
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.problem import Problem
from drmad_workers.training.config import TrainingConfig
from drmad_workers.tuning import Tuner
from drmad_workers.validation.mean_interval import MeanInterval, mean_interval

FIRST_DRAW = 2**49
"""The first seed; no meta-iteration and no validation has a draw as high."""


@dataclass(frozen=True)
class KeptRows(Shards):
    """Every replica holds all examples but the training rows that were dropped.

    Attributes:
        kept: the positions of the training rows, sorted, int64.
    """

    kept: tuple[int, ...] = ()

    def positions(self, part: Part, rows: int, replica: int) -> Tensor | None:
        return torch.tensor(self.kept) if part == "train" else None


@dataclass(frozen=True)
class Comparison:
    """One held-out figure with all rows and without the dropped ones, over the same seeds.

    Attributes:
        all_rows, without: over the seeds.
        difference: of `without` and `all_rows` under the same seed.
    """

    all_rows: MeanInterval
    without: MeanInterval
    difference: MeanInterval


@dataclass(frozen=True)
class FilteredTraining:
    """The result of `train_without`.

    Attributes:
        rows, dropped: the training rows, and how many of them were dropped.
        seeds: the draws of weights and minibatches; pairs of which a run diverged do not count.
        diverged: the training runs that diverged.
        figures: by name, such as validation_loss or test_error.
    """

    rows: int
    dropped: int
    seeds: int
    diverged: int
    figures: dict[str, Comparison]

    def as_dict(self) -> dict[str, Any]:
        """The fields of drmad_client.records.filtered_training.FilteredTrainingReport."""
        return asdict(self)


def train_without(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig,
    dropped: Tensor,
    values: Mapping[str, Tensor] | None = None,
    seeds: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FilteredTraining:
    """Trains with all rows and without the dropped ones, twice under each of the seeds.

    Args:
        problem, kinds, training, seed, device, dtype: see Tuner.
        dropped: the positions of the training rows that are left out, int64.
        values: λ by name, of the hyperparameters that do not keep their initial values.
        seeds: the number of draws of weights and minibatches, at least 2.
        should_stop: see Tuner.evaluate.
        on_progress: called with the number of training runs done, and that of all of them.
    Raises:
        ProblemError, Stopped; ProblemError also if too few rows are left for a minibatch.
    """
    if not bounds.FilteredTraining.seeds.hold(seeds):
        raise ProblemError(f"seeds must be {bounds.FilteredTraining.seeds}, got {seeds}", "seeds")
    common = (problem, kinds, training, Replay(), seed, 0, device, dtype)
    all_rows = Tuner(*common)
    rows = all_rows.train_examples.rows
    lost = set(dropped.tolist())
    kept = tuple(row for row in range(rows) if row not in lost)
    if len(kept) < training.batch_size:
        raise ProblemError(
            f"at least {training.batch_size} training rows, one minibatch, must be left, got "
            f"{len(kept)} of {rows}: drop fewer",
            "drop_lowest",
        )
    without = Tuner(*common, KeptRows(kept=kept))
    found: dict[str, list[tuple[float, float]]] = {}
    diverged = 0
    try:
        for number in range(seeds):
            pair: list[Mapping[str, float]] = []
            for arm, tuner in enumerate((all_rows, without)):
                if on_progress is not None:
                    on_progress(2 * number + arm, 2 * seeds)
                given = tuner.initial_values() | dict(values or {})
                try:
                    figures, _ = tuner.retrain(given, FIRST_DRAW + number, should_stop)
                    pair.append(figures)
                except TrainingDiverged:
                    diverged += 1
            if len(pair) == 2:
                for name in pair[0]:
                    if isfinite(pair[0][name]) and isfinite(pair[1][name]):
                        found.setdefault(name, []).append((pair[0][name], pair[1][name]))
    finally:
        all_rows.close()
        without.close()
    return FilteredTraining(
        rows, len(lost), seeds, diverged, {name: _compared(pairs) for name, pairs in found.items()}
    )


def _compared(pairs: Sequence[tuple[float, float]]) -> Comparison:
    columns = ([a for a, _ in pairs], [b for _, b in pairs], [b - a for a, b in pairs])
    intervals = [mean_interval(column) for column in columns]
    one, other, difference = (interval for interval in intervals if interval is not None)
    return Comparison(one, other, difference)
