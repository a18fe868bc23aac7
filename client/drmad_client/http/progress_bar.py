"""The progress bar of a program that waits for a job: in a terminal, in a notebook, else none."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from drmad_client.durations import duration
from drmad_client.records.job import JobRecord

Show = Callable[[JobRecord], None]


@contextlib.contextmanager
def bar(job: JobRecord, console: Console | None = None) -> Iterator[Show]:
    """Shows the job whenever the function that is given is called with it."""
    console = console or Console(stderr=True, force_jupyter=_in_notebook())
    if console.is_jupyter:
        yield _in_a_notebook(job)
    elif console.is_terminal:
        with _in_a_terminal(job, console) as show:
            yield show
    else:
        yield lambda _: None


@contextlib.contextmanager
def _in_a_terminal(job: JobRecord, console: Console) -> Iterator[Show]:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        transient=True,
    )
    task = progress.add_task(job.name[:24], detail="")

    def show(job: JobRecord) -> None:
        progress.update(
            task,
            total=job.progress.iterations,
            completed=job.progress.iteration,
            detail=_detail(job),
        )

    show(job)
    with progress:
        yield show


def _in_a_notebook(job: JobRecord) -> Show:
    from IPython.display import HTML, display

    from drmad_client.http.job_handle import progress_as_html

    untyped: Any = display
    html: Any = HTML

    def line(job: JobRecord) -> Any:  # the job that wait() gives back shows the rest
        return html(f"{progress_as_html(job)}, {escape(_detail(job))}")

    shown = untyped(line(job), display_id=True)
    return lambda job: shown.update(line(job))


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this; looked for, not loaded."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


def _detail(job: JobRecord) -> str:
    parts = [str(job.status)]
    if job.best:
        parts.append(f"best loss {job.best.validation_loss:.4g}")
    if job.progress.remaining_s is not None:
        parts.append(f"{duration(job.progress.remaining_s)} left")
    return ", ".join(parts)
