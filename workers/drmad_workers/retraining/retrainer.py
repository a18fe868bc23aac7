"""Trains from scratch with tuned hyperparameters, and with untuned ones under the same seeds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drmad_client.spec import bounds, defaults
from drmad_workers.data.shards import Part, Shards
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.hypergradients import Replay
from drmad_workers.hyperparameters.base import BoundHyperparameter, Kind
from drmad_workers.hyperparameters.example_weight import ExampleWeight
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.hyperparameters.sample_weight import BoundGroupWeight, SampleWeight
from drmad_workers.hyperparameters.training_data import TrainingData
from drmad_workers.problem import Problem
from drmad_workers.retraining.joined_data import with_validation
from drmad_workers.retraining.report import RetrainingReport, report
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import OnProgress
from drmad_workers.tuning import Tuner

FIRST_DRAW = 2**49
"""The draw of the first seed; no meta-iteration and no validation has a draw as high."""
FULL_WEIGHT = 40.0
"""The logit of the validation rows, whose weight is one to 1e-17."""


@dataclass(frozen=True)
class RetrainingSettings:
    """What is trained, and how often.

    Attributes:
        seeds: the draws of weights and minibatches, at least 2; each trains both recipes.
        with_validation: whether the training rows are those of the training and of the validation
            data, in both recipes. The validation rows then have a weight of one in the tuned one.
        threshold: leaves out the training rows whose tuned weight is below it; the others have the
            weight of the untuned recipe.
        drop_lowest: likewise leaves out the rows of lowest weight: a share of them below 1, or a
            number of rows. It excludes `threshold`.
    """

    seeds: int = defaults.Retraining.seeds
    with_validation: bool = False
    threshold: float | None = None
    drop_lowest: float | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "threshold", "drop_lowest"):
            value, allowed = getattr(self, name), getattr(bounds.Retraining, name)
            if value is not None and not allowed.hold(value):
                raise ProblemError(f"{name} must be {allowed}, got {value!r}", name)
        if self.threshold is not None and self.drop_lowest is not None:
            raise ProblemError(
                "threshold and drop_lowest both say which rows are left out: give one of them",
                "drop_lowest",
            )


class TrainingRunOf(NamedTuple):
    """One training run of a retraining."""

    seed: int
    tuned: bool


@dataclass(frozen=True)
class KeptRows(Shards):
    """Every replica holds all examples but the training rows that were dropped.

    Attributes:
        kept: the positions of the training rows, sorted, int64.
    """

    kept: tuple[int, ...] = ()

    def positions(self, part: Part, rows: int, replica: int) -> Tensor | None:
        return torch.tensor(self.kept) if part == "train" else None


class Retrainer:
    """Trains a problem with tuned hyperparameters, and with those that its kinds begin with.

    Attributes:
        runs: every training run, by seed, the untuned one first.
        rows: the number of training rows of the untuned recipe.
        dropped: the positions of the training rows that the tuned recipe leaves out, int64.
    """

    def __init__(
        self,
        problem: Problem,
        kinds: Sequence[Kind],
        training: TrainingConfig,
        values: Mapping[str, Tensor],
        settings: RetrainingSettings = RetrainingSettings(),
        scores: Tensor | None = None,
        method: Replay = Replay(),
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            problem, kinds, seed, device, dtype: see Tuner.
            training: the settings of every training run. Rates that are tuned per step are
                stretched to its steps, see `stretched`.
            values: the tuned λ by name; hyperparameters without one keep their initial values.
            settings: what is trained.
            scores: a score for every training row, shape (rows,), in the place of the tuned weight
                by which rows are left out.
            method: names the Hessian-vector product with which the problem is checked; nothing is
                differentiated.
        Raises:
            ProblemError: see Tuner; or the settings do not fit the problem.
        """
        self.settings = settings
        self._common = (kinds, training, method, seed, 0, device, dtype)
        alone = Tuner(problem, *self._common)
        self._train_rows = alone.train_examples.rows
        weights = {
            kind.name: kind.per if isinstance(kind, SampleWeight) else "example"
            for kind in kinds
            if isinstance(kind, SampleWeight | ExampleWeight)
        }
        values = dict(values)
        leaves_out = settings.threshold is not None or settings.drop_lowest is not None
        self.dropped = torch.zeros(0, dtype=torch.int64)
        if leaves_out:
            if scores is None:
                scores = _weights(alone, weights, values)
            self.dropped = _dropped(scores, self._train_rows, settings)
            for name in weights:
                values.pop(name, None)
        if settings.with_validation:
            _require_own_inputs(kinds)
            alone.close()
            problem = with_validation(problem)
            alone = Tuner(problem, *self._common)
        self._untuned = alone
        self.rows = alone.train_examples.rows
        self._tuned = self._without_dropped(problem, training) if leaves_out else alone
        self._values = {
            name: _fitted(bound, values.get(name), weights.get(name))
            for name, bound in alone.hyperparameters.items()
        }
        self.runs = [
            TrainingRunOf(number, tuned)
            for number in range(settings.seeds)
            for tuned in (False, True)
        ]

    def train(
        self,
        run: TrainingRunOf,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        keep_model: bool = False,
    ) -> tuple[dict[str, float], dict[str, Tensor]] | None:
        """The held-out figures of one training run, and its model as in Tuner.retrain.

        None if it diverged. Rows that were trained on have no figures.

        Raises:
            Stopped.
        """
        tuner = self._tuned if run.tuned else self._untuned
        values = self._values if run.tuned else tuner.initial_values()
        draw = FIRST_DRAW + run.seed
        try:
            figures, model = tuner.retrain(values, draw, should_stop, on_progress, keep_model)
        except TrainingDiverged:
            return None
        if self.settings.with_validation:
            figures = {n: v for n, v in figures.items() if not n.startswith("validation_")}
        return figures, model

    def report(self, figures: Sequence[Mapping[str, float] | None]) -> RetrainingReport:
        """What the figures of all `runs`, in their order, say."""
        return report(
            self._untuned.replica.training.steps,
            self.rows,
            len(self.dropped),
            self.settings.with_validation,
            figures[::2],
            figures[1::2],
        )

    def close(self) -> None:
        """Ends the processes that read data."""
        self._untuned.close()
        self._tuned.close()

    def _without_dropped(self, problem: Problem, training: TrainingConfig) -> Tuner:
        lost = set(self.dropped.tolist())
        kept = tuple(row for row in range(self.rows) if row not in lost)
        if len(kept) < training.batch_size:
            raise ProblemError(
                f"at least {training.batch_size} training rows, one minibatch, must be left, got "
                f"{len(kept)} of {self.rows}: leave fewer out",
                "drop_lowest" if self.settings.threshold is None else "threshold",
            )
        return Tuner(problem, *self._common, KeptRows(kept=kept))


