"""Training from scratch with the tuned hyperparameters, beside the untuned ones."""

from __future__ import annotations

from pydantic import Field

from drmad_client.records.base import Record
from drmad_client.records.side_runs.side_run import SideRun
from drmad_client.records.side_runs.validation import MeanInterval
from drmad_client.spec.side_runs.retraining import RetrainingSpec

_SHARES = ("error", "accuracy")
"""Endings of the names of figures that are shares, which are shown in percent."""


class RetrainedFigure(Record):
    """One held-out figure of both recipes, over the same seeds."""

    tuned: MeanInterval | None = Field(
        description="With the tuned hyperparameters; null if every training run diverged."
    )
    untuned: MeanInterval | None = Field(
        description="With the hyperparameters with which the job began; likewise."
    )
    difference: MeanInterval | None = Field(
        description="Tuned less untuned, under the same seeds; negative where the figure fell."
    )


class RetrainingReport(Record):
    """Training runs of both recipes under the same seeds."""

    steps: int = Field(description="Inner steps of every training run.")
    rows: int = Field(description="Number of training rows of the untuned recipe.")
    dropped: int = Field(description="Number of rows that the tuned recipe leaves out.")
    seeds: int = Field(description="Draws of weights and minibatches, the same for both recipes.")
    diverged: int = Field(description="Tuned training runs that diverged; no figure counts them.")
    untuned_diverged: int = Field(description="Untuned training runs that diverged.")
    with_validation: bool = Field(
        description="Whether both recipes trained on the validation rows too, which then have no "
        "figures."
    )
    best_seed: int | None = Field(
        description="Seed whose model is kept: that of the lowest validation loss, or the first "
        "where the validation rows were trained on; null if every run diverged."
    )
    figures: dict[str, RetrainedFigure] = Field(
        description="By name, such as validation_loss or test_error."
    )

    @property
    def headline(self) -> str:
        """The answer in a line: "test error 5.1 ± 0.4 % in place of 11.1 ± 1.9 %"."""
        name = self.headline_figure
        if name is None:
            return f"all {self.seeds} training runs with the tuned hyperparameters diverged"
        figure = self.figures[name]
        untuned = "a training that diverges"
        if figure.untuned is not None:
            untuned = plus_minus(figure.untuned, is_share(name))
        tuned = plus_minus(figure.tuned, is_share(name))
        return f"{name.replace('_', ' ')} {tuned} in place of {untuned}"

    @property
    def conditions(self) -> str:
        """Under which conditions the figures were measured, in a sentence."""
        dropped = f", {self.dropped} of {self.rows} rows left out" if self.dropped else ""
        rows = "training and validation rows" if self.with_validation else "training rows"
        lost = [
            f"{count} of the {what} runs diverged"
            for count, what in ((self.diverged, "tuned"), (self.untuned_diverged, "untuned"))
            if count
        ]
        return (
            f"{self.seeds} seeds, {self.steps} steps on the {rows}{dropped}; means with their "
            f"intervals at 95 %{''.join(f'; {each}' for each in lost)}"
        )

    @property
    def headline_figure(self) -> str | None:
        """The figure that counts most: an error before another metric, of test data if there are.

        None where no tuned run has a figure.
        """
        found = [name for name, figure in self.figures.items() if figure.tuned is not None]

        def order(name: str) -> tuple[bool, bool, bool]:
            return not name.startswith("test_"), name.endswith("_loss"), not is_share(name)

        return min(found, key=order, default=None)


class Retraining(SideRun):
    """One retraining of a job on the cluster."""

    iteration: int | None = Field(
        description="Meta-iteration whose hyperparameters are trained with; null for an "
        "attribution, which has none."
    )
    asked: RetrainingSpec = Field(description="What was asked for.")
    at_end: bool = Field(
        default=False, description="Whether the job's spec asked for it, by its field retrain."
    )
    report: RetrainingReport | None = None
    model_bytes: int | None = Field(
        default=None,
        description="Size of the model that is kept; null before the end, or if it is larger than "
        "max_model_bytes of the service.",
    )


def is_share(name: str) -> bool:
    """Whether a figure is a share by its name, and shown in percent."""
    return name.endswith(_SHARES)


def plus_minus(interval: MeanInterval | None, in_percent: bool = False) -> str:
    """A mean with half of its interval at 95 %: "5.1 ± 0.4 %" or "0.512 ± 0.031"."""
    if interval is None:
        return "–"
    half = None if interval.low is None else interval.mean - interval.low
    if in_percent:
        ends = "" if half is None else f" ± {100 * half:.1f}"
        return f"{100 * interval.mean:.1f}{ends} %"
    return f"{interval.mean:.4g}" + ("" if half is None else f" ± {half:.2g}")
