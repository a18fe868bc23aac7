"""The jobs of a service: `client.jobs`."""

from __future__ import annotations

import builtins
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drmad_client.errors import BadArgument, Conflict, JobFailed
from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.http.async_job_handle import AsyncJob
from drmad_client.http.async_uploads import AsyncCodeUploads
from drmad_client.http.job_view import History
from drmad_client.http.protocol import calls
from drmad_client.http.running import asyncio_runtime
from drmad_client.http.running.async_flow_runner import AsyncFlowRunner
from drmad_client.packing.packed_problem import PackedProblem
from drmad_client.records.events import Event, LogLine
from drmad_client.records.group import GroupRecord
from drmad_client.records.job import JobRecord, PreflightReport
from drmad_client.records.search import Trial
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_client.records.status import JobStatus
from drmad_client.spec.groups import GROUP
from drmad_client.spec.job import JobSpec

if TYPE_CHECKING:
    from drmad_client.http.protocol.array_answer import NamedArrays

logger = logging.getLogger(__name__)

ProblemSource = Callable[..., Any] | PackedProblem
"""A function that returns a problem, or what `drmad_client.pack` made of it."""


class AsyncJobPage:
    """A page of jobs; iteration continues through the pages after it.

    Attributes:
        data: The jobs of this page only.
        next: The value of `after` that lists the next page; None on the last page.
    """

    def __init__(
        self,
        data: list[AsyncJob],
        next_: str | None,
        load_page: Callable[[str], Awaitable[AsyncJobPage]],
    ) -> None:
        self.data = data
        self.next = next_
        self._load_page = load_page

    @property
    def has_more(self) -> bool:
        return self.next is not None

    async def __aiter__(self) -> AsyncIterator[AsyncJob]:
        page = self
        for job in page.data:
            yield job
        while page.next is not None:
            page = await self._load_page(page.next)
            for job in page.data:
                yield job


