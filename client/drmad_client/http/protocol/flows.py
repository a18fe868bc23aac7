"""Operations that take more than one request, as generators.

A generator yields the next step and receives its outcome, so the synchronous and the asynchronous
client run the same code.
"""

from __future__ import annotations

import builtins
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from drmad_client.errors import (
    ApiError,
    ConnectionFailed,
    JobFailed,
    JobWarning,
    NotFound,
    RetrainingFailed,
    ValidationFailed,
    WaitTimeout,
)
from drmad_client.export import job_folder
from drmad_client.http.protocol import calls, uploads
from drmad_client.http.protocol.calls import Call
from drmad_client.http.protocol.downloads import Draft
from drmad_client.http.protocol.retries import RequestFailure, Retries, is_final
from drmad_client.http.protocol.steps import (
    Flow,
    FlowOutcome,
    Item,
    Pause,
    ReadStream,
    Send,
    Stream,
)
from drmad_client.records.events import Event, LogLine
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.search import Trial
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.records.side_runs.side_run import SideRun
from drmad_client.records.side_runs.validation import Validation
from drmad_client.records.status import JobStatus
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_client.spec.side_runs.validation import ValidationSpec

if TYPE_CHECKING:
    from drmad_client.files.code_archive import Archive

T = TypeVar("T")
R = TypeVar("R", bound="SideRun")

_RETRIES = 3  # about a second in total, so that a wrong URL is reported soon
_RECONNECTS = 10  # about forty seconds in total, enough for a service that restarts
_STEADY_S = 10.0  # a connection that lasted this long restores the budget of retries
_LONG_POLL_S = 30
_POLL_PACE_S = 0.25  # between polls, if a proxy answers at once instead of holding the request
_LOG_PACE_S = 1.0
_SIDE_RUN_PACE_S = 0.5
_LOG_TAIL = 20
_HISTORY_PAGE = 500


