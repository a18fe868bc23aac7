"""The verdict on a job: its figure beside the untuned one, its trend, and what limits it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from drmad_client.records import verdict
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.side_runs.confirmation import Interval
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.records.side_runs.validation import MeanInterval

_RISING = ("accuracy",)
_FALLING = ("error", "loss")
_PREFERRED = ("test_error", "test_accuracy", "test_loss", "validation_error", "validation_accuracy")

Tone = Literal["better", "worse", "level", "unsure"]


@dataclass(frozen=True)
class JobVerdict:
    """What the top of a job's page says.

    Attributes:
        label, value, interval: the figure after tuning.
        comparison: how it stands to the untuned figure, in a sentence.
        tone: better or worse where the difference is significant, level where it is measured and
            not significant, unsure where it is not measured.
        source: what the figures come from.
        is_of_test_data: whether data measure it that had no part in the tuning.
        basis: what the figures were measured on, in words.
        trend: whether the validation loss still falls.
        limit: what keeps it from being better; empty where nothing is known.
    """

    label: str
    value: str
    interval: str
    comparison: str
    tone: Tone
    source: Literal["retraining", "confirmation", "smoothed"]
    is_of_test_data: bool
    basis: str
    trend: str = ""
    limit: str = ""


def judged(
    job: JobRecord,
    first: MetaIteration | None,
    earlier: MetaIteration | None,
    last: MetaIteration | None,
    retrained: Retraining | None = None,
) -> JobVerdict | None:
    """The verdict; None before the first meta-iteration, and for an attribution.

    Args:
        first: the meta-iteration with the hyperparameters before tuning, if it is kept.
        earlier: one some time before the last, for the trend.
        retrained: the one of `counted`, which is judged before all else: it alone trains both
            recipes from scratch under the same seeds.
    """
    best = job.best
    if best is None or job.spec.kind == "attribution":
        return None
    if found := _retrained(job, earlier, last, retrained):
        return found
    tuned = {"validation_loss": best.validation_loss} | best.metrics
    name = _judged_figure(tuned) or "validation_loss"
    confirmed = job.confirmation if best.draws else None
    untuned: Interval | None = None
    if confirmed is not None and confirmed.first is not None:
        untuned = confirmed.first.figures.get(name)
    elif first is not None and job.spec.meta.mode != "online":
        start = {"validation_loss": first.validation_loss} | first.metrics
        untuned = Interval(mean=start[name]) if name in start else None
    after = best.intervals.get(name) or Interval(mean=tuned[name])
    is_untuned = best.iteration == _begin(job)
    comparison, tone = _comparison(name, after, untuned, is_untuned)
    if confirmed and confirmed.gain and name == "validation_loss" and not is_untuned:
        comparison, tone = _paired(name, untuned, _reversed(confirmed.gain), "draws")
    if job.spec.meta.mode == "online":
        comparison = "An online job has no untuned run to compare with: Retrain trains both."
    basis = "smoothed, not confirmed by retraining"
    if confirmed is not None:
        basis = f"means of {best.draws} training runs with fresh draws, intervals at 95 %"
    elif job.spec.meta.mode == "online":
        basis = "of the one run that the job trained, not confirmed by retraining"
    elif not job.status.is_terminal:
        basis = f"smoothed over the last {job.counted_in}s; the job confirms it at its end"
    is_of_test_data = name.startswith("test")
    if not is_of_test_data:
        basis += "; measured on the validation data, by which the hyperparameters were tuned"
    return JobVerdict(
        label=verdict.label(name),
        value=verdict.figure(name, tuned[name]),
        interval=verdict.interval(name, best.intervals.get(name)),
        comparison=comparison,
        tone=tone,
        source="smoothed" if confirmed is None else "confirmation",
        is_of_test_data=is_of_test_data,
        basis=basis,
        trend=_trend(job, earlier, last),
        limit=_limit(job),
    )


def counted(job: JobRecord, retrainings: Sequence[Retraining]) -> Retraining | None:
    """The retraining by which the result of a job is judged; None without one.

    It trained with the best hyperparameters of the job: those of another meta-iteration say nothing
    of these. The one that the spec asked for comes before one that a user requested later, perhaps
    with other rows.

    Args:
        retrainings: those of the job, the newest first.
    """
    best = None if job.best is None else job.best.iteration
    found = [each for each in retrainings if each.report and each.iteration == best]
    return max(found, key=lambda each: each.at_end, default=None)


def _retrained(
    job: JobRecord,
    earlier: MetaIteration | None,
    last: MetaIteration | None,
    retrained: Retraining | None,
) -> JobVerdict | None:
    """The verdict of a retraining; None without one, or if all of its tuned runs diverged."""
    report = retrained.report if retrained else None
    figures = {name: each for name, each in report.figures.items() if each.tuned} if report else {}
    name = _judged_figure(figures) or (report.headline_figure if report else None)
    if retrained is None or report is None or name is None:
        return None
    figure = figures[name]
    tuned = _interval(figure.tuned)
    assert tuned is not None
    comparison, tone = _paired(
        name, _interval(figure.untuned), _interval(figure.difference), "seeds"
    )
    basis = f"retrained from scratch: {report.conditions}"
    if retrained.iteration is not None:
        basis += f"; hyperparameters of {job.counted_in} {retrained.iteration + 1}"
    return JobVerdict(
        label=verdict.label(name),
        value=verdict.figure(name, tuned.mean),
        interval=verdict.interval(name, tuned),
        comparison=comparison,
        tone=tone,
        source="retraining",
        is_of_test_data=name.startswith("test"),
        basis=basis,
        trend=_trend(job, earlier, last),
        limit=_limit(job),
    )


def _judged_figure(names: Collection[str]) -> str | None:
    """Of the figures that are better lower or higher, an error or accuracy of test data if any."""

    def order(name: str) -> tuple[bool, bool, bool]:
        return not name.startswith("test_"), name.endswith("loss"), name not in _PREFERRED

    directed = (name for name in names if name.endswith((*_FALLING, *_RISING)))
    return min(directed, key=order, default=None)


def _paired(
    name: str, untuned: Interval | None, change: Interval | None, under: str
) -> tuple[str, Tone]:
    """Judges by the difference under the same seeds or draws, which is surer than two intervals."""
    if untuned is None:
        return "The untuned training runs diverge.", "better"
    shown = verdict.figure(name, untuned.mean)
    if found := verdict.interval(name, untuned):
        shown += f" ({found})"
    if change is None or not name.endswith((*_FALLING, *_RISING)):
        return f"Untuned: {shown}.", "unsure"
    gain = -change.mean if name.endswith(_FALLING) else change.mean
    is_better, sentence = gain > 0, _versus(name, gain, shown)
    if change.low is None or change.high is None:
        return f"{sentence}, by one of the {under} without an interval.", "unsure"
    if change.low <= 0.0 <= change.high:
        return f"{sentence}, but {under} differ as much: this may be chance.", "level"
    return (
        f"{sentence}; the difference under the same {under} is significant.",
        "better" if is_better else "worse",
    )


def _interval(found: MeanInterval | None) -> Interval | None:
    return None if found is None else Interval(mean=found.mean, low=found.low, high=found.high)


def _reversed(gain: Interval) -> Interval:
    """The change that is the negative of a gain."""
    low, high = (None if end is None else -end for end in (gain.high, gain.low))
    return Interval(mean=-gain.mean, low=low, high=high)


def _versus(name: str, gain: float, untuned: str) -> str:
    """A gain over the untuned figure in words: "6.00 points better than the untuned 11.00 %"."""
    size = f"{abs(gain):.3g}"
    if name.endswith(("error", "accuracy")):
        size = f"{100 * abs(gain):.2f} points"
    if not float(size.removesuffix(" points")):
        return f"No difference from the untuned {untuned}"
    return f"{size} {'better' if gain > 0 else 'worse'} than the untuned {untuned}"


def _begin(job: JobRecord) -> int:
    return int((job.forked_from or "@0").partition("@")[2])


def _comparison(
    name: str, after: Interval, untuned: Interval | None, is_first: bool
) -> tuple[str, Tone]:
    if untuned is None:
        return "The untuned figure is not kept.", "unsure"
    shown = verdict.figure(name, untuned.mean)
    if found := verdict.interval(name, untuned):
        shown += f" ({found})"
    if is_first:
        return f"The untuned hyperparameters are the best so far, with {shown}.", "unsure"
    gain = untuned.mean - after.mean if name.endswith(_FALLING) else after.mean - untuned.mean
    if not name.endswith((*_FALLING, *_RISING)):
        return f"Untuned: {shown}.", "unsure"
    sentence = _versus(name, gain, shown)
    if None in (after.low, after.high, untuned.low, untuned.high):
        return f"{sentence}, which is one training run without an interval.", "unsure"
    assert after.low is not None
    assert after.high is not None
    assert untuned.low is not None
    assert untuned.high is not None
    if after.high < untuned.low or untuned.high < after.low:
        return f"{sentence}; the intervals do not overlap.", "better" if gain > 0 else "worse"
    return f"{sentence}, but the intervals overlap: this may be chance.", "level"


def _trend(job: JobRecord, earlier: MetaIteration | None, last: MetaIteration | None) -> str:
    if earlier is None or last is None or earlier.iteration >= last.iteration:
        return ""
    was, now = (each.smoothed.get("validation_loss") for each in (earlier, last))
    if was is None or now is None:
        return ""
    over = f"over the last {last.iteration - earlier.iteration} {job.counted_in}s"
    figures = f"{was.mean:.4g} to {now.mean:.4g}"
    if was.low is None or was.high is None or now.low is None or now.high is None:
        return f"Smoothed validation loss {over}: {figures}."
    if now.high < was.low:
        return f"The validation loss still falls {over}: {figures}."
    if now.low > was.high:
        return f"The validation loss rises {over}: {figures}."
    return f"The validation loss is level {over}: {figures}, within its noise."


def _limit(job: JobRecord) -> str:
    codes = {warning.code for warning in job.warnings}
    if job.error is not None:
        return f"The job failed: {job.error.code.replace('_', ' ')}."
    if "fidelity_low" in codes:
        return "What limits it: the hypergradient of its method differs from the exact one."
    if "draws_disagree" in codes:
        return "What limits it: two draws disagree on the hypergradient; more replicas average it."
    if "overfitting" in codes:
        return "What limits it: the hyperparameters fit the validation data; more of these help."
    if job.status == "succeeded" and job.reason == "iterations":
        return f"It ended by its number of {job.counted_in}s; Extend continues it."
    if job.status == "succeeded":
        return f"It ended by {job.reason.replace('_', ' ')}: {job.message}." if job.message else ""
    return ""


def earlier_than(iterations: int) -> int:
    """The meta-iteration that the last one is compared with for the trend."""
    return max(0, iterations - 1 - max(3, iterations // 4))


def probe_rows(measured: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """One row for each method of each fidelity probe: cosine, signs, length and cost."""
    return [
        {
            "iteration": choice.get("iteration"),
            "chosen": probe["method"] == choice.get("method"),
            **probe,
        }
        for choice in measured
        for probe in _list(choice.get("probes"))
    ]


def _list(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []
