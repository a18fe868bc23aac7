"""The verdict on a job: its figure beside the untuned one, its trend, and doubts about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drmad_client.records import verdict
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.side_runs.confirmation import Interval
from drmad_client.records.side_runs.retraining import RetrainedFigure, Retraining
from drmad_client.records.side_runs.validation import MeanInterval, Validation

_RISING = ("accuracy",)
_FALLING = ("error", "loss")
_PREFERRED = ("test_error", "test_accuracy", "test_loss", "validation_error", "validation_accuracy")
_SERIOUS = ("fidelity_low", "draws_disagree", "overfitting")
"""Codes of warnings after which a result is not to be trusted."""


@dataclass(frozen=True)
class JobVerdict:
    """What the top of a job's page says.

    Attributes:
        label, value, interval: the figure after tuning.
        comparison: how it stands to the untuned figure, in a sentence.
        tone: better or worse where the intervals do not overlap, unsure otherwise.
        basis: what the figures were measured on.
        trend: whether the validation loss still falls.
        limit: what keeps it from being better; empty where nothing is known.
    """

    label: str
    value: str
    interval: str
    comparison: str
    tone: Literal["better", "worse", "unsure"]
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
        retrained: a retraining with a report, which is judged before all else: it alone trains
            both recipes from scratch under the same seeds.
    """
    best = job.best
    if best is None or job.spec.kind == "attribution":
        return None
    if found := _retrained(job, earlier, last, retrained):
        return found
    tuned = {"validation_loss": best.validation_loss} | best.metrics
    name = next((name for name in _PREFERRED if name in tuned), "validation_loss")
    confirmed = job.confirmation if best.draws else None
    is_confirmed = confirmed is not None and confirmed.first is not None
    untuned: Interval | None = None
    if confirmed is not None and confirmed.first is not None:
        untuned = confirmed.first.figures.get(name)
    elif first is not None and job.spec.meta.mode != "online":
        start = {"validation_loss": first.validation_loss} | first.metrics
        untuned = Interval(mean=start[name]) if name in start else None
    after = best.intervals.get(name) or Interval(mean=tuned[name])
    comparison, tone = _comparison(name, after, untuned, best.iteration == _begin(job))
    if job.spec.meta.mode == "online":
        comparison = "An online job has no untuned run to compare with: Retrain trains both."
    basis = "smoothed, not confirmed by retraining"
    if is_confirmed:
        basis = f"means of {best.draws} training runs with fresh draws, intervals at 95 %"
    elif job.spec.meta.mode == "online":
        basis = "of the one run that the job trained, not confirmed by retraining"
    elif not job.status.is_terminal:
        basis = f"smoothed over the last {job.counted_in}s; the job confirms it at its end"
    if not name.startswith("test"):
        basis += "; measured on the validation data, by which the hyperparameters were tuned"
    return JobVerdict(
        label=name.replace("_", " ").capitalize(),
        value=verdict.figure(name, tuned[name]),
        interval=verdict.interval(name, best.intervals.get(name)),
        comparison=comparison,
        tone=tone,
        basis=basis,
        trend=_trend(job, earlier, last),
        limit=_limit(job),
    )


def _retrained(
    job: JobRecord,
    earlier: MetaIteration | None,
    last: MetaIteration | None,
    retrained: Retraining | None,
) -> JobVerdict | None:
    """The verdict of a retraining; None without one, or if all of its tuned runs diverged."""
    report = retrained.report if retrained else None
    name = report.headline_figure if report else None
    if retrained is None or report is None or name is None:
        return None
    figure = report.figures[name]
    assert figure.tuned is not None
    comparison, tone = _paired(name, figure)
    basis = f"retrained from scratch: {report.conditions}"
    if retrained.iteration is not None:
        basis += f"; hyperparameters of {job.counted_in} {retrained.iteration + 1}"
    return JobVerdict(
        label=name.replace("_", " ").capitalize(),
        value=verdict.figure(name, figure.tuned.mean),
        interval=verdict.interval(name, _interval(figure.tuned)),
        comparison=comparison,
        tone=tone,
        basis=basis,
        trend=_trend(job, earlier, last),
        limit=_limit(job),
    )


