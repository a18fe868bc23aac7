"""Follows a job in a terminal: a line per event, and a progress bar below the lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from drmad_client.cli.output.tables import (
    HISTORY_HEADING,
    history_line,
    status_text,
    trial_line,
)
from drmad_client.durations import duration
from drmad_client.http.running.progress_bar import terminal_bar
from drmad_client.records.events import Event
from drmad_client.records.job import JobRecord
from drmad_client.records.job import Progress as JobProgress
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.search import Trial
from drmad_client.records.status import JobStatus, Transition
from drmad_client.records.verdict import best_figures, confirmation

if TYPE_CHECKING:
    from drmad_client.http.client import Client
    from drmad_client.http.job_handle import Job


def follow(
    client: Client,
    job_id: str,
    console: Console,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Job:
    """Print the events of a job until it has ended, and pass each one to `on_event`.

    Only a terminal shows the progress bar; other outputs receive the lines.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C. The job continues, and a message says so.
    """
    try:
        with _Screen(client.jobs.retrieve(job_id).record, console) as screen:
            for event in client.jobs.events(job_id):
                screen.show(event)
                on_event(event)
    except KeyboardInterrupt:
        console.print(
            f"The job continues. Follow it again with: drmad watch {job_id}", soft_wrap=True
        )
        raise
    job = client.jobs.retrieve(job_id)
    if job.record.status is JobStatus.SUCCEEDED and job.record.spec.retrain is not None:
        job.answer()
    for line in _outcome(job.record):
        console.print(line, soft_wrap=True)
    return job


class _Screen:
    """The lines of a followed job and the progress bar below them."""

    def __init__(self, job: JobRecord, console: Console) -> None:
        self._console = console
        self._has_heading = False
        self._bar = terminal_bar(console)
        self._task = self._bar.add_task(job.name[:24], detail="")
        self._progress(job.progress)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        match event.type:
            case "status":
                self._status(Transition.model_validate(event.data))
            case "trial":
                self._print(Text(trial_line(Trial.model_validate(event.data))))
            case "start":
                self._print(Text(f"continues from trial {event.data['trial'] + 1}"))
            case "iteration":
                self._iteration(MetaIteration.model_validate(event.data))
            case "progress":
                self._progress(JobProgress.model_validate(event.data))
            case "warning" | "rollback":
                self._print(Text(f"{event.type}: {event.data.get('message', '')}", "yellow"))
            case "reset":
                self._print(Text("(the service no longer keeps earlier events)", "dim"))
                self._progress(JobRecord.model_validate(event.data).progress)

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)

    def _status(self, change: Transition) -> None:
        if not change.status.is_terminal:  # the outcome line reports terminal states
            self._print(
                status_text(change.status).append(f": {change.message or change.reason}", "")
            )

    def _iteration(self, record: MetaIteration) -> None:
        if not self._has_heading:
            self._has_heading = True
            self._print(Text(HISTORY_HEADING, "bold"))
        line = Text(history_line(record))
        self._print(line.append("  best", "green") if record.is_best else line)
        self._bar.update(self._task, completed=record.iteration + 1)

    def _progress(self, progress: JobProgress) -> None:
        detail = f"{progress.phase} {progress.step}/{progress.steps}" if progress.steps else ""
        if progress.remaining_s is not None:
            detail += f", {duration(progress.remaining_s)} left"
        self._bar.update(
            self._task,
            total=progress.iterations,
            completed=progress.iteration,
            detail=detail.removeprefix(", "),
        )


def _outcome(job: JobRecord) -> Iterator[Text]:
    """The state of the job with its result or its error, how far that holds, and its warnings."""
    text = status_text(job.status)
    if job.started_at and job.finished_at:
        text.append(f" after {duration((job.finished_at - job.started_at).total_seconds())}", "")
    if job.status is JobStatus.SUCCEEDED:
        yield text.append(f"; best: {best_figures(job, errors_only=True)}" if job.best else "", "")
        if holds := confirmation(job):
            yield Text(holds)
    else:
        cause = job.error.message if job.error else job.message or job.reason
        yield text.append(f": {cause}", "")
    for warning in job.warnings:
        yield Text(f"warning: {warning.message}", "yellow")
    if job.answer:
        yield Text(job.answer, "bold")
