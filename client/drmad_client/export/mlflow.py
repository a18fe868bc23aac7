"""Writes a job's history to MLflow, which must be installed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from drmad_client.export.comparison import flat
from drmad_client.export.mirror import scalars
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration

_TAG = "drmad.job_id"
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_MOST_PARAMETERS = 100  # MLflow refuses a batch with more
_LONGEST_PARAMETER = 500


class MlflowMirror:
    """A run in the experiment `drmad`: scalars are its metrics, the spec its parameters.

    Raises:
        ImportError: MLflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._param = Metric, Param
        self._client: Any = MlflowClient(uri)
        self._run_id = ""

    def begin(self, job: JobRecord) -> int:
        client = self._client
        experiment = client.get_experiment_by_name("drmad")
        number = experiment.experiment_id if experiment else client.create_experiment("drmad")
        known = client.search_runs([number], f"tags.`{_TAG}` = '{job.id}'")
        if known:
            self._run_id = known[0].info.run_id
            return len(client.get_metric_history(self._run_id, "validation_loss"))
        run = client.create_run(
            number,
            start_time=_milliseconds(job.created_at),
            run_name=job.name,
            tags={**job.tags, _TAG: job.id},
        )
        self._run_id = run.info.run_id
        spec = flat(job.spec.model_dump(mode="json"))
        params = [
            self._param(name.replace("[", ".").replace("]", ""), str(value)[:_LONGEST_PARAMETER])
            for name, value in spec.items()
        ]
        client.log_batch(self._run_id, params=params[:_MOST_PARAMETERS])
        return 0

    def record(self, record: MetaIteration) -> None:
        at = _milliseconds(record.at)
        metrics = [
            self._metric(name, value, at, record.iteration)
            for name, value in scalars(record).items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, job: JobRecord, folder: Path) -> None:
        self._client.log_artifacts(self._run_id, str(folder))
        status = _STATUS.get(job.status, "RUNNING")
        self._client.set_terminated(self._run_id, status)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
