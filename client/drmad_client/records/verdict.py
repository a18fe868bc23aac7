"""The result of a job in words: the figures of its best meta-iteration, and how far they hold."""

from __future__ import annotations

from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.confirmation import Interval

_SHARES = ("error", "accuracy")


def best_figures(job: JobRecord, *, errors_only: bool = False) -> str:
    """The best meta-iteration and its figures, each with its interval at 95 %."""
    best = job.best
    if best is None:
        return "–"
    figures = {"validation_loss": best.validation_loss} | best.metrics
    shown = [
        f"{name.replace('_', ' ')} {_with_interval(name, value, best.intervals.get(name))}"
        for name, value in figures.items()
        if name == "validation_loss" or name.endswith("error") or not errors_only
    ]
    return f"{job.counted_in} {best.iteration + 1}, {', '.join(shown)}"


def confirmation(job: JobRecord) -> str:
    """How far the figures of the best meta-iteration hold; empty where nothing is known."""
    best, found = job.best, job.confirmation
    if best is None:
        return ""
    if found is not None and found.reason:
        return f"not confirmed: {found.reason}"
    if best.draws and found is not None:
        return _confirmed(job)
    if best.intervals and not job.status.is_terminal:
        return "smoothed over the last meta-iterations; the job confirms it at its end"
    return "not confirmed; the figures are smoothed" if best.intervals else ""


def _confirmed(job: JobRecord) -> str:
    found = job.confirmation
    assert job.best is not None
    assert found is not None
    count = job.best.draws
    runs = f"{count} fresh training run{'' if count == 1 else 's'}"
    said = f"mean of {runs}; the mean of ten retrainings lies in the interval in 95 of 100 cases"
    if found.best is not None and found.best.diverged:
        said += f"; {found.best.diverged} of the {count} diverged"
    gain = found.gain
    if gain is not None and found.first is not None:
        shown = _with_interval("validation_loss", gain.mean, gain)
        said += (
            f"; validation loss gained over {job.counted_in} {found.first.iteration + 1}: {shown}"
        )
        if gain.low is not None and gain.low <= 0.0:
            said += ", which may be none"
    return said


def label(name: str) -> str:
    """The name of a figure at the begin of a line: "Test error", "AUC"."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def figure(name: str, value: float) -> str:
    """A figure by its name: shares in per cent, others to five digits."""
    return f"{100 * value:.2f} %" if name.endswith(_SHARES) else f"{value:.5g}"


def interval(name: str, found: Interval | None) -> str:
    """The interval of a figure, such as "0.41 to 0.45"; empty where it is unknown."""
    if found is None or found.low is None or found.high is None:
        return ""
    if name.endswith(_SHARES):
        high = min(1.0, found.high) if found.mean <= 1.0 else found.high
        return f"{100 * max(0.0, found.low):.1f} to {100 * high:.1f} %"
    return f"{found.low:.4g} to {found.high:.4g}"


def _with_interval(name: str, value: float, found: Interval | None) -> str:
    shown = interval(name, found)
    return f"{figure(name, value)} ({shown})" if shown else figure(name, value)
