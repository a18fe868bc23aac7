"""The command `mirror`: mirrors every job of a key in another tool while nobody watches."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.cli import options
from drmad_client.cli.output.terminal import echo
from drmad_client.errors import DrmadError, NotFound

if TYPE_CHECKING:
    from drmad_client.export.mirror import Mirror
    from drmad_client.http.client import Client
    from drmad_client.records.job import JobRecord


def register(app: typer.Typer) -> None:
    app.command()(mirror)


def mirror(
    context: typer.Context,
    to: Annotated[
        list[str],
        typer.Option(
            metavar="mlflow:URI|wandb:PROJECT|tensorboard:DIR",
            help="Tool that mirrors the jobs. Repeatable.",
        ),
    ],
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY:VALUE", help="Mirror only jobs with this tag. Repeatable."),
    ] = None,
    state: Annotated[
        Path, typer.Option(help="File that keeps which jobs were mirrored to their end.")
    ] = Path("drmad-mirrored.txt"),
    interval_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two polls of the service.")
    ] = 5.0,
    once: Annotated[
        bool, typer.Option("--once", help="Mirror what there is now, and end.")
    ] = False,
) -> None:
    """Mirror the jobs that this key sees in another tool, until it is stopped.

    Run it beside the service, with a key of scope read. It goes on after outages of the service and
    of the tools, and after its own restart; no meta-iteration is written twice.

    \b
    Examples:
      drmad mirror --to mlflow:http://127.0.0.1:5000
      drmad mirror --to wandb:team/tuning --to tensorboard:runs --tag team:vision
    """
    from drmad_client.cli.mirroring import open_mirror

    for target in to:
        open_mirror(target)  # says at once what is unknown or not installed
    with options.open_client(context) as client:
        service = MirrorService(client, to, tag or [], state)
        while True:
            for sentence in service.poll():
                echo(sentence, err=True)
            if once:
                return
            time.sleep(interval_s)


class MirrorService:
    """The mirrors of all jobs that have not been mirrored to their end."""

    def __init__(
        self, client: Client, targets: Sequence[str], tags: Sequence[str], state: Path
    ) -> None:
        self._client = client
        self._targets = targets
        self._tags = list(tags)
        self._state = state
        known = state.read_text(encoding="utf-8").split() if state.exists() else []
        self._done = set(known)
        self._followed: dict[str, _Followed] = {}
        self._newest = ""

    def poll(self) -> Iterator[str]:
        """Writes what is new; yields a sentence for each job and each trouble."""
        try:
            for job in self._new_jobs():
                self._followed.setdefault(job.id, _Followed(self._targets))
        except DrmadError as error:
            yield f"the service does not list its jobs: {error}"
            return
        for job_id, followed in [*self._followed.items()]:
            try:
                ended = followed.write(self._client, job_id)
            except NotFound:
                del self._followed[job_id]
                yield f"{job_id} was deleted before its end was mirrored"
            except Exception as error:  # whatever a tool raises: the others go on
                yield f"{job_id} is tried again: {type(error).__name__}: {error}"
            else:
                if ended:
                    del self._followed[job_id]
                    self._done.add(job_id)
                    with self._state.open("a", encoding="utf-8") as file:
                        file.write(f"{job_id}\n")
                    yield f"{job_id} is mirrored"

    def _new_jobs(self) -> Iterator[JobRecord]:
        """The jobs submitted since the last poll, which ids tell: they sort by that time."""
        newest = self._newest
        for job in self._client.jobs.list(tag=self._tags or None, limit=100, archived="include"):
            if job.id <= self._newest:
                break
            newest = max(newest, job.id)
            if job.id not in self._done:
                yield job.record
        self._newest = newest


class _Followed:
    """The mirrors of one job, opened with its first meta-iteration or at its end."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._parts = [_Part(target) for target in targets]
        self._seen = -1

    def write(self, client: Client, job_id: str) -> bool:
        """Writes what is new. Returns whether the job has ended and all of it is written."""
        job = client.jobs.retrieve(job_id).record
        if job.version == self._seen or not (job.progress.iteration or job.status.is_terminal):
            return False
        trouble: Exception | None = None
        for part in self._parts:
            try:
                part.write(client, job)
            except NotFound:
                raise
            except Exception as error:  # one tool that is out of reach holds back no other
                trouble = error
        if trouble is not None:
            raise trouble
        self._seen = job.version
        return job.status.is_terminal


class _Part:
    """A job in one tool."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._mirror: Mirror | None = None
        self._written = 0
        self._has_ended = False

    def write(self, client: Client, job: JobRecord) -> None:
        from drmad_client.cli.mirroring import open_mirror

        if self._has_ended:
            return
        if self._mirror is None:
            mirror = open_mirror(self._target)
            self._written = mirror.begin(job)
            self._mirror = mirror
        if self._written < job.progress.iteration:
            after = self._written - 1 if self._written else None
            for record in client.jobs.history(job.id, after):
                self._mirror.record(record)
                self._written = record.iteration + 1
        if job.status.is_terminal:
            with tempfile.TemporaryDirectory() as folder:
                with contextlib.suppress(NotFound):  # it ended before its first meta-iteration
                    client.jobs.save(job.id, Path(folder))
                self._mirror.end(job, Path(folder))
            self._has_ended = True