class Flows:
    """The operations of one service."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def send(self, call: Call[T], retries: Retries | None = None) -> Flow[T]:
        """Send one call and read its answer, with the retries that the call allows."""
        retries = retries or Retries(_RETRIES if call.repeatable else 0)
        while True:
            failure = yield Send(call)
            if isinstance(failure, httpx.Response) and is_final(failure):
                return calls.answer(call, failure)
            pause_s = retries.pause_s(_failure(failure))
            if pause_s is None:
                return self.give_up(call, _failure(failure))
            yield Pause(pause_s)

    def wait(
        self,
        job_id: str,
        timeout_s: float | None,
        on_change: Callable[[JobRecord], None] = lambda _: None,
    ) -> Flow[JobRecord]:
        """Wait until the job has succeeded; call `on_change` with each version of it.

        Raises:
            JobFailed: The job failed or was cancelled.
            WaitTimeout: The job has not ended within `timeout_s` seconds.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        job, etag = (yield from self.send(calls.poll(job_id))) or _impossible()
        on_change(job)
        while not job.status.is_terminal:
            polled_at = time.monotonic()
            if polled_at >= deadline:
                raise WaitTimeout(f"job {job_id} is still {job.status} after {timeout_s:g} s")
            held_s = math.ceil(min(deadline - polled_at, _LONG_POLL_S))
            poll = calls.poll(job_id, etag, held_s)
            changed = yield from self.send(poll, Retries(_RECONNECTS))
            if changed:
                job, etag = changed
                on_change(job)
            if not job.status.is_terminal:
                yield Pause(max(0.0, polled_at + _POLL_PACE_S - time.monotonic()))
        if job.status is JobStatus.SUCCEEDED:
            if job.spec.retrain is not None:
                left_s = None if timeout_s is None else max(0.0, deadline - time.monotonic())
                job = yield from self.answer(job_id, left_s)
                on_change(job)
            return job
        tail = (yield from self._log_tail(job_id)) if job.status is JobStatus.FAILED else []
        raise JobFailed(job, tail)

    def validate(
        self,
        job_id: str,
        asked: ValidationSpec,
        timeout_s: float | None,
        on_change: Callable[[Validation], None] = lambda _: None,
    ) -> Flow[Validation]:
        """Request a validation, and wait until it has succeeded.

        Raises:
            ValidationFailed: The validation failed or was cancelled.
            WaitTimeout: It has not ended within `timeout_s` seconds; it goes on.
        """
        found = yield from self.send(calls.request_validation(job_id, asked))
        read = calls.validation(job_id, found.id)
        found = yield from self._finished(found, read, timeout_s, on_change)
        if found.report is None:
            raise ValidationFailed(found)
        return found

    def retrain(
        self,
        job_id: str,
        asked: RetrainingSpec,
        timeout_s: float | None,
        on_change: Callable[[Retraining], None] = lambda _: None,
    ) -> Flow[Retraining]:
        """Request a retraining, and wait until it has succeeded.

        Raises:
            RetrainingFailed: The retraining failed or was cancelled.
            WaitTimeout: It has not ended within `timeout_s` seconds; it goes on.
        """
        found = yield from self.send(calls.request_retraining(job_id, asked))
        read = calls.retraining(job_id, found.id)
        found = yield from self._finished(found, read, timeout_s, on_change)
        if found.report is None:
            raise RetrainingFailed(found)
        return found

    def answer(
        self,
        job_id: str,
        timeout_s: float | None,
        on_change: Callable[[Retraining], None] = lambda _: None,
    ) -> Flow[JobRecord]:
        """Wait for the retraining at the end of a job, whatever becomes of it; fetch the job.

        Raises:
            WaitTimeout: It has not ended within `timeout_s` seconds; it goes on.
        """
        all_found = (yield from self.send(calls.retrainings(job_id))).data
        for found in all_found:
            if found.at_end:
                read = calls.retraining(job_id, found.id)
                yield from self._finished(found, read, timeout_s, on_change)
                break
        return (yield from self.send(calls.retrieve(job_id)))

    def _finished(
        self,
        found: R,
        read: calls.Call[R],
        timeout_s: float | None,
        on_change: Callable[[R], None],
    ) -> Flow[R]:
        """Wait until a run beside a job is finished; call `on_change` with each version of it."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not found.is_finished:
            on_change(found)
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"{found.id} is still {found.status} after {timeout_s:g} s")
            yield Pause(_SIDE_RUN_PACE_S)
            found = yield from self.send(read, Retries(_RECONNECTS))
        on_change(found)
        return found

    def events(self, job_id: str, after: str | None) -> Stream[Event]:
        """Yield past and future events of a job; reconnect after a broken connection."""
        retries = Retries(_RETRIES)
        is_over = False  # the job had ended before this connection was opened
        is_last = False  # the newest event says that the job has ended; an extension may follow
        while True:
            call = calls.events(job_id, after)
            opened_at, is_new = time.monotonic(), False
            outcome = yield Send(call, stream=True)
            if isinstance(outcome, httpx.Response) and is_final(outcome):
                reader = calls.answer(call, outcome)
                while isinstance(outcome := (yield ReadStream()), bytes):
                    for event in filter(None, map(calls.event, reader.feed(outcome))):
                        after = (
                            event.id or after
                        )  # progress events have no id: only the newest counts
                        is_new, retries = True, Retries(_RECONNECTS)
                        is_last = calls.is_last(event)
                        yield Item(event)
            if outcome is None:
                if is_last or (is_over and not is_new):
                    return
                # The stream ended without a final event: `after` was it, or the service stops.
                job = yield from self.send(calls.retrieve(job_id), retries)
                is_over = job.status.is_terminal
            if time.monotonic() - opened_at > _STEADY_S:
                retries = Retries(_RECONNECTS)
            failure = None if outcome is None else _failure(outcome)
            pause_s = retries.pause_s(failure)
            if pause_s is None:
                self.give_up(call, failure)
            else:
                yield Pause(pause_s)

    def logs(
        self, job_id: str, replica: int | None, after: str | None, follow: bool
    ) -> Stream[LogLine]:
        """Yield the lines that the replicas printed; with `follow`, until the job has ended."""
        is_over = not follow
        while True:
            page = yield from self.send(calls.logs(job_id, replica, after))
            for line in page.data:
                yield Item(line)
            after = page.next or (page.data[-1].id if page.data else after)
            if page.has_more and page.data:
                continue
            if is_over:
                return
            # The state is read before the next page, so that the last lines are not missed.
            job = yield from self.send(calls.retrieve(job_id), Retries(_RECONNECTS))
            is_over = job.status.is_terminal
            if not is_over:
                yield Pause(_LOG_PACE_S)

    def history(self, job_id: str, since: int | None = None) -> Flow[builtins.list[MetaIteration]]:
        """All meta-iterations, or those after `since`."""
        records: builtins.list[MetaIteration] = []
        after, has_more = None if since is None else str(since), True
        while has_more:
            page = yield from self.send(calls.history(job_id, after, _HISTORY_PAGE))
            records += page.data
            after, has_more = page.next, page.has_more and page.next is not None
        return records

    def trials(self, job_id: str) -> Flow[builtins.list[Trial]]:
        page = yield from self.send(calls.trials(job_id, None, _HISTORY_PAGE * 2))
        return page.data

    def upload_code(self, archive: Archive) -> Flow[str]:
        """Upload an archive unless the service has it; return its name in a spec."""
        return (yield from uploads.upload_code(self, archive))

    def upload_data(self, sha256: str, body: bytes | Path) -> Flow[str]:
        """Upload a data set unless the service has it; return its name in a spec."""
        return (yield from uploads.upload_data(self, sha256, body))

    def save(self, job_id: str, folder: Path, iteration: int | str) -> Flow[builtins.list[Path]]:
        job = yield from self.send(calls.retrieve(job_id))
        records = yield from self.history(job_id)
        tuned = yield from self.send(calls.file(job_id, "hyperparameters", iteration))
        files = {
            "hyperparameters.safetensors": tuned,
            "history.csv": job_folder.history_csv(records).encode(),
            "job.yaml": job_folder.spec_yaml(job.spec).encode(),
        }
        written = job_folder.write(files, folder)
        if iteration in ("best", "last"):
            target = folder / "model.safetensors"
            try:
                yield from self.download(calls.model_file(job_id, iteration), target)
            except NotFound as missing:
                warnings.warn(f"no model was written: {missing}", JobWarning, stacklevel=2)
            else:
                written.append(target)
        return written

    def download(self, call: Call[None], target: Path) -> Flow[Path]:
        """Write the file that a call returns; a broken connection goes on where it broke.

        Raises:
            ConnectionFailed: what arrived is not what the service has.
        """
        retries = Retries(_RETRIES)
        with Draft(target) as draft:
            while True:
                asked = draft.continued(call)
                outcome = yield Send(asked, stream=True)
                if isinstance(outcome, httpx.Response) and outcome.status_code == 412:
                    draft.restart()  # the job has another model by now
                elif isinstance(outcome, httpx.Response) and is_final(outcome):
                    calls.answer(asked, outcome)
                    draft.begin(outcome)
                    while isinstance(outcome := (yield ReadStream()), bytes):
                        if draft.add(outcome):
                            retries = Retries(_RECONNECTS)
                    if outcome is None:
                        return draft.finished()
                pause_s = retries.pause_s(_failure(outcome))
                if pause_s is None:
                    self.give_up(asked, _failure(outcome))
                else:
                    yield Pause(pause_s)

    def _log_tail(self, job_id: str) -> Flow[builtins.list[str]]:
        """The trailing log lines of a failed job.

        A failure to read them must not hide the error of the job.
        """
        lines: builtins.list[str] = []
        after = None
        try:
            while True:
                page = yield from self.send(calls.logs(job_id, None, after))
                lines = [*lines, *(line.text for line in page.data)][-_LOG_TAIL:]
                after = page.next
                if not (page.has_more and after):
                    return lines
        except (ApiError, ConnectionFailed):
            return lines

    def give_up(self, call: Call[T], failure: RequestFailure | None) -> T:
        """Raise what the last failure of a call means."""
        if isinstance(failure, httpx.Response):
            return calls.answer(call, failure)
        raise self._connection_failed(failure) from failure

    def _connection_failed(self, error: httpx.RequestError | None) -> ConnectionFailed:
        if error is None:
            return ConnectionFailed(f"the event stream of {self._base_url} broke off repeatedly")
        if isinstance(error, httpx.ReadTimeout):
            return ConnectionFailed(
                f"{self._base_url} did not answer in time; it may be overloaded, so try again later"
            )
        cause = str(error) or type(error).__name__
        return ConnectionFailed(
            f"no drmad service was reached at {self._base_url} ({cause}); start one with: "
            f"drmad up, or set DRMAD_URL to its address"
        )


def _failure(outcome: FlowOutcome) -> RequestFailure:
    assert isinstance(outcome, httpx.Response | httpx.RequestError)
    return outcome


def _impossible() -> tuple[JobRecord, str]:
    raise ConnectionFailed("the service answered 304 to a request without If-None-Match")
