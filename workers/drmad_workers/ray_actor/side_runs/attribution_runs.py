"""The parts of an attribution that run on the workers of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from drmad_client.plots.learned_values import image_shape
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.attribution import AttributionSpec
from drmad_workers import spec_adapter
from drmad_workers.attribution.attribution import (
    DrawAttribution,
    LdsSettings,
    attribute_draw,
    combined,
)
from drmad_workers.attribution.attributor import Attributor
from drmad_workers.attribution.example_views import views_of
from drmad_workers.problem import Problem
from drmad_workers.ray_actor.messages import AttributionResult

OnProgress = Callable[[str, int, int], None]


def attributor_of(spec: JobSpec, problem: Problem, device: str, most_bytes: int) -> Attributor:
    """The attributor of a job of kind attribution, whose scores take at most `most_bytes`."""
    asked = spec.attribution or AttributionSpec()
    return Attributor(
        problem,
        spec_adapter.training(spec),
        spec_adapter.method(spec.hypergradient),
        asked.queries,
        spec.seed,
        device,
        most_bytes=most_bytes,
    )


def draws_of(
    spec: JobSpec, attributor: Attributor, replicas: Sequence[int], on_progress: OnProgress
) -> list[DrawAttribution]:
    """The attribution of the draws of these replicas: replica r computes draw r."""
    lds = _lds(spec)
    return [
        attribute_draw(attributor, draw, spec.replicas.count, lds, on_progress=on_progress)
        for draw in replicas
    ]


def whole(
    spec: JobSpec, attributor: Attributor, parts: Sequence[DrawAttribution]
) -> AttributionResult:
    """The attribution of a job, from the draws in their order."""
    found = combined(attributor, parts, _lds(spec))
    replica, shape = attributor.tuner.replica, image_shape(spec)
    report = found.as_dict(views=lambda rows: views_of(replica, rows, shape))
    return AttributionResult(report, found.scores.pack())


def _lds(spec: JobSpec) -> LdsSettings:
    asked = spec.attribution or AttributionSpec()
    return LdsSettings(asked.lds, asked.left_out, spec.seed)