def _paired(name: str, figure: RetrainedFigure) -> tuple[str, Literal["better", "worse", "unsure"]]:
    """Judges by the difference under the same seeds, which is surer than two intervals."""
    if figure.untuned is None or figure.difference is None:
        return "The untuned training runs diverge.", "better"
    shown = verdict.figure(name, figure.untuned.mean)
    if found := verdict.interval(name, _interval(figure.untuned)):
        shown += f" ({found})"
    change = figure.difference
    if not name.endswith((*_FALLING, *_RISING)) or change.mean == 0:
        return f"Untuned: {shown}.", "unsure"
    fell_is_good = name.endswith(_FALLING)
    is_better = (change.mean < 0) == fell_is_good
    sentence = f"{_size(name, change.mean)} {'better' if is_better else 'worse'} than the untuned "
    sentence += shown
    if change.low is None or change.high is None:
        return f"{sentence}, by one seed without an interval.", "unsure"
    if change.low <= 0.0 <= change.high:
        return f"{sentence}, but seeds differ as much: this may be chance.", "unsure"
    return (
        f"{sentence}; the difference under the same seeds is significant.",
        "better" if is_better else "worse",
    )


def _interval(found: MeanInterval) -> Interval:
    return Interval(mean=found.mean, low=found.low, high=found.high)


def _size(name: str, change: float) -> str:
    if name.endswith(("error", "accuracy")):
        return f"{100 * abs(change):.2f} points"
    return f"{abs(change):.3g}"


def _begin(job: JobRecord) -> int:
    return int((job.forked_from or "@0").partition("@")[2])


def _comparison(
    name: str, after: Interval, untuned: Interval | None, is_first: bool
) -> tuple[str, Literal["better", "worse", "unsure"]]:
    if untuned is None:
        return "The untuned figure is not kept.", "unsure"
    shown = verdict.figure(name, untuned.mean)
    if found := verdict.interval(name, untuned):
        shown += f" ({found})"
    if is_first:
        return f"The untuned hyperparameters are the best so far, with {shown}.", "unsure"
    gain = untuned.mean - after.mean if name.endswith(_FALLING) else after.mean - untuned.mean
    size = _size(name, gain)
    if not name.endswith((*_FALLING, *_RISING)) or gain == 0:
        return f"Untuned: {shown}.", "unsure"
    word = "better" if gain > 0 else "worse"
    sentence = f"{size} {word} than the untuned {shown}"
    if None in (after.low, after.high, untuned.low, untuned.high):
        return f"{sentence}, which is one training run without an interval.", "unsure"
    assert after.low is not None
    assert after.high is not None
    assert untuned.low is not None
    assert untuned.high is not None
    if after.high < untuned.low or untuned.high < after.low:
        return f"{sentence}; the intervals do not overlap.", "better" if gain > 0 else "worse"
    return f"{sentence}, but the intervals overlap: this may be chance.", "unsure"


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


def doubts(job: JobRecord, validated: Validation | None = None) -> list[str]:
    """Why the result is not to be trusted, a sentence each; empty where nothing is known."""
    found = [warning.message for warning in job.warnings if warning.code in _SERIOUS]
    if job.preflight is not None:
        found += job.preflight.overridden(job.spec.preflight)
        if not any(warning.code == "fidelity_low" for warning in job.warnings):
            found += job.preflight.doubts()
    if job.confirmation is not None and job.confirmation.gain is not None:
        gain = job.confirmation.gain
        if gain.high is not None and gain.high <= 0.0:
            found.append("retraining finds the tuned hyperparameters worse than the untuned ones")
        elif gain.low is not None and gain.low <= 0.0:
            found.append("retraining shows no significant gain over the untuned hyperparameters")
    report = validated.report if validated else None
    if report is not None and report.verdict.grade == "does_not_predict":
        found.append(f"validation by retraining: {report.verdict.sentence}")
    return list(dict.fromkeys(found))


def other_warnings(job: JobRecord) -> list[tuple[str, str]]:
    """Code and message of the warnings that do not touch the trust in the result."""
    return [
        (warning.code.replace("_", " "), warning.message)
        for warning in job.warnings
        if warning.code not in _SERIOUS
    ]


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
