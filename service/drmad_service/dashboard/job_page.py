"""What the page of one job shows: what may be done with it, its charts, its timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drmad_client.plots.figures import FIGURES
from drmad_client.plots.learned_values import image_shape
from drmad_client.records.job import Event, JobRecord, Trial
from drmad_service.store.state_machine import TRANSITIONS, Action

# The charts in the order of the questions that people ask, and how wide each is.
_ORDER = (
    "losses",
    "trials",
    "hyperparameters",
    "hypergradient_norms",
    "cosines",
    "layers",
    "penalty_image",
)

_TRIALS_SHOWN = 12


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    is_wide: bool = False


@dataclass(frozen=True)
class Moment:
    """One entry of the timeline."""

    at: datetime
    kind: str  # a state, or what else it tells of
    reason: str
    message: str


def actions(job: JobRecord) -> list[str]:
    """What its user may do with the job now, in the order of the buttons."""
    allowed = [
        action.value
        for action in (Action.PAUSE, Action.RESUME, Action.CANCEL, Action.EXTEND)
        if TRANSITIONS[action].get(job.status, job.status) != job.status
    ]
    if job.progress.iteration > 0:
        allowed.append("fork")
    if job.status.is_terminal:
        allowed.append("delete")
    return allowed


def charts(job: JobRecord, is_reported: bool) -> list[Chart]:
    """The figures that can have something to say about this job.

    `is_reported`: its method was measured before the first meta-iteration.
    """
    if job.status.is_terminal and job.progress.iteration == 0:
        return []
    kinds = {h.kind for h in job.spec.hyperparameters}
    pointless = set()
    if job.progress.iteration == 0:  # the others have nothing to show yet
        pointless |= FIGURES.keys() - {"losses", "trials", "fidelity"}
    if not _has_penalty_image(job):
        pointless.add("penalty_image")
    if job.spec.search is None:
        pointless.add("trials")
    if job.spec.replicas.mode == "sync":
        pointless.add("staleness")
    if not kinds & {"learning_rate", "momentum"}:
        pointless.add("schedules")
    if job.hyperparameters and not any(info.groups for info in job.hyperparameters):
        pointless.add("layers")
    method = job.spec.hypergradient.method
    is_measured = method == "auto" and job.progress.iteration > 0
    if not is_reported and not is_measured:
        pointless.add("fidelity")
    names = [name for name in _ORDER if name in FIGURES]
    names += [name for name in FIGURES if name not in names]
    shown = [
        Chart(name, FIGURES[name].title, is_wide=name == "losses")
        for name in names
        if name not in pointless
    ]
    if sum(not chart.is_wide for chart in shown) % 2:  # two in a row: the last one takes it all
        shown[-1] = replace(shown[-1], is_wide=True)
    return shown


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that gave the lowest losses, and at the end some that gave none."""

    def rank(trial: Trial) -> tuple[bool, float]:
        loss = trial.validation_loss
        return loss is None, loss or 0.0

    return sorted(trials, key=rank)[:_TRIALS_SHOWN]


def timeline(job: JobRecord, told: Sequence[Event]) -> list[Moment]:
    """States, and what the store told beside them; the newest first."""
    moments = [Moment(t.at, t.status, t.reason, t.message) for t in job.transitions]
    moments += [_moment(event) for event in told]
    return sorted(moments, key=lambda moment: moment.at, reverse=True)


def _moment(event: Event) -> Moment:
    data = event.data
    message = str(data.get("message", ""))
    if event.type == "webhook":
        said = f"{data['host']}: {message}"
        if data["attempts"] > 1:
            said += f", at attempt {data['attempts']}"
        return Moment(event.at, f"webhook {data['outcome']}", "", said)
    if event.type == "start":
        found = f"the search ends: the gradient goes on from trial {data['trial']}"
        return Moment(event.at, "search", "", found)
    if event.type == "rollback":
        return Moment(event.at, "step back", "", message)
    return Moment(event.at, event.type, str(data.get("code", "")), message)


def _has_penalty_image(job: JobRecord) -> bool:
    """Whether the first layer's penalties are one or more for each pixel."""
    shape = image_shape(job.spec)
    if shape is None or not any(h.kind in ("l1", "l2") for h in job.spec.hyperparameters):
        return False
    first = next((info for info in job.hyperparameters if info.kind in ("l1", "l2")), None)
    if first is None:
        return True  # not known before a worker has built the problem
    size = first.groups[0].stop - first.groups[0].start if first.groups else math.prod(first.shape)
    return size % math.prod(shape) == 0
