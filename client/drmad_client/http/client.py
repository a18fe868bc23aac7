"""The client: every call of the service over httpx. `async_api.py` has the same, awaited."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from drmad_client.http import calls
from drmad_client.http.connections import Connection, options, where
from drmad_client.http.flows import Flow, FlowOutcome, Flows, Item, Stream
from drmad_client.http.job_handle import History, Job, JobPage
from drmad_client.http.uploads import CodeUploads, DataUploads
from drmad_client.records.cluster import Cluster
from drmad_client.records.job import Event, JobStatus, LogLine, PreflightReport, Trial
from drmad_client.records.job import JobRecord as JobRecord
from drmad_client.spec.job import JobSpec

if TYPE_CHECKING:
    from drmad_client.http.arrays import Arrays

T = TypeVar("T")


class Client:
    """A drmad service.

    Args:
        base_url: Where it is; else DRMAD_URL, else http://127.0.0.1:8080.
        api_key: Else DRMAD_API_KEY, else for a service on this machine the key that `drmad up`
            keeps in its home (DRMAD_HOME), else none is sent.
        timeout_s: How long to wait for an answer.
        transport: Stands in for the network, as in httpx.

    What only reads, and `jobs.create`, is tried again when the connection fails or the service is
    busy; see `errors` for what is raised in the end.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = where(base_url)
        self.timeout_s = timeout_s
        self._http = httpx.Client(**options(self.base_url, api_key), transport=transport)
        self._flows = Flows(self.base_url)
        self.jobs = Jobs(self)
        self.code = CodeUploads(self)
        self.data = DataUploads(self)

    def catalog(self) -> dict[str, Any]:
        """The built-in models, data sets and kinds of hyperparameters."""
        return self._run(self._flows.send(calls.dictionary("/v1/catalog")))

    def cluster(self) -> Cluster:
        """Nodes, GPUs, what runs and what waits, and why."""
        return self._run(self._flows.send(calls.cluster()))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        outcome: FlowOutcome = None
        connection = Connection(self._http, self.timeout_s)
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = connection.perform(step)

    def _iterate(self, flow: Stream[T]) -> Iterator[T]:
        outcome: FlowOutcome = None
        connection = Connection(self._http, self.timeout_s)
        try:
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Item):
                    outcome = None
                    yield step.value
                else:
                    outcome = connection.perform(step)
        finally:
            connection.close()


