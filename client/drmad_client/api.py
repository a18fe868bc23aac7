"""The client: every call of the service, synchronous, over httpx."""

from __future__ import annotations

import builtins
import contextlib
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from drmad_client import __version__, calls, local_key, saving
from drmad_client.calls import Call
from drmad_client.errors import ConnectionFailed, JobFailed, NotFound, WaitTimeout
from drmad_client.records import Event, Job, JobStatus, MetaIteration, Page
from drmad_client.retries import Failure, Retries, is_final
from drmad_client.server_sent import Reader
from drmad_client.specs import JobSpec

if TYPE_CHECKING:
    from drmad_client.arrays import Arrays

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"

_RETRIES = 3  # about a second in all: who typed the wrong URL should not wait for it
_RECONNECTS = 10  # about forty seconds: the service may be starting again
_STEADY_S = 10.0  # a connection that held so long was a good one
_LONG_POLL_S = 30
_POLL_PACE_S = 0.25  # where something between does not know how to hold an answer back
_HISTORY_PAGE = 500


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
        self.base_url = (base_url or os.environ.get("DRMAD_URL") or DEFAULT_URL).rstrip("/")
        self.timeout_s = timeout_s
        self._http = httpx.Client(
            **_options(self.base_url, api_key or os.environ.get("DRMAD_API_KEY")),
            transport=transport,
        )
        self.jobs = Jobs(self)

    def catalog(self) -> dict[str, Any]:
        """The built-in models, data sets and kinds of hyperparameters."""
        return self._send(calls.catalog())

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

    def _request(self, call: Call[Any]) -> httpx.Request:
        return self._http.build_request(
            call.method,
            call.path,
            params={name: value for name, value in call.params.items() if value is not None},
            headers=dict(call.headers),
            content=call.body,
            timeout=httpx.Timeout(self.timeout_s, read=self.timeout_s + call.held_s),
        )

    def _send(self, call: Call[T], retries: Retries | None = None) -> T:
        retries = retries or Retries(_RETRIES if call.repeatable else 0)
        while True:
            failure: Failure
            try:
                failure = response = self._http.send(self._request(call))
                if is_final(response):
                    return calls.answer(call, response)
            except httpx.RequestError as error:
                failure = error
            pause_s = retries.pause_s(failure)
            if pause_s is None:
                return self._give_up(call, failure)
            time.sleep(pause_s)

    def _stream(self, call: Call[Reader]) -> Iterator[Event]:
        """The events of one connection, as long as it holds."""
        response = self._http.send(self._request(call), stream=True)
        try:
            if not response.is_success:
                response.read()
            if not is_final(response):
                response.raise_for_status()
            reader = calls.answer(call, response)
            for chunk in response.iter_bytes():
                yield from filter(None, map(calls.event, reader.feed(chunk)))
        finally:
            response.close()

    def _give_up(self, call: Call[T], failure: Failure | None) -> T:
        if isinstance(failure, httpx.Response):
            return calls.answer(call, failure)
        raise _connection_failed(self.base_url, failure) from failure


