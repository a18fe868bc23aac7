"""Writes a job's history to Weights & Biases, which must be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drmad_client.export.comparison import flat
from drmad_client.export.mirror import scalars
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration

_EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 1}


class WandbMirror:
    """A run in a project, PROJECT or ENTITY/PROJECT, whose id is that of the job.

    WANDB_API_KEY, WANDB_BASE_URL and WANDB_MODE (offline) apply as to every program of theirs.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, project: str) -> None:
        import wandb

        self._wandb: Any = wandb
        entity, _, name = project.rpartition("/")
        self._place = {"project": name} | ({"entity": entity} if entity else {})
        self._run: Any = None

    def begin(self, job: JobRecord) -> int:
        self._run = self._wandb.init(
            **self._place,
            id=job.id,
            name=job.name,
            config=flat(job.spec.model_dump(mode="json")),
            tags=[f"{key}:{value}"[:64] for key, value in job.tags.items()],
            notes=job.note or None,
            resume="allow",
            reinit="create_new",
            # It watches neither this process nor its folder: neither is that of the job.
            settings=self._wandb.Settings(
                console="off", disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        return int(getattr(self._run, "starting_step", 0) or 0)

    def record(self, record: MetaIteration) -> None:
        self._run.log(scalars(record), step=record.iteration)

    def end(self, job: JobRecord, folder: Path) -> None:
        if any(folder.iterdir()):
            artifact = self._wandb.Artifact(job.id, type="drmad-job")
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact)
        self._run.summary["status"] = str(job.status)
        self._run.finish(exit_code=_EXIT_CODES.get(job.status, 1))
