"""Handles of jobs: what `client.jobs` answers, and all that can be done with one job.

A handle shows the job as it was when last asked for: by the call that made it, `reload` or `wait`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from drmad_client.records.job import (
    Best,
    Event,
    JobError,
    JobStatus,
    LogLine,
    MetaIteration,
    Progress,
    Transition,
    Trial,
)
from drmad_client.records.job import (
    JobRecord as JobRecord,
)
from drmad_client.spec.job import JobSpec

if TYPE_CHECKING:
    import pandas

    from drmad_client.http.arrays import Arrays
    from drmad_client.http.async_client import AsyncJobs
    from drmad_client.http.client import Jobs


class History(list[MetaIteration]):
    """The meta-iterations of a job, in order."""

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each meta-iteration; what is nested gets a column like metrics.test_error.

        Raises:
            ImportError: pandas is not installed; `pip install pandas`.
        """
        import pandas

        from drmad_client.export.job_folder import history_rows

        return pandas.DataFrame(history_rows(self))


class _Handle:
    """What a job is, without asking for it again."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> JobStatus:
        return self.record.status

    @property
    def reason(self) -> str:
        """Of the last transition, a word for programs."""
        return self.record.reason

    @property
    def message(self) -> str:
        """Of the last transition, or why the job waits."""
        return self.record.message

    @property
    def progress(self) -> Progress:
        return self.record.progress

    @property
    def best(self) -> Best | None:
        """The meta-iteration with the lowest validation loss."""
        return self.record.best

    @property
    def error(self) -> JobError | None:
        """Why it failed: the root cause."""
        return self.record.error

    @property
    def tags(self) -> dict[str, str]:
        return self.record.tags

    @property
    def spec(self) -> JobSpec:
        """What was asked for, with its defaults."""
        return self.record.spec

    @property
    def transitions(self) -> list[Transition]:
        return self.record.transitions

    @property
    def created_at(self) -> datetime:
        return self.record.created_at

    @property
    def started_at(self) -> datetime | None:
        return self.record.started_at

    @property
    def finished_at(self) -> datetime | None:
        return self.record.finished_at

    def _or_best(self, iteration: int | None) -> int:
        if iteration is None and self.best is None:
            raise ValueError(f"{self.id} has no meta-iteration yet: give the one to begin with")
        return self.best.iteration if iteration is None and self.best else int(iteration or 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handle) and self.record == other.record

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        done = f"{self.progress.iteration}/{self.progress.iterations}"
        return f"<{type(self).__name__} {self.id} {self.name!r} {self.status} {done}>"

    def _repr_html_(self) -> str:
        return as_html(self.record)


class Job(_Handle):
    """A job of a service, from a synchronous `Client`."""

    def __init__(self, jobs: Jobs, record: JobRecord) -> None:
        super().__init__(record)
        self._jobs = jobs

    def reload(self) -> Self:
        """Look at the job again."""
        self.record = self._jobs.retrieve(self.id).record
        return self

    def wait(self, timeout_s: float | None = None, progress: bool = True) -> Self:
        """Wait until the job has succeeded, with a progress bar in a terminal or a notebook.

        Raises:
            JobFailed: It failed or was cancelled; has its error and the end of its log.
            WaitTimeout: It goes on after `timeout_s`.
        """
        with _bar(self.record, progress) as show:
            self._jobs.wait(self.id, timeout_s, on_change=self._seen(show))
        return self

    def stream(self, after: str | None = None) -> Iterator[Event]:
        """What happened to the job and what happens, until it has ended; see `Jobs.events`."""
        return self._jobs.events(self.id, after)

    def logs(
        self, replica: int | None = None, *, after: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        """What its replicas printed; with `follow` until the job has ended."""
        return self._jobs.logs(self.id, replica, after=after, follow=follow)

    def history(self) -> History:
        """Every meta-iteration committed so far; `.to_pandas()` makes a table of it."""
        return self._jobs.history(self.id)

    def trials(self) -> list[Trial]:
        """What the job's search has tried so far."""
        return self._jobs.trials(self.id)

    def hyperparameters(self, iteration: int | str = "best", raw: bool = False) -> Arrays:
        """The tuned tensors by name, in the user's units, or raw as the outer optimizer has them.

        `iteration`: best, last or a number.
        """
        return self._jobs.hyperparameters(self.id, iteration, raw)

    def hypergradients(self, iteration: int | str = "last") -> Arrays:
        """Derivatives of the validation loss in the raw hyperparameters."""
        return self._jobs.hypergradients(self.id, iteration)

    def model(self, iteration: str = "best") -> Arrays:
        """Weights and buffers of the trained model by `state_dict` name: best or last.

        `drmad_client.export.pytorch.state_dict` makes torch's tensors of them.
        """
        return self._jobs.model(self.id, iteration)

    def fidelity(self) -> dict[str, Any]:
        """What was measured of the methods, and which was chosen."""
        return self._jobs.fidelity(self.id)

    def figure(self, name: str = "losses") -> Any:
        """A figure, as a plotly.graph_objects.Figure; `figures.FIGURES` has their names."""
        from drmad_client.plots.figures import to_plotly

        return to_plotly(self._jobs.figure(self.id, name))

    def save(self, folder: Path | str, iteration: int | str = "best") -> list[Path]:
        """Write hyperparameters, weights, history and spec to files; returns them."""
        return self._jobs.save(self.id, Path(folder), iteration)

    def pause(self) -> Self:
        """Ask the job to give its place back after the running meta-iteration."""
        return self._become(self._jobs.pause(self.id))

    def resume(self) -> Self:
        """Let a paused job go on where it was."""
        return self._become(self._jobs.resume(self.id))

    def cancel(self) -> Self:
        """Ask the job to end now; what it has committed stays."""
        return self._become(self._jobs.cancel(self.id))

    def extend(self, iterations: int) -> Self:
        """Let a job that has ended go on for so many more meta-iterations."""
        return self._become(self._jobs.extend(self.id, iterations))

    def fork(self, iteration: int | None = None, changes: Mapping[str, Any] | None = None) -> Job:
        """A new job that begins with the state before a meta-iteration of this one.

        `iteration`: else the best known. `changes`: parts of the spec, as in
        {"meta": {"learning_rate": 0.1}}.
        """
        return self._jobs.fork(self.id, self._or_best(iteration), changes)

    def delete(self) -> None:
        """Remove a job that has ended, with everything that belongs to it."""
        self._jobs.delete(self.id)

    def _become(self, other: Job) -> Self:
        self.record = other.record
        return self

    def _seen(self, show: Callable[[JobRecord], None]) -> Callable[[JobRecord], None]:
        def seen(record: JobRecord) -> None:
            self.record = record
            show(record)

        return seen