class Jobs:
    """The jobs of a service: `client.jobs`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(
        self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Submit a job.

        Under one idempotency key the service creates one job, however often it is asked. Give your
        own to be sure across restarts of your program; else each call makes one for its retries.
        """
        return self._client._send(calls.create(spec, idempotency_key or uuid.uuid4().hex))

    def validate(self, spec: JobSpec | Mapping[str, Any]) -> JobSpec:
        """Check a job without creating it; returns it with its defaults.

        Raises:
            UnprocessableEntity: Its `errors` name each bad field.
        """
        return self._client._send(calls.validate(spec))

    def retrieve(self, job_id: str) -> Job:
        return self._client._send(calls.retrieve(job_id))

    def list(
        self,
        status: JobStatus | str | None = None,
        tag: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Job]:
        """The newest jobs first.

        `tag`: as in team:vision. `after`: the `next` of the page before.
        """
        return self._client._send(calls.list_jobs(status, tag, after, limit))

    def cancel(self, job_id: str) -> Job:
        """Ask the job to end now."""
        return self._client._send(calls.cancel(job_id))

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Wait until the job has succeeded.

        Raises:
            JobFailed: It failed or was cancelled.
            WaitTimeout: It goes on after `timeout_s` (to the second).
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        job, etag = self._client._send(calls.poll(job_id)) or _impossible()
        while not job.status.is_terminal:
            asked_at = time.monotonic()
            if asked_at >= deadline:
                raise WaitTimeout(f"job {job_id} is still {job.status} after {timeout_s:g} s")
            held_s = math.ceil(min(deadline - asked_at, _LONG_POLL_S))
            changed = self._client._send(calls.poll(job_id, etag, held_s), Retries(_RECONNECTS))
            job, etag = changed or (job, etag)
            if not job.status.is_terminal:
                time.sleep(max(0.0, asked_at + _POLL_PACE_S - time.monotonic()))
        if job.status is not JobStatus.SUCCEEDED:
            raise JobFailed(job)
        return job

    def events(self, job_id: str, after: str | None = None) -> Iterator[Event]:
        """What happened to the job and what happens, until it has ended.

        Goes on where it was when the connection breaks: every event comes once, except that of
        progress only the newest counts. `after`: the id of the last event seen.
        """
        send, retries = self._client._send, Retries(_RETRIES)
        is_over = False  # the job had ended before this connection was opened
        while True:
            call = calls.events(job_id, after)
            failure: Failure | None = None
            opened_at, is_new = time.monotonic(), False
            try:
                for event in self._client._stream(call):
                    after = event.id or after  # progress has none: only the newest counts
                    is_new, retries = True, Retries(_RECONNECTS)
                    yield event
                    if calls.is_last(event):
                        return
            except httpx.HTTPStatusError as error:
                failure = error.response
            except httpx.RequestError as error:
                failure = error
            if failure is None:
                # No last event came: either `after` was the last one, or the service stops.
                if is_over and not is_new:
                    return
                is_over = send(calls.retrieve(job_id), retries).status.is_terminal
            if time.monotonic() - opened_at > _STEADY_S:
                retries = Retries(_RECONNECTS)
            pause_s = retries.pause_s(failure)
            if pause_s is None:
                self._client._give_up(call, failure)
            else:
                time.sleep(pause_s)

    def history(self, job_id: str) -> builtins.list[MetaIteration]:
        """Every meta-iteration committed so far."""
        records: builtins.list[MetaIteration] = []
        after, has_more = None, True
        while has_more:
            page = self._client._send(calls.history(job_id, after, _HISTORY_PAGE))
            records += page.data
            after, has_more = page.next, page.has_more and page.next is not None
        return records

    def hyperparameters(
        self, job_id: str, iteration: int | str = "best", raw: bool = False
    ) -> Arrays:
        """The tuned tensors by name, in the user's units, or raw as the outer optimizer has them.

        `iteration`: best, last or a number.
        """
        return self._client._send(
            calls.arrays(job_id, "hyperparameters", iteration, transformed=not raw)
        )

    def hypergradients(self, job_id: str, iteration: int | str) -> Arrays:
        """Derivatives of the validation loss in the raw hyperparameters."""
        return self._client._send(calls.arrays(job_id, "hypergradients", iteration))

    def model(self, job_id: str, iteration: str = "best") -> Arrays:
        """Weights and buffers of the trained model, as `state_dict` names them: best or last."""
        return self._client._send(calls.arrays(job_id, "model", iteration))

    def save(self, job_id: str, folder: Path, iteration: int | str = "best") -> builtins.list[Path]:
        """Write what is needed to use and to repeat a job; returns the files written.

        hyperparameters.safetensors (raw, with the transforms in its metadata), model.safetensors
        where the service keeps one of this meta-iteration, history.csv and job.yaml.
        """
        send = self._client._send
        job, records = self.retrieve(job_id), self.history(job_id)
        files = {
            "hyperparameters.safetensors": send(calls.file(job_id, "hyperparameters", iteration))
        }
        if iteration in ("best", "last"):
            with contextlib.suppress(NotFound):  # too large to be kept
                files["model.safetensors"] = send(calls.file(job_id, "model", iteration))
        files["history.csv"] = saving.history_csv(records).encode()
        files["job.yaml"] = saving.spec_yaml(job.spec).encode()
        return saving.write(files, folder)


def _options(base_url: str, api_key: str | None) -> dict[str, Any]:
    """How httpx's clients are set up, of either kind."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConnectionFailed(f"the URL must be like {DEFAULT_URL}, got {base_url!r}")
    headers = {"User-Agent": f"drmad/{__version__}", "Accept": "application/json"}
    if api_key := api_key or local_key.find(url.host):
        headers["Authorization"] = f"Bearer {api_key.strip()}"
    # A proxy of the environment cannot reach this machine's own loopback.
    is_local = url.host in local_key.LOOPBACK
    return {"base_url": url, "headers": headers, "trust_env": not is_local}


def _connection_failed(base_url: str, error: httpx.RequestError | None) -> ConnectionFailed:
    if error is None:
        return ConnectionFailed(f"{base_url} breaks its event stream off again and again")
    if isinstance(error, httpx.ReadTimeout):
        return ConnectionFailed(f"{base_url} did not answer in time; it may be overloaded")
    cause = str(error) or type(error).__name__
    return ConnectionFailed(
        f"no drmad service was reached at {base_url} ({cause}); start it with: drmad up, "
        f"or set DRMAD_URL to where it is"
    )


def _impossible() -> tuple[Job, str]:
    raise ConnectionFailed("the service answered 304 to a request without a condition")