class AsyncJobs:
    """The jobs of a service: `client.jobs`."""

    def __init__(self, runner: AsyncFlowRunner, code: AsyncCodeUploads) -> None:
        self._runner = runner
        self._code = code

    async def create(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        code: Path | str | None = None,
        problem: ProblemSource | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job.

        Args:
            spec: What to tune and how.
            code: A folder of your own code. It is uploaded, and problem.code is set to it.
            problem: The function that returns your problem, from a module, a script or a notebook,
                or what `drmad_client.pack` made of it. Its source is uploaded, and problem.code and
                problem.entrypoint are set. The handle lists it as `packed`.
            idempotency_key: The service creates one job per key, however often it receives the
                request. By default each call generates a key, which its retries share; give your
                own key to avoid a second job after a restart of your program.
        Raises:
            CodeError: The code cannot be packed; see `drmad_client.pack`.
        """
        spec, packed = await self._with_code(spec, code, problem)
        job = await self._request(calls.create(spec, idempotency_key or uuid.uuid4().hex))
        job.packed = packed
        return job

    async def create_many(
        self,
        specs: Sequence[JobSpec | Mapping[str, Any]],
        *,
        group: str | None = None,
        code: Path | str | None = None,
    ) -> builtins.list[AsyncJob]:
        """Submit jobs as a group; none is created unless all specs are valid.

        `drmad_client.spec.groups.variants` makes the specs of seeds and of a grid. `list` finds the
        jobs by their tag, group:NAME; `wait_all` waits for them and `cancel_all` cancels them.

        Args:
            specs: What to tune and how.
            group: The name of the group, by default a new one. Submitting the same group again
                creates no second job.
            code: As in `create`, for all of them.
        """
        group = group or uuid.uuid4().hex[:12]
        uploaded = await self._code.upload(code) if code is not None else None
        members = []
        for spec in specs:
            plain = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else dict(spec)
            if uploaded is not None:
                plain = dict(calls.with_problem(plain, code=uploaded))
            plain["tags"] = {**(plain.get("tags") or {}), GROUP: group}
            members.append(plain)
            await self._runner.send(calls.validate(plain))
        return [
            await self._request(calls.create(member, f"{group}-{number}"))
            for number, member in enumerate(members)
        ]

    async def group(self, name: str) -> GroupRecord:
        """Fetch a group: its jobs by state, and the mean over the seeds of each setting."""
        return await self._runner.send(calls.group(name))

    async def wait_all(
        self, job_ids: Sequence[str], timeout_s: float | None = None
    ) -> builtins.list[AsyncJob]:
        """Wait until each of these jobs has ended, in whatever state; return them as they are then.

        Raises:
            WaitTimeout: They have not all ended within `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for job_id in job_ids:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            with contextlib.suppress(JobFailed):
                await self.wait(job_id, left_s)
        return [await self.retrieve(job_id) for job_id in job_ids]

    async def cancel_all(self, job_ids: Sequence[str]) -> builtins.list[AsyncJob]:
        """Cancel each of these jobs that has not ended; return them as they are then."""
        for job_id in job_ids:
            with contextlib.suppress(Conflict):  # it has ended
                await self.cancel(job_id)
        return [await self.retrieve(job_id) for job_id in job_ids]

    async def validate(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        code: Path | str | None = None,
        problem: ProblemSource | None = None,
    ) -> JobSpec:
        """Validate the spec of a job without running anything; return it with its defaults.

        `check` also runs the preflight of the job on a worker. `code` and `problem` are as in
        `create`.

        Raises:
            UnprocessableEntity: The spec is invalid; `errors` names each bad field.
        """
        spec, _ = await self._with_code(spec, code, problem)
        return await self._runner.send(calls.validate(spec))

    async def check(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        code: Path | str | None = None,
        problem: ProblemSource | None = None,
    ) -> PreflightReport:
        """Run the preflight of a job on a worker, without creating the job.

        The report predicts the time and the memory that the job takes. Its proofs may have failed:
        `report.refusal(spec.preflight)` says why the job would not start. `code` and `problem` are
        as in `create`.

        Raises:
            UnprocessableEntity: The job would fail; the message is that of the job's error.
        """
        spec, _ = await self._with_code(spec, code, problem)
        return await self._runner.send(calls.check(spec))

    async def retrieve(self, job_id: str) -> AsyncJob:
        """Fetch the current state of a job."""
        return await self._request(calls.retrieve(job_id))

    async def list(
        self,
        status: JobStatus | str | Sequence[str] | None = None,
        tag: str | Sequence[str] | None = None,
        after: str | None = None,
        limit: int = 20,
        archived: Literal["exclude", "include", "only"] = "exclude",
    ) -> AsyncJobPage:
        """List jobs, newest first. Iterating over the page continues through the following pages.

        Args:
            status: Only jobs in this state, or in one of these.
            tag: Only jobs with this tag, written as team:vision, or with these: of the tags of
                one key a job has one, and of several keys it has all.
            after: The `next` of the previous page.
            limit: Bounds the number of jobs on a page.
            archived: Whether archived jobs are left out, are among the others, or are alone.
        """
        page = await self._runner.send(calls.list_jobs(status, tag, after, limit, archived))
        return AsyncJobPage(
            [AsyncJob(self._runner, record) for record in page.data],
            page.next if page.has_more else None,
            lambda next_: self.list(status, tag, next_, limit, archived),
        )

    async def update(
        self,
        job_id: str,
        *,
        name: str | None = None,
        note: str | None = None,
        tags: Mapping[str, str | None] | None = None,
        archived: bool | None = None,
    ) -> AsyncJob:
        """Change the labels of a job, which have no influence on its results.

        Args:
            job_id: The job.
            name: Its new name.
            note: Its new note; "" removes it.
            tags: Tags to set by key; None as a value removes that tag.
            archived: Whether lists leave the job out, which must have ended.
        """
        labels = calls.labels(name, note, tags, archived)
        return await self._request(calls.label(job_id, labels))

    async def cancel(self, job_id: str) -> AsyncJob:
        """Ask the job to stop now; its committed meta-iterations stay."""
        return await self._request(calls.act(job_id, "cancel"))

    async def pause(self, job_id: str) -> AsyncJob:
        """Ask the job to stop after the running meta-iteration and release its resources."""
        return await self._request(calls.act(job_id, "pause"))

    async def resume(self, job_id: str) -> AsyncJob:
        """Continue a paused job from its last committed meta-iteration."""
        return await self._request(calls.act(job_id, "resume"))

    async def extend(self, job_id: str, iterations: int) -> AsyncJob:
        """Continue a job that has ended for `iterations` more meta-iterations."""
        return await self._request(calls.act(job_id, "extend", {"iterations": iterations}))

    async def fork(
        self, job_id: str, iteration: int, changes: Mapping[str, Any] | None = None
    ) -> AsyncJob:
        """Create a job that starts from the state before a kept meta-iteration of this job.

        Args:
            job_id: The job to fork.
            iteration: The meta-iteration whose initial state the new job starts from.
            changes: Parts of the spec to change, as in {"meta": {"learning_rate": 0.1}}. The
                problem and the hyperparameters cannot change.
        """
        return await self._request(calls.fork(job_id, iteration, changes))

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its history and its results."""
        await self._runner.send(calls.delete(job_id))

    async def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[JobRecord], None] = lambda _: None,
    ) -> AsyncJob:
        """Wait until the job has succeeded, and pass its warnings on as `JobWarning`, each once.

        Args:
            job_id: The job to wait for.
            timeout_s: Bounds the wait, in seconds, with a resolution of one second.
            on_change: Is called with the record of the job after every change.
        Raises:
            JobFailed: The job failed or was cancelled.
            WaitTimeout: The job has not ended within `timeout_s` seconds.
        """
        last: AsyncJob | None = None

        def changed(record: JobRecord) -> None:
            nonlocal last
            last = AsyncJob(self._runner, record)
            on_change(record)

        try:
            record = await self._runner.run(self._runner.flows.wait(job_id, timeout_s, changed))
            last = AsyncJob(self._runner, record)
        finally:
            if last is not None:
                last._pass_warnings_on()
        return last

    def events(self, job_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """Iterate over the past and future events of a job until it has ended.

        The iterator reconnects after a broken connection and yields every event once, except that
        only the newest progress event counts. `after` is the id of the last event already seen.
        """
        return self._runner.iterate(self._runner.flows.events(job_id, after))

    def logs(
        self,
        job_id: str,
        replica: int | None = None,
        *,
        after: str | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Iterate over the lines that the replicas printed.

        Args:
            job_id: The job whose log is read.
            replica: Only lines of this replica.
            after: The id of the last line already seen.
            follow: Continue until the job has ended.
        """
        return self._runner.iterate(self._runner.flows.logs(job_id, replica, after, follow))

    async def history(self, job_id: str, after: int | None = None) -> History:
        """Fetch all committed meta-iterations of a job, or those after this one."""
        return History(await self._runner.run(self._runner.flows.history(job_id, after)))

    async def trials(self, job_id: str) -> builtins.list[Trial]:
        """Fetch the trials of the job's search."""
        return await self._runner.run(self._runner.flows.trials(job_id))

    async def hyperparameters(
        self, job_id: str, iteration: int | str = "best", raw: bool = False
    ) -> NamedArrays:
        """Fetch the tuned tensors by name.

        Args:
            job_id: The job that tuned them.
            iteration: best, last or a number.
            raw: Return the values that the outer optimizer updates, not those in the user's units.
        """
        return await self._runner.send(
            calls.arrays(job_id, "hyperparameters", iteration, transformed=not raw)
        )

    async def hypergradients(self, job_id: str, iteration: int | str) -> NamedArrays:
        """Fetch the derivatives of the validation loss with respect to the raw hyperparameters."""
        return await self._runner.send(calls.arrays(job_id, "hypergradients", iteration))

    async def model(self, job_id: str, iteration: str = "best") -> NamedArrays:
        """Fetch the weights and buffers of the best or last model; see `Job.model`."""
        return await self._runner.send(calls.arrays(job_id, "model", iteration))

    async def attribution(self, job_id: str) -> AttributionReport:
        """Fetch the helpers and the harmers of each query, of a job of kind attribution."""
        return await self._runner.send(calls.attribution(job_id))

    async def scores(self, job_id: str) -> InfluenceScores:
        """Fetch the influence of every training row on every query, of a job of kind attribution.

        `.influence` is a NumPy array, `.to_pandas()` a table, and `.write(path)` a file of
        safetensors, CSV or Parquet.
        """
        return await self._runner.send(calls.influence_scores(job_id))

    async def fidelity(self, job_id: str) -> dict[str, Any]:
        """Fetch the fidelity probes of the job's methods, and the chosen method."""
        return await self._runner.send(calls.part(job_id, "fidelity"))

    async def figure(self, job_id: str, name: str) -> dict[str, Any]:
        """Fetch a figure as plotly's JSON; `figures.FIGURES` lists the names."""
        return await self._runner.send(calls.part(job_id, f"figures/{name}"))

    async def download_model(
        self, job_id: str, target: Path | str, iteration: str = "best"
    ) -> Path:
        """Write the best or last model to a safetensors file, never whole in memory.

        A broken connection goes on where it broke, and the digest is compared at the end.
        """
        file = calls.model_file(job_id, iteration)
        return await self._runner.run(self._runner.flows.download(file, Path(target)))

    async def save(
        self, job_id: str, folder: Path, iteration: int | str = "best"
    ) -> builtins.list[Path]:
        """Write the files that are needed to use and to repeat a job; return their paths.

        The files are hyperparameters.safetensors (raw, with the transforms in its metadata),
        history.csv, job.yaml, and model.safetensors if the service keeps the model of this
        meta-iteration.
        """
        return await self._runner.run(self._runner.flows.save(job_id, folder, iteration))

    async def _with_code(
        self,
        spec: JobSpec | Mapping[str, Any],
        code: Path | str | None,
        problem: ProblemSource | None,
    ) -> tuple[JobSpec | Mapping[str, Any], PackedProblem | None]:
        """Upload the code or the source of the problem; return the spec that names it."""
        if code is not None and problem is not None:
            raise BadArgument("expected either `code` or `problem`, got both: give one of them")
        if code is not None:
            return calls.with_problem(spec, code=await self._code.upload(code)), None
        if problem is None:
            return spec, None
        packed = await _packed(problem)
        logger.info("packed %s", packed.summary, extra={"action": "problem_packed"})
        name = await self._runner.run(self._runner.flows.upload_code(packed.archive))
        return calls.with_problem(spec, code=name, entrypoint=packed.entrypoint), packed

    async def _request(self, call: calls.Call[JobRecord]) -> AsyncJob:
        return AsyncJob(self._runner, await self._runner.send(call))


async def _packed(problem: ProblemSource) -> PackedProblem:
    if isinstance(problem, PackedProblem):
        return problem
    # The parser of .gitignore loads slowly.
    from drmad_client.packing.build_function import pack

    return await asyncio_runtime.run_in_thread(pack, problem)