def retrain(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig,
    values: Mapping[str, Tensor],
    settings: RetrainingSettings = RetrainingSettings(),
    scores: Tensor | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RetrainingReport:
    """The whole retraining in this process.

    Args:
        problem: the model, its data and its losses.
        kinds: the hyperparameters that were tuned.
        training: the settings of every training run. Rates that were tuned per step are stretched
            to its steps: step t of N has the rate of step ⌊(t + 1/2) T / N⌋ of T.
        values: the tuned λ by name; hyperparameters without one keep their initial values.
        settings: what is trained, and how often.
        scores: a score for every training row, shape (rows,), in the place of the tuned weight by
            which rows are left out.
        seed: the seed of all random streams.
        device: that of all tensors.
        dtype: that of all tensors; None takes the precision of the training.
        should_stop: see Tuner.evaluate.
        on_progress: called with the number of training runs done, and that of all of them.
    Raises:
        ProblemError, Stopped.
    """
    retrainer = Retrainer(
        problem, kinds, training, values, settings, scores, seed=seed, device=device, dtype=dtype
    )
    figures: list[Mapping[str, float] | None] = []
    try:
        for number, run in enumerate(retrainer.runs):
            if on_progress is not None:
                on_progress(number, len(retrainer.runs))
            trained = retrainer.train(run, should_stop)
            figures.append(None if trained is None else trained[0])
    finally:
        retrainer.close()
    return retrainer.report(figures)


def stretched(values: Tensor, layout: tuple[int, int]) -> Tensor:
    """Rates of T steps, shape (rows * T,), for another number of steps, shape (rows, N).

    Step t of N has the rate of step ⌊(t + 1/2) T / N⌋ of T, so that a table of factors and the
    tuned rates are stretched alike, and N = T changes nothing.
    """
    rows, steps = layout
    table = values.reshape(rows, -1)
    places = (torch.arange(steps, dtype=torch.float64) + 0.5) * table.shape[1] / steps
    return table[:, places.long()]


def _fitted(bound: BoundHyperparameter, values: Tensor | None, per: str | None) -> Tensor:
    """λ in the shape of the problem that is trained; `per` is that of a weight of examples."""
    if values is None:
        return bound.initial.clone()
    values = values.to(bound.initial.dtype)
    if values.shape == bound.shape:
        return values
    if isinstance(bound, BoundRate):
        return stretched(values, bound.layout).reshape(bound.shape)
    missing = bound.initial.flatten()[values.numel() :]
    if per not in (None, "class"):
        return torch.cat([values, torch.full_like(missing, FULL_WEIGHT)])
    if missing.numel() and values.ndim == 1:  # of a class that only validation rows have
        return torch.cat([values, missing])
    raise ProblemError(
        f"{bound.name} must have the shape {tuple(bound.shape)}, got {tuple(values.shape)}",
        "hyperparameters",
    )


def _weights(tuner: Tuner, names: Collection[str], values: Mapping[str, Tensor]) -> Tensor:
    """The weight of every training row: the product of all of its tuned weights."""
    if not names:
        raise ProblemError(
            "threshold and drop_lowest leave out rows by their tuned weight, and no sample_weight "
            "was tuned: leave them out",
            "drop_lowest",
        )
    total = torch.ones(tuner.train_examples.rows, dtype=torch.float64)
    for name in names:
        bound = tuner.hyperparameters[name]
        weights = bound.value(values.get(name, bound.initial)).cpu().double()
        if isinstance(bound, BoundGroupWeight):
            weights = torch.where(bound.group_of < 0, 0.0, weights[bound.group_of])
        total *= weights
    return total


def _dropped(scores: Tensor, rows: int, settings: RetrainingSettings) -> Tensor:
    """The positions of the training rows that are left out, in the order of their scores."""
    order = torch.argsort(scores, stable=True)
    if settings.threshold is not None:
        return order[: int((scores < settings.threshold).sum())]
    asked = settings.drop_lowest
    assert asked is not None
    return order[: max(1, round(asked * rows) if asked < 1 else int(asked))]


def _require_own_inputs(kinds: Sequence[Kind]) -> None:
    for kind in kinds:
        if isinstance(kind, TrainingData):
            raise ProblemError(
                f"{kind.name} tunes the training inputs themselves, so that validation rows would "
                "be no part of them: leave with_validation out",
                "with_validation",
            )
