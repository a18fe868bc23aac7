"""Jobs in a terminal: one that is followed, one that is shown, a table of many."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from drmad_client.records import Event, Job, JobStatus, MetaIteration, Transition
from drmad_client.records import Progress as JobProgress

if TYPE_CHECKING:
    from drmad_client.api import Client

_COLOURS = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.CANCELLING: "yellow",
    JobStatus.RUNNING: "cyan",
}
_COLUMNS = ("iteration", "valid. loss", "valid. error", "test error", "hypergradient", "seconds")


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show what happens to a job until it has ended.

    A terminal gets a live progress bar below the lines; anything else gets the lines alone.

    Raises:
        KeyboardInterrupt: Ctrl-C. The job goes on, and the user is told so.
    """
    try:
        with _Screen(client.jobs.retrieve(job_id), console) as screen:
            for event in client.jobs.events(job_id):
                screen.show(event)
    except KeyboardInterrupt:
        console.print(f"The job goes on. Look again with: drmad watch {job_id}", soft_wrap=True)
        raise
    job = client.jobs.retrieve(job_id)
    console.print(_verdict(job), soft_wrap=True)
    return job


def show(job: Job) -> RenderableType:
    """All there is to say about one job."""
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="bold", no_wrap=True)
    fields.add_column(overflow="fold")
    for name, value in _facts(job):
        fields.add_row(name, value)
    return fields


def jobs_table(jobs: Iterable[Job]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", no_wrap=True, min_width=30)
    table.add_column("NAME", overflow="ellipsis", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("DONE", no_wrap=True, justify="right")
    table.add_column("BEST LOSS", no_wrap=True, justify="right")
    table.add_column("CREATED", no_wrap=True, justify="right")
    for job in jobs:
        table.add_row(
            job.id,
            Text(job.name),
            _status(job.status),
            f"{job.progress.iteration}/{job.progress.iterations}",
            f"{job.best.validation_loss:.5g}" if job.best else "–",
            f"{duration((datetime.now(UTC) - job.created_at).total_seconds())} ago",
        )
    return table if table.row_count else Text("no jobs")


def duration(seconds: float) -> str:
    """Two units at most: 41 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            rest = seconds % size // part_size
            return f"{seconds // size} {unit}" + (f" {rest} {part}" if rest else "")
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min" + (f" {rest} s" if rest else "")


class _Screen:
    """The lines of a followed job and the bar below them."""

    def __init__(self, job: Job, console: Console) -> None:
        self._console = console
        self._has_heading = False
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
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
            case "iteration":
                self._iteration(MetaIteration.model_validate(event.data))
            case "progress":
                self._progress(JobProgress.model_validate(event.data))
            case "warning":
                self._print(Text(f"warning: {event.data.get('message', '')}", "yellow"))
            case "reset":
                self._print(Text("(earlier events are no longer kept)", "dim"))
                self._progress(Job.model_validate(event.data).progress)

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)

    def _status(self, change: Transition) -> None:
        if not change.status.is_terminal:  # the verdict says that one, and more
            self._print(_status(change.status).append(f": {change.message or change.reason}", ""))

    def _iteration(self, record: MetaIteration) -> None:
        if not self._has_heading:
            self._has_heading = True
            self._print(Text("  ".join(_COLUMNS), "bold"))
        cells = (
            str(record.iteration),
            f"{record.validation_loss:.5f}",
            _percent(record.metrics.get("validation_error")),
            _percent(record.metrics.get("test_error")),
            f"{record.hypergradient_norm:.3g}",
            f"{record.seconds['total']:.2f}" if "total" in record.seconds else "–",
        )
        widths = map(len, _COLUMNS)
        line = Text(
            "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
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


def _facts(job: Job) -> Iterable[tuple[str, RenderableType]]:
    yield "job", job.id
    yield "name", Text(job.name)
    yield "status", _status(job.status).append(f"  {job.message or job.reason}", "")
    yield "created", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if job.started_at:
        end = job.finished_at or datetime.now(UTC)
        yield "took", duration((end - job.started_at).total_seconds())
    yield "done", f"{job.progress.iteration} of {job.progress.iterations} meta-iterations"
    if job.best:
        yield "best", _best(job)
    if job.error:
        yield "error", Text(f"{job.error.message}  [{job.error.code}]", "red")
    if job.hyperparameters:
        lines = [
            f"{h.name}: {h.kind}, {' × '.join(map(str, h.shape)) or 'one number'}, {h.transform}"
            for h in job.hyperparameters
        ]
        yield "tuned", Group(*map(Text, lines))
    if job.tags:
        yield "tags", Text(", ".join(f"{key}:{value}" for key, value in job.tags.items()))


def _verdict(job: Job) -> Text:
    text = _status(job.status)
    if job.started_at and job.finished_at:
        text.append(f" after {duration((job.finished_at - job.started_at).total_seconds())}", "")
    if job.status is JobStatus.SUCCEEDED:
        return text.append(f"; best: {_best(job, errors_only=True)}" if job.best else "", "")
    cause = job.error.message if job.error else job.message or job.reason
    return text.append(f": {cause}", "")


def _best(job: Job, *, errors_only: bool = False) -> str:
    if job.best is None:
        return "–"
    figures = [f"validation loss {job.best.validation_loss:.5g}"]
    figures += [
        f"{name.replace('_', ' ')} {_percent(value) if name.endswith('error') else f'{value:.5g}'}"
        for name, value in job.best.metrics.items()
        if name.endswith("error") or not errors_only
    ]
    return f"iteration {job.best.iteration}, {', '.join(figures)}"


def _status(status: JobStatus) -> Text:
    # The colour is a span of its own, so that what is appended stays plain.
    return Text().append(status.value, _COLOURS.get(status, ""))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
