"""Writes a job's history to TensorBoard, which must be installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from drmad_client.export.mirror import scalars
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration


class TensorboardMirror:
    """Scalars in the folder DIR/<job id>, and the job's files next to them.

    Raises:
        ImportError: TensorBoard is not installed.
    """

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
            old.unlink()  # An event file cannot be resumed, so the whole history is written again.
        self._writer = self._open(str(folder))
        return 0

    def record(self, record: MetaIteration) -> None:
        values = [
            self._summary.Value(tag=name.replace(".", "/"), simple_value=value)
            for name, value in scalars(record).items()
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
