"""Selects the actions, charts, trials and timeline entries that the page of a job shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from drmad_client.plots.figures import FIGURES
from drmad_client.records.events import Event
from drmad_client.records.job import JobRecord
from drmad_client.records.search import Trial
from drmad_service.store.layout.state_machine import TRANSITIONS, Action

Part = Literal["curves", "learned", "hypergradients", "trust", "resources"]

# The figures of each part of the page, in order. Figures that are not listed are drawn last.
_PARTS: dict[Part, tuple[str, ...]] = {
    "curves": ("losses", "trials", "search_lines", "importance"),
    "learned": ("hyperparameters", "layers"),
    "hypergradients": ("hypergradient_norms", "movers", "cosines", "staleness"),
    "trust": ("fidelity",),
    "resources": ("seconds", "memory"),
}

_BESIDE_VALUES = ("penalty_image", "schedules")
"""Figures that the view of each hyperparameter has."""
_OF_SEARCH = {"trials", "search_lines", "importance"}
_TRIALS_SHOWN = 12


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    part: Part
    is_wide: bool = False


@dataclass(frozen=True)
class Moment:
    """One entry of the timeline. `kind` is a job state or the kind of an event."""

    at: datetime
    kind: str
    reason: str
    message: str


def actions(job: JobRecord) -> list[str]:
    """Returns the actions that the state of the job permits, in the order of the buttons."""
    allowed = [
        action.value
        for action in (Action.PAUSE, Action.RESUME, Action.CANCEL, Action.EXTEND)
        if TRANSITIONS[action].get(job.status, job.status) != job.status
        and not (action is Action.EXTEND and (job.failed_preflight or _attributes(job)))
    ]
    if job.progress.iteration > 0 and not _attributes(job):
        allowed.append("fork")
    if job.status.is_terminal:
        allowed.append("delete")
    return allowed


def permitted(job: JobRecord, may_submit: bool, may_change: bool) -> list[str]:
    """Returns the actions for which the reader's key suffices; a fork is a new job of its own."""
    found = actions(job) if may_submit else []
    return found if may_change else [name for name in found if name == "fork"]


def charts(job: JobRecord, compares_methods: bool) -> list[Chart]:
    """Returns the figures for which this job has, or will have, data.

    `compares_methods`: a report of several methods was written before the first meta-iteration;
    of a single one the table says all.
    """
    if _attributes(job) or (job.status.is_terminal and job.progress.iteration == 0):
        return []
    without_data = set(_BESIDE_VALUES)
    if job.progress.iteration == 0:  # the others have no data yet
        without_data |= FIGURES.keys() - {"losses", *_OF_SEARCH, "fidelity"}
    if job.spec.search is None:
        without_data |= _OF_SEARCH
    if job.spec.replicas.mode == "sync":
        without_data.add("staleness")
    if job.hyperparameters and not any(info.groups for info in job.hyperparameters):
        without_data.add("layers")
    method = job.spec.hypergradient.method
    has_fidelity_probes = method == "auto" and job.progress.iteration > 0
    if not compares_methods and not has_fidelity_probes:
        without_data.add("fidelity")
    placed = {name for names in _PARTS.values() for name in names}
    shown: list[Chart] = []
    for part, names in _PARTS.items():
        last = part == "resources"
        more = tuple(name for name in FIGURES if name not in placed) if last else ()
        charts = [
            Chart(
                name,
                FIGURES[name].title.replace("meta-iteration", job.counted_in),
                part,
                is_wide=name == "losses",
            )
            for name in (*names, *more)
            if name not in without_data
        ]
        # A row holds two: the last chart of an odd number takes a whole row.
        if sum(not chart.is_wide for chart in charts) % 2:
            charts[-1] = replace(charts[-1], is_wide=True)
        shown += charts
    return shown


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials with the lowest losses; trials without a loss come last."""

    def rank(trial: Trial) -> tuple[bool, float]:
        loss = trial.validation_loss
        return loss is None, loss or 0.0

    return sorted(trials, key=rank)[:_TRIALS_SHOWN]


def timeline(job: JobRecord, events: Sequence[Event]) -> list[Moment]:
    """Merges the transitions of the job with its other events, newest first."""
    moments = [Moment(t.at, t.status, t.reason, t.message) for t in job.transitions]
    moments += [_moment(event) for event in events]
    # Reversing an ascending sort also puts the later of two equal times first.
    return sorted(moments, key=lambda moment: moment.at)[::-1]


def _moment(event: Event) -> Moment:
    data = event.data
    message = str(data.get("message", ""))
    if event.type == "webhook":
        text = f"{data['host']}: {message}"
        if data["attempts"] > 1:
            text += f", attempt {data['attempts']}"
        return Moment(event.at, f"webhook {data['outcome']}", "", text)
    if event.type == "start":
        text = f"search finished: meta-iterations start from trial {data['trial'] + 1}"
        return Moment(event.at, "search", "", text)
    return Moment(event.at, event.type, str(data.get("code", "")), message)


def _attributes(job: JobRecord) -> bool:
    """Whether the job has a single round without an outer step."""
    return job.spec.kind == "attribution"
