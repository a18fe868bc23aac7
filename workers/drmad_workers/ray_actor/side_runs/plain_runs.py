"""Training runs of a worker outside its meta-iterations: confirmation, search, fidelity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from drmad_workers.artifacts.job_artifacts import JobArtifacts, Kept
from drmad_workers.errors import TrainingDiverged
from drmad_workers.preflight.fidelity import fidelity_report
from drmad_workers.ray_actor.messages import PackedState, Retrained, TrialResult
from drmad_workers.ray_actor.model_keeping import saved_model
from drmad_workers.ray_actor.packed_state import unpack
from drmad_workers.tuning import Tuner

Note = Callable[[str, int, int], None]
"""Receives the progress as (phase, step, steps)."""


def retrained(
    tuners: Sequence[Tuner],
    state: PackedState,
    draw: int,
    max_model_bytes: int,
    note: Note,
    artifacts: JobArtifacts | None = None,
) -> Retrained:
    """Trains every replica at the hyperparameters of a state.

    Args:
        draw: the initial weights and minibatches, whatever `training.resample` says.
        max_model_bytes: the size up to which the model is returned; 0 asks for none.
    """
    values = unpack(state).hyperparameters
    figures: list[dict[str, float] | None] = []
    model: Kept | None = None

    def on_progress(_: str, step: int, steps: int) -> None:
        note("confirm", step, steps)

    for number, tuner in enumerate(tuners):
        keep = bool(max_model_bytes) and number == 0
        try:
            metrics, tensors = tuner.retrain(values, draw, None, on_progress, keep_model=keep)
        except TrainingDiverged:
            figures.append(None)
            continue
        figures.append(metrics)
        model = saved_model(tensors, max_model_bytes, artifacts) if keep else model
    return Retrained(figures, model)


def trial(tuner: Tuner, note: Note) -> TrialResult:
    """One training run at the initial hyperparameters of the tuner, which is that of a trial."""
    try:
        figures = tuner.train(tuner.initial_values(), on_progress=note)
    except TrainingDiverged as error:
        return TrialResult(None, {}, str(error))
    return TrialResult(figures.pop("validation_loss"), figures)


def fidelity(
    spec: JobSpec, tuner: Tuner, state: PackedState, iteration: int, note: Note
) -> dict[str, Any]:
    """The agreement of the job's method with the exact one; see preflight.fidelity."""
    report = fidelity_report(
        tuner,
        tuner.replica.training,
        [spec_adapter.method(spec.hypergradient)],
        unpack(state).hyperparameters,
        spec.meta.iterations,
        iteration,
        on_progress=note,
    )
    return report.as_dict()
