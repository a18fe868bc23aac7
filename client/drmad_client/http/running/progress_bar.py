"""The progress bar of a program that waits for a job, in a terminal or a notebook."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from drmad_client.durations import duration
from drmad_client.http.job_html import progress_as_html
from drmad_client.records.job import JobRecord
from drmad_client.records.side_runs.side_run import SideRun

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Show = Callable[[JobRecord], None]


@contextlib.contextmanager
def bar(job: JobRecord, console: Console | None = None, *, shown: bool = True) -> Iterator[Show]:
    """Yield a function that updates the bar; it does nothing where no bar can be shown."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console  # Most programs that load the client never show a bar.

    console = console or Console(stderr=True, force_jupyter=_in_notebook())
    if console.is_jupyter:
        yield _in_a_notebook(job)
    elif console.is_terminal:
        with _in_a_terminal(job, console) as show:
            yield show
    else:
        yield lambda _: None


def terminal_bar(console: Console) -> Progress:
    """A bar that disappears when it ends; hidden where the console is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def side_run_bar(what: str, *, shown: bool = True) -> Iterator[Callable[[SideRun], None]]:
    """Yield a function that updates the bar of a run; it does nothing without a terminal."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console

    progress = terminal_bar(Console(stderr=True))
    task = progress.add_task(what, detail="", total=None)

    def show(run: SideRun) -> None:
        total, workers = run.total or None, run.workers
        detail = f"{run.status}, {workers} worker{'' if workers == 1 else 's'}"
        progress.update(task, total=total, completed=run.done, detail=detail)

    with progress:
        yield show


@contextlib.contextmanager
def _in_a_terminal(job: JobRecord, console: Console) -> Iterator[Show]:
    progress = terminal_bar(console)
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

    untyped: Any = display
    html: Any = HTML

    def line(job: JobRecord) -> Any:
        return html(f"{progress_as_html(job)}, {escape(_detail(job))}")

    shown = untyped(line(job), display_id=True)
    return lambda job: shown.update(line(job))


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this program; IPython is not loaded to find out."""
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