class Jobs:
    """The jobs of a service: `client.jobs`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._flows = client._flows

    def create(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        code: Path | str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job.

        `code`: folder of your own code, which is uploaded and filled in as problem.code.

        Under one idempotency key the service creates one job, however often it is asked. Give your
        own to be sure across restarts of your program; else each call makes one for its retries.
        """
        if code is not None:
            spec = calls.with_code(spec, self._client.code.upload(code))
        return self._job(calls.create(spec, idempotency_key or uuid.uuid4().hex))

    def validate(self, spec: JobSpec | Mapping[str, Any]) -> JobSpec:
        """Check the spec of a job alone, at once; returns it with its defaults.

        `check` has a worker try the job.

        Raises:
            UnprocessableEntity: Its `errors` name each bad field.
        """
        return self._send(calls.validate(spec))

    def check(
        self, spec: JobSpec | Mapping[str, Any], *, code: Path | str | None = None
    ) -> PreflightReport:
        """Have a worker try a job without creating it, and predict what it takes.

        Raises:
            UnprocessableEntity: What is wrong with it, as the job's error would say.
        """
        if code is not None:
            spec = calls.with_code(spec, self._client.code.upload(code))
        return self._send(calls.check(spec))

    def retrieve(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._job(calls.retrieve(job_id))

    def list(
        self,
        status: JobStatus | str | None = None,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> JobPage:
        """The newest jobs first: a page of them, and by iteration over it all of them.

        `tag`: as in team:vision. `after`: the `next` of the page before.
        """
        page = self._send(calls.list_jobs(status, tag, after, limit))
        return JobPage(
            [Job(self, record) for record in page.data],
            page.next if page.has_more else None,
            lambda next_: self.list(status, tag, next_, limit),
        )

    def cancel(self, job_id: str) -> Job:
        """Ask the job to end now; what it has committed stays."""
        return self._job(calls.act(job_id, "cancel"))

    def pause(self, job_id: str) -> Job:
        """Ask the job to give its place back after the running meta-iteration."""
        return self._job(calls.act(job_id, "pause"))

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on where it was."""
        return self._job(calls.act(job_id, "resume"))

    def extend(self, job_id: str, iterations: int) -> Job:
        """Let a job that has ended go on for so many more meta-iterations."""
        return self._job(calls.act(job_id, "extend", {"iterations": iterations}))

    def fork(self, job_id: str, iteration: int, changes: Mapping[str, Any] | None = None) -> Job:
        """A new job that begins with the state before a kept meta-iteration of this one.

        `changes`: parts of the spec, as in {"meta": {"learning_rate": 0.1}}; the problem and the
        hyperparameters stay.
        """
        return self._job(calls.fork(job_id, iteration, changes))

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with everything that belongs to it."""
        self._send(calls.delete(job_id))

    def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[JobRecord], None] = lambda _: None,
    ) -> Job:
        """Wait until the job has succeeded; `on_change` is called with it whenever it changes.

        Raises:
            JobFailed: It failed or was cancelled.
            WaitTimeout: It goes on after `timeout_s` (to the second).
        """
        return Job(self, self._client._run(self._flows.wait(job_id, timeout_s, on_change)))

    def events(self, job_id: str, after: str | None = None) -> Iterator[Event]:
        """What happened to the job and what happens, until it has ended.

        Goes on where it was when the connection breaks: every event comes once, except that of
        progress only the newest counts. `after`: the id of the last event seen.
        """
        return self._client._iterate(self._flows.events(job_id, after))

    def logs(
        self,
        job_id: str,
        replica: int | None = None,
        *,
        after: str | None = None,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """What the replicas printed; with `follow` until the job has ended.

        `replica`: only of this one. `after`: the id of the last line seen.
        """
        return self._client._iterate(self._flows.logs(job_id, replica, after, follow))

    def history(self, job_id: str) -> History:
        """Every meta-iteration committed so far."""
        return History(self._client._run(self._flows.history(job_id)))

    def trials(self, job_id: str) -> builtins.list[Trial]:
        """What the job's search has tried so far."""
        return self._client._run(self._flows.trials(job_id))

    def hyperparameters(
        self, job_id: str, iteration: int | str = "best", raw: bool = False
    ) -> Arrays:
        """The tuned tensors by name, in the user's units, or raw as the outer optimizer has them.

        `iteration`: best, last or a number.
        """
        return self._send(calls.arrays(job_id, "hyperparameters", iteration, transformed=not raw))

    def hypergradients(self, job_id: str, iteration: int | str) -> Arrays:
        """Derivatives of the validation loss in the raw hyperparameters."""
        return self._send(calls.arrays(job_id, "hypergradients", iteration))

    def model(self, job_id: str, iteration: str = "best") -> Arrays:
        """Weights and buffers of the trained model, as `state_dict` names them: best or last."""
        return self._send(calls.arrays(job_id, "model", iteration))

    def fidelity(self, job_id: str) -> dict[str, Any]:
        """What was measured of the methods, and which was chosen."""
        return self._send(calls.part(job_id, "fidelity"))

    def figure(self, job_id: str, name: str) -> dict[str, Any]:
        """A figure as plotly's JSON, reduced by the service; `figures.FIGURES` has their names."""
        return self._send(calls.part(job_id, f"figures/{name}"))

    def save(self, job_id: str, folder: Path, iteration: int | str = "best") -> builtins.list[Path]:
        """Write what is needed to use and to repeat a job; returns the files written.

        hyperparameters.safetensors (raw, with the transforms in its metadata), model.safetensors
        where the service keeps one of this meta-iteration, history.csv and job.yaml.
        """
        return self._client._run(self._flows.save(job_id, folder, iteration))

    def _send(self, call: calls.Call[T]) -> T:
        return self._client._run(self._flows.send(call))

    def _job(self, call: calls.Call[JobRecord]) -> Job:
        return Job(self, self._send(call))
