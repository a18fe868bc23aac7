"""Mirrors the history of a followed job in MLflow, W&B or TensorBoard: the option `--log-to`.

A mirror is filled from the history first and then from the events, so it serves running and ended
jobs alike. Mirroring a job twice does not duplicate it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from drmad_client.errors import DrmadError, NotFound, UsageError
from drmad_client.export.mirror import Mirror
from drmad_client.export.mlflow import MlflowMirror
from drmad_client.export.tensorboard import TensorboardMirror
from drmad_client.export.wandb import WandbMirror
from drmad_client.http.client import Client
from drmad_client.records.events import Event
from drmad_client.records.meta_iteration import MetaIteration

_TOOLS: dict[str, Callable[[str], Mirror]] = {
    "mlflow": MlflowMirror,
    "tensorboard": TensorboardMirror,
    "wandb": WandbMirror,
}


class BadMirror(UsageError):
    """The name of a mirror names no tool, or no place in it."""


class MirrorMissing(DrmadError):
    """The tool is not installed."""


def open_mirror(target: str) -> Mirror:
    """The mirror for mlflow:http://127.0.0.1:5000, wandb:team/tuning or tensorboard:runs.

    Raises:
        BadMirror: The tool is unknown, or its place is not given.
        MirrorMissing: The tool is not installed.
    """
    tool, _, where = target.partition(":")
    if not where or tool not in _TOOLS:
        raise BadMirror(f"expected mlflow:URI, wandb:PROJECT or tensorboard:DIR, got {target!r}")
    try:
        return _TOOLS[tool](where)
    except ImportError as error:
        raise MirrorMissing(
            f'{tool} is not installed ({error}); install it: pip install ".[{tool}]" in the clone'
        ) from error


@contextlib.contextmanager
def mirrored(
    client: Client, job_id: str, mirrors: Sequence[Mirror]
) -> Iterator[Callable[[Event], None]]:
    """Mirror a job; the caller passes each of its events to the function that this yields."""
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
    for record in client.jobs.history(job_id):  # The service may have dropped some events.
        write(record)
    job = client.jobs.retrieve(job_id).record
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(NotFound):  # The job ended before its first meta-iteration.
            client.jobs.save(job_id, Path(folder))
        for mirror in mirrors:
            mirror.end(job, Path(folder))
