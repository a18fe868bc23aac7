"""Every call of the API as a value: the request to send and the function that reads its answer.

Nothing here opens a connection or waits, so the synchronous and the asynchronous client share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter
from pydantic_core import to_json

from drmad_client.errors import ApiError, BadArgument, ConnectionFailed, from_problem
from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.http.protocol.array_answer import read_arrays
from drmad_client.http.protocol.server_sent_events import EventReader, Message
from drmad_client.records.events import Event, LogLine
from drmad_client.records.field_errors import written_path
from drmad_client.records.group import GroupRecord
from drmad_client.records.job import JobRecord, PreflightReport
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.problem_details import FieldError, ProblemDetails
from drmad_client.records.search import Trial
from drmad_client.records.service.audit import AuditEntry
from drmad_client.records.service.cluster import Cluster
from drmad_client.records.service.usage import TenantUsage
from drmad_client.records.side_runs.attribution import AttributionReport
from drmad_client.records.side_runs.retraining import Retraining
from drmad_client.records.side_runs.validation import Validation
from drmad_client.records.status import TERMINAL
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_client.spec.text.plain_values import NotPlain, plain

if TYPE_CHECKING:
    from drmad_client.http.protocol.array_answer import NamedArrays

T = TypeVar("T")

SAFETENSORS = "application/vnd.safetensors"
PREFLIGHT_S = 210.0
"""Bounds the wait for a preflight, in seconds: it may be queued, and may install packages first."""
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the function that reads its answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | int | Sequence[str] | None] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path | None = None  # the client streams a file
    repeatable: bool = True  # a retry is safe even if the service received the first request
    held_s: float = 0.0  # how long the service may delay its answer on purpose

    def request_arguments(self, timeout_s: float) -> dict[str, Any]:
        """The arguments of `build_request`, except for the body."""
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.params.items() if value is not None},
            "headers": dict(self.headers),
            "timeout": httpx.Timeout(timeout_s, read=timeout_s + self.held_s),
        }


def create(spec: JobSpec | Mapping[str, Any], idempotency_key: str) -> Call[JobRecord]:
    return Call(
        "POST",
        "/v1/jobs",
        _record(JobRecord),
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
        body=_body(spec),
    )


def code(name: str) -> Call[bytes]:
    """The archive sha256:<digits> that the tenant has uploaded."""
    path = f"/v1/code/{quote(name.removeprefix('sha256:'))}"
    return Call("GET", path, lambda response: response.content)


def with_problem(spec: JobSpec | Mapping[str, Any], **fields: str) -> Mapping[str, Any]:
    """The spec with these fields of its problem, such as the name of an uploaded archive.

    Raises:
        BadArgument: The spec states a problem of the catalog.
    """
    plain = spec.model_dump(mode="json") if isinstance(spec, JobSpec) else spec
    problem = plain.get("problem", {})
    if "model" in problem or isinstance(problem.get("data"), Mapping):
        raise BadArgument(
            "expected a spec whose problem is your own code, got a model or a data set of the "
            "catalog: leave out problem.model and problem.data"
        )
    return {**plain, "problem": {**problem, **fields}}


def validate(spec: JobSpec | Mapping[str, Any]) -> Call[JobSpec]:
    return Call(
        "POST",
        "/v1/jobs",
        _record(JobSpec),
        params={"validate_only": "true", "deep": "false"},
        headers={"Content-Type": "application/json"},
        body=_body(spec),
    )


def check(spec: JobSpec | Mapping[str, Any]) -> Call[PreflightReport]:
    return Call(
        "POST",
        "/v1/jobs",
        _record(PreflightReport),
        params={"validate_only": "true"},
        headers={"Content-Type": "application/json"},
        body=_body(spec),
        repeatable=False,
        held_s=PREFLIGHT_S,
    )


def retrieve(job_id: str) -> Call[JobRecord]:
    return Call("GET", _path(job_id), _record(JobRecord))


def poll(
    job_id: str, seen: str | None = None, held_s: int = 0
) -> Call[tuple[JobRecord, str] | None]:
    """The job and its ETag; None when after `held_s` seconds the ETag is still `seen`."""
    headers = {"Prefer": f"wait={held_s}"} if held_s else {}
    if seen:
        headers["If-None-Match"] = seen
    return Call("GET", _path(job_id), _job_and_etag, headers=headers, held_s=held_s)


def list_jobs(
    status: str | Sequence[str] | None,
    tag: str | Sequence[str] | None,
    after: str | None,
    limit: int,
    archived: str = "exclude",
) -> Call[Page[JobRecord]]:
    params = {"status": status, "tag": tag, "after": after, "limit": limit}
    if archived != "exclude":
        params["archived"] = archived
    return Call("GET", "/v1/jobs", _record(Page[JobRecord]), params=params)


def act(job_id: str, action: str, body: Mapping[str, Any] | None = None) -> Call[JobRecord]:
    """`action` is cancel, pause, resume, extend or fork."""
    return Call(
        "POST",
        _path(job_id, action),
        _record(JobRecord),
        headers={"Content-Type": "application/json"} if body is not None else {},
        body=None if body is None else _plain(body),
        repeatable=False,
    )


def label(job_id: str, labels: Mapping[str, Any]) -> Call[JobRecord]:
    return Call(
        "PATCH",
        _path(job_id),
        _record(JobRecord),
        headers={"Content-Type": "application/json"},
        body=_plain(labels),
    )


def labels(
    name: str | None, note: str | None, tags: Mapping[str, str | None] | None, archived: bool | None
) -> dict[str, Any]:
    """The labels that change; None leaves one as it is."""
    given = {"name": name, "note": note, "tags": tags, "archived": archived}
    return {field: value for field, value in given.items() if value is not None}


def fork(job_id: str, iteration: int, changes: Mapping[str, Any] | None) -> Call[JobRecord]:
    return act(job_id, "fork", {"iteration": iteration, "changes": dict(changes or {})})


def group(name: str) -> Call[GroupRecord]:
    return Call("GET", f"/v1/groups/{quote(name, safe='')}", _record(GroupRecord))


def cluster() -> Call[Cluster]:
    return Call("GET", "/v1/cluster", _record(Cluster))


def audit(job: str | None, by: str | None, after: str | None, limit: int) -> Call[Page[AuditEntry]]:
    params = {"job": job, "by": by, "after": after, "limit": limit}
    return Call("GET", "/v1/audit", _record(Page[AuditEntry]), params=params)


def usage() -> Call[Page[TenantUsage]]:
    return Call("GET", "/v1/usage", _record(Page[TenantUsage]))


def delete(job_id: str) -> Call[None]:
    return Call("DELETE", _path(job_id), lambda _: None, repeatable=False)


def part(job_id: str, name: str) -> Call[dict[str, Any]]:
    """A part of the job that is a JSON object, such as fidelity or figures/losses."""
    return dictionary(_path(job_id, name))


def dictionary(path: str) -> Call[dict[str, Any]]:
    return Call("GET", path, _dictionary)


def logs(job_id: str, replica: int | None, after: str | None) -> Call[Page[LogLine]]:
    params = {"replica": replica, "after": after, "limit": 1000}
    return Call("GET", _path(job_id, "logs"), _record(Page[LogLine]), params=params)


def history(job_id: str, after: str | None, limit: int) -> Call[Page[MetaIteration]]:
    params = {"after": after, "limit": limit}
    return Call("GET", _path(job_id, "history"), _record(Page[MetaIteration]), params=params)


def trials(job_id: str, after: str | None, limit: int) -> Call[Page[Trial]]:
    params = {"after": after, "limit": limit}
    return Call("GET", _path(job_id, "trials"), _record(Page[Trial]), params=params)


def request_validation(job_id: str, asked: ValidationSpec) -> Call[Validation]:
    return Call(
        "POST",
        _path(job_id, "validations"),
        _record(Validation),
        headers={"Content-Type": "application/json"},
        body=asked.model_dump_json().encode(),
        repeatable=False,
    )


def validations(job_id: str) -> Call[Page[Validation]]:
    return Call("GET", _path(job_id, "validations"), _record(Page[Validation]))


def validation(job_id: str, validation_id: str) -> Call[Validation]:
    place = f"validations/{quote(validation_id, safe='')}"
    return Call("GET", _path(job_id, place), _record(Validation))


def cancel_validation(job_id: str, validation_id: str) -> Call[Validation]:
    place = f"validations/{quote(validation_id, safe='')}/cancel"
    return Call("POST", _path(job_id, place), _record(Validation), repeatable=False)


def request_retraining(job_id: str, asked: RetrainingSpec) -> Call[Retraining]:
    return Call(
        "POST",
        _path(job_id, "retrainings"),
        _record(Retraining),
        headers={"Content-Type": "application/json"},
        body=asked.model_dump_json().encode(),
        repeatable=False,
    )


def retrainings(job_id: str) -> Call[Page[Retraining]]:
    return Call("GET", _path(job_id, "retrainings"), _record(Page[Retraining]))


def retraining(job_id: str, retraining_id: str) -> Call[Retraining]:
    place = f"retrainings/{quote(retraining_id, safe='')}"
    return Call("GET", _path(job_id, place), _record(Retraining))


def cancel_retraining(job_id: str, retraining_id: str) -> Call[Retraining]:
    place = f"retrainings/{quote(retraining_id, safe='')}/cancel"
    return Call("POST", _path(job_id, place), _record(Retraining), repeatable=False)


def retrained_model(job_id: str, retraining_id: str) -> Call[NamedArrays]:
    place = f"retrainings/{quote(retraining_id, safe='')}/model"

    def read(response: httpx.Response) -> NamedArrays:
        return read_arrays(response.content, transformed=False)

    return Call("GET", _path(job_id, place), read)


def attribution(job_id: str) -> Call[AttributionReport]:
    return Call("GET", _path(job_id, "attribution"), _record(AttributionReport))


def influence_scores(job_id: str) -> Call[InfluenceScores]:
    return Call(
        "GET",
        _path(job_id, "attribution/scores"),
        lambda response: InfluenceScores.unpack(response.content),
        headers={"Accept": f"{SAFETENSORS}, application/problem+json"},
    )


def arrays(
    job_id: str, part: str, iteration: int | str, *, transformed: bool = False
) -> Call[NamedArrays]:
    """`part` is hyperparameters, hypergradients or model."""
    return _safetensors(
        job_id,
        part,
        iteration,
        lambda response: read_arrays(response.content, transformed=transformed),
    )


def file(job_id: str, part: str, iteration: int | str) -> Call[bytes]:
    """The safetensors file of the same arrays, unread."""
    return _safetensors(job_id, part, iteration, lambda response: response.content)


def model_file(job_id: str, iteration: str) -> Call[None]:
    """The safetensors file of a model, which the runner of a download writes to the disk."""
    return _file(job_id, "model", {"iteration": iteration})


def retrained_model_file(job_id: str, retraining_id: str) -> Call[None]:
    return _file(job_id, f"retrainings/{quote(retraining_id, safe='')}/model", {})


def recipe_data_file(job_id: str) -> Call[None]:
    return replace(_file(job_id, "data", {}), held_s=PREFLIGHT_S)


def _file(job_id: str, part: str, params: Mapping[str, str]) -> Call[None]:
    # Compressed by a proxy, the bytes would have other places than in the file.
    headers = {"Accept": f"{SAFETENSORS}, application/problem+json", "Accept-Encoding": "identity"}
    return Call("GET", _path(job_id, part), lambda _: None, params=params, headers=headers)


def events(job_id: str, after: str | None) -> Call[EventReader]:
    headers = {"Accept": EVENT_STREAM}
    if after:
        headers["Last-Event-ID"] = after
    return Call("GET", _path(job_id, "events"), _reader, headers=headers, held_s=_KEEP_ALIVE_S)


def event(message: Message) -> Event | None:
    """The event of a message; None for a type that only a newer drmad defines."""
    if message.type not in _EVENT_TYPES:
        return None
    try:
        return Event.model_validate_json(message.data)
    except ValueError as error:
        raise ConnectionFailed(
            f"the event stream sent an event that cannot be read: {_excerpt(message.data)}"
        ) from error


def is_last(event: Event) -> bool:
    """Whether the job has ended with this event."""
    return event.type in ("status", "reset") and event.data.get("status") in TERMINAL


def answer(call: Call[T], response: httpx.Response) -> T:
    """Read the response to `call`.

    Raises:
        ApiError: The service refused the request.
        ConnectionFailed: The response is not one that the service sends.
    """
    if not response.is_success and response.status_code != 304:
        raise _refusal(response)
    try:
        return call.read(response)
    except ValueError as error:
        raise ConnectionFailed(
            f"{response.url} is not a drmad service: it answered {_said(response)}; check the URL"
        ) from error


_KEEP_ALIVE_S = 30.0  # the service sends keep-alive comments more often than this
_EVENT_TYPES = get_args(Event.model_fields["type"].annotation)


def _path(job_id: str, part: str = "") -> str:
    if not job_id:
        raise BadArgument("the job id must not be empty")
    return f"/v1/jobs/{quote(job_id, safe='')}" + (f"/{part}" if part else "")


def _body(spec: JobSpec | Mapping[str, Any]) -> bytes:
    # A mapping is sent unchanged: the service validates it and names each bad field.
    return spec.model_dump_json().encode() if isinstance(spec, JobSpec) else _plain(spec)


def _plain(fields: Mapping[str, Any]) -> bytes:
    """
    Raises:
        UnprocessableEntity: a field holds an object that JSON does not have.
    """
    try:
        return to_json(plain(fields), inf_nan_mode="constants")
    except NotPlain as error:
        problem = ProblemDetails(
            title="Unprocessable Entity",
            status=422,
            detail="1 field is invalid; nothing was sent",
            code="invalid_fields",
            errors=[FieldError(path=written_path(error.path), message=error.message)],
        )
        raise from_problem(problem) from error


def _record(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda response: TypeAdapter(kind).validate_json(response.content)


def _job_and_etag(response: httpx.Response) -> tuple[JobRecord, str] | None:
    if response.status_code == 304:
        return None
    return JobRecord.model_validate_json(response.content), response.headers.get("etag", "")


def _dictionary(response: httpx.Response) -> dict[str, Any]:
    return TypeAdapter(dict[str, Any]).validate_json(response.content)


def _safetensors(
    job_id: str, part: str, iteration: int | str, read: Callable[[httpx.Response], T]
) -> Call[T]:
    return Call(
        "GET",
        _path(job_id, part),
        read,
        params={"iteration": iteration},
        headers={"Accept": f"{SAFETENSORS}, application/problem+json"},
    )


def _reader(response: httpx.Response) -> EventReader:
    kind = response.headers.get("content-type", "nothing")
    if not kind.startswith(EVENT_STREAM):
        raise ConnectionFailed(
            f"{response.url} must send {EVENT_STREAM}, got {kind}; check the URL"
        )
    return EventReader()


def _refusal(response: httpx.Response) -> ApiError:
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValueError:
        # A proxy answered, or another program than drmad, or the answer is to HEAD and has no body.
        request = response.request
        problem = ProblemDetails(
            title=response.reason_phrase,
            status=response.status_code,
            detail=f"{request.method} {request.url} returned {response.status_code} "
            f"{response.reason_phrase}: {_said(response)}",
            code="unexpected_answer",
        )
    return from_problem(problem, response.headers.get("x-request-id"))


def _said(response: httpx.Response) -> str:
    """What an answer without problem details says, in short."""
    if response.request.method == "HEAD" and response.status_code == 401:
        return (
            "the request needs a key of the service: set DRMAD_API_KEY, or DRMAD_HOME if the "
            "service is a `drmad up` with a home of its own"
        )
    return _excerpt(response.text)


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    if not words:
        return "nothing"
    return repr(words if len(words) <= 120 else words[:119] + "…")
