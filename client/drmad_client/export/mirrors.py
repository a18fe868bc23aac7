"""Mirrors of a job's history in other tools: MLflow and TensorBoard, where they are installed.

A mirror is filled from the history and then from the events, so that it works for a job that runs
as for one that has ended; a job that is mirrored again is not there twice.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drmad_client.errors import DrmadError, NotFound
from drmad_client.export.comparison import flat
from drmad_client.export.job_folder import history_rows
from drmad_client.records.job import Event, JobRecord, MetaIteration

if TYPE_CHECKING:
    from drmad_client.http.client import Client

_MLFLOW_TAG = "drmad.job_id"
_MLFLOW_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class BadMirror(DrmadError):
    """There is no such tool, or it is not installed."""


class Mirror(Protocol):
    """One place that a job's history is written to."""

    def begin(self, job: JobRecord) -> int:
        """Open it; returns how many meta-iterations it has already."""

    def record(self, record: MetaIteration) -> None: ...

    def end(self, job: JobRecord, folder: Path) -> None:
        """Close it. `folder` holds the job's vectors, its history and its spec."""


def open_mirror(target: str) -> Mirror:
    """The mirror that `--log-to` names, as in mlflow:http://127.0.0.1:5000 or tensorboard:runs.

    Raises:
        BadMirror: there is none of this name, or its package is missing.
    """
    tool, _, where = target.partition(":")
    if not where or tool not in _TOOLS:
        raise BadMirror(f"--log-to takes mlflow:URI or tensorboard:DIR, got {target!r}")
    try:
        return _TOOLS[tool](where)
    except ImportError as error:
        raise BadMirror(
            f'{tool} is not installed ({error}); get it with: pip install "drmad[{tool}]"'
        ) from error


@contextlib.contextmanager
def mirrored(
    client: Client, job_id: str, mirrors: Sequence[Mirror]
) -> Iterator[Callable[[Event], None]]:
    """Mirror a job: call the function that is given with each of its events."""
    if not mirrors:
        yield lambda _: None
        return
    job = client.jobs.retrieve(job_id).record
    written = {mirror: mirror.begin(job) for mirror in mirrors}

    def write(record: MetaIteration) -> None:
        for mirror in mirrors:
            if record.iteration >= written[mirror]:
                mirror.record(record)
                written[mirror] = record.iteration + 1

    for record in client.jobs.history(job_id):
        write(record)

    def on_event(event: Event) -> None:
        if event.type == "iteration":
            write(MetaIteration.model_validate(event.data))

    yield on_event
    for record in client.jobs.history(job_id):  # what the events had no longer
        write(record)
    job = client.jobs.retrieve(job_id).record
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(NotFound):  # it ended before its first meta-iteration
            client.jobs.save(job_id, Path(folder))
        for mirror in mirrors:
            mirror.end(job, Path(folder))


class MlflowMirror:
    """A run in the experiment `drmad`: figures as metrics, the spec as parameters."""

    def __init__(self, uri: str) -> None:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._client: Any = MlflowClient(uri)
        self._run_id = ""

    def begin(self, job: JobRecord) -> int:
        client = self._client
        experiment = client.get_experiment_by_name("drmad")
        number = experiment.experiment_id if experiment else client.create_experiment("drmad")
        known = client.search_runs([number], f"tags.`{_MLFLOW_TAG}` = '{job.id}'")
        if known:
            self._run_id = known[0].info.run_id
            return len(client.get_metric_history(self._run_id, "validation_loss"))
        run = client.create_run(
            number,
            start_time=_milliseconds(job.created_at),
            run_name=job.name,
            tags={**job.tags, _MLFLOW_TAG: job.id},
        )
        self._run_id = run.info.run_id
        spec = flat(job.spec.model_dump(mode="json"))
        params = [
            self._param(name.replace("[", ".").replace("]", ""), str(value)[:500])
            for name, value in spec.items()
        ]
        client.log_batch(self._run_id, params=params[:100])
        return 0

    def record(self, record: MetaIteration) -> None:
        at = _milliseconds(record.at)
        metrics = [
            self._metric(name, value, at, record.iteration)
            for name, value in _figures(record).items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, job: JobRecord, folder: Path) -> None:
        self._client.log_artifacts(self._run_id, str(folder))
        status = _MLFLOW_STATUS.get(job.status, "RUNNING")
        self._client.set_terminated(self._run_id, status)


class TensorboardMirror:
    """Scalars below DIR/<job id>, and beside them the job's files."""

    def __init__(self, folder: str) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._open: Callable[[str], Any] = EventFileWriter
        self._parent = Path(folder)
        self._writer: Any = None

    def begin(self, job: JobRecord) -> int:
        folder = self._parent / job.id
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()  # the whole history is written again
        self._writer = self._open(str(folder))
        return 0

    def record(self, record: MetaIteration) -> None:
        values = [
            self._summary.Value(tag=name.replace(".", "/"), simple_value=value)
            for name, value in _figures(record).items()
        ]
        self._writer.add_event(
            self._event(
                step=record.iteration,
                wall_time=record.at.timestamp(),
                summary=self._summary(value=values),
            )
        )

    def end(self, job: JobRecord, folder: Path) -> None:
        self._writer.close()
        for file in folder.iterdir():
            (self._parent / job.id / file.name).write_bytes(file.read_bytes())


_TOOLS: dict[str, Callable[[str], Mirror]] = {
    "mlflow": MlflowMirror,
    "tensorboard": TensorboardMirror,
}


def _figures(record: MetaIteration) -> dict[str, float]:
    """Every finite number of a meta-iteration but its own, by name."""
    (row,) = history_rows([record])
    return {
        name: float(value)
        for name, value in row.items()
        if name != "iteration"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