class AsyncJob(_Handle):
    """A job of a service, from an `AsyncClient`: `Job`, awaited."""

    def __init__(self, jobs: AsyncJobs, record: JobRecord) -> None:
        super().__init__(record)
        self._jobs = jobs

    async def reload(self) -> Self:
        """As `Job.reload`."""
        self.record = (await self._jobs.retrieve(self.id)).record
        return self

    async def wait(self, timeout_s: float | None = None, progress: bool = True) -> Self:
        """As `Job.wait`."""
        with _bar(self.record, progress) as show:

            def seen(record: JobRecord) -> None:
                self.record = record
                show(record)

            await self._jobs.wait(self.id, timeout_s, on_change=seen)
        return self

    def stream(self, after: str | None = None) -> AsyncIterator[Event]:
        """As `Job.stream`, for `async for`."""
        return self._jobs.events(self.id, after)

    def logs(
        self, replica: int | None = None, *, after: str | None = None, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """As `Job.logs`, for `async for`."""
        return self._jobs.logs(self.id, replica, after=after, follow=follow)

    async def history(self) -> History:
        """As `Job.history`."""
        return await self._jobs.history(self.id)

    async def trials(self) -> list[Trial]:
        """As `Job.trials`."""
        return await self._jobs.trials(self.id)

    async def hyperparameters(self, iteration: int | str = "best", raw: bool = False) -> Arrays:
        """As `Job.hyperparameters`."""
        return await self._jobs.hyperparameters(self.id, iteration, raw)

    async def hypergradients(self, iteration: int | str = "last") -> Arrays:
        """As `Job.hypergradients`."""
        return await self._jobs.hypergradients(self.id, iteration)

    async def model(self, iteration: str = "best") -> Arrays:
        """As `Job.model`."""
        return await self._jobs.model(self.id, iteration)

    async def fidelity(self) -> dict[str, Any]:
        """As `Job.fidelity`."""
        return await self._jobs.fidelity(self.id)

    async def figure(self, name: str = "losses") -> Any:
        """As `Job.figure`."""
        from drmad_client.plots.figures import to_plotly

        return to_plotly(await self._jobs.figure(self.id, name))

    async def save(self, folder: Path | str, iteration: int | str = "best") -> list[Path]:
        """As `Job.save`."""
        return await self._jobs.save(self.id, Path(folder), iteration)

    async def pause(self) -> Self:
        """As `Job.pause`."""
        return self._become(await self._jobs.pause(self.id))

    async def resume(self) -> Self:
        """As `Job.resume`."""
        return self._become(await self._jobs.resume(self.id))

    async def cancel(self) -> Self:
        """As `Job.cancel`."""
        return self._become(await self._jobs.cancel(self.id))

    async def extend(self, iterations: int) -> Self:
        """As `Job.extend`."""
        return self._become(await self._jobs.extend(self.id, iterations))

    async def fork(
        self, iteration: int | None = None, changes: Mapping[str, Any] | None = None
    ) -> AsyncJob:
        """As `Job.fork`."""
        return await self._jobs.fork(self.id, self._or_best(iteration), changes)

    async def delete(self) -> None:
        """As `Job.delete`."""
        await self._jobs.delete(self.id)

    def _become(self, other: AsyncJob) -> Self:
        self.record = other.record
        return self


class JobPage:
    """A page of jobs; iterating goes on through the pages after it.

    Attributes:
        data: the jobs of this page alone.
        next: give it as `after` for the page after it; None when this is the last one.
    """

    def __init__(self, data: list[Job], next_: str | None, more: Callable[[str], JobPage]) -> None:
        self.data = data
        self.next = next_
        self._more = more

    @property
    def has_more(self) -> bool:
        return self.next is not None

    def __iter__(self) -> Iterator[Job]:
        page = self
        yield from page.data
        while page.next is not None:
            page = self._more(page.next)
            yield from page.data


class AsyncJobPage:
    """`JobPage`, for `async for`."""

    def __init__(
        self,
        data: list[AsyncJob],
        next_: str | None,
        more: Callable[[str], Awaitable[AsyncJobPage]],
    ) -> None:
        self.data = data
        self.next = next_
        self._more = more

    @property
    def has_more(self) -> bool:
        return self.next is not None

    async def __aiter__(self) -> AsyncIterator[AsyncJob]:
        page = self
        for job in page.data:
            yield job
        while page.next is not None:
            page = await self._more(page.next)
            for job in page.data:
                yield job


def as_html(job: JobRecord) -> str:
    """The job for a notebook, in the notebook's own colours."""
    rows = {
        "job": escape(job.id),
        "status": f"{job.status} <small>{escape(job.message or job.reason)}</small>",
        "done": progress_as_html(job),
    }
    if job.best:
        figures = {"validation loss": job.best.validation_loss} | job.best.metrics
        shown = ", ".join(
            f"{escape(name).replace('_', ' ')} "
            + (f"{value:.2%}" if name.endswith(("error", "accuracy")) else f"{value:.4g}")
            for name, value in figures.items()
        )
        rows["best"] = f"iteration {job.best.iteration}: {shown}"
    if job.error:
        rows["error"] = f"{escape(job.error.message)} <small>{escape(job.error.code)}</small>"
    cells = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{value}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(job.name)}</caption>{cells}</table>"


def progress_as_html(job: JobRecord) -> str:
    """How far the job is, as a line."""
    done, all_of_them = job.progress.iteration, job.progress.iterations
    bar = f'<progress max="{all_of_them}" value="{done}"></progress>'
    return f"{bar} {done} of {all_of_them} meta-iterations"


@contextlib.contextmanager
def _bar(job: JobRecord, wanted: bool) -> Iterator[Callable[[JobRecord], None]]:
    if not wanted:
        yield lambda _: None
        return
    from drmad_client.http.progress_bar import bar  # rich takes its time

    with bar(job) as show:
        yield show
