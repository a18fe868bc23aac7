"""Uploads of code and data, which go on where a connection broke."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import httpx

from drmad_client.errors import NotFound
from drmad_client.http.protocol import calls, upload_calls
from drmad_client.http.protocol.calls import Call
from drmad_client.http.protocol.retries import RequestFailure, Retries, is_final
from drmad_client.http.protocol.steps import Flow, FlowOutcome, Pause, Send

if TYPE_CHECKING:
    from drmad_client.files.code_archive import Archive

T = TypeVar("T")

PART_BYTES = 16 << 20
"""Size of a part; a smaller file is sent whole."""
_RECONNECTS = 10


class Sender(Protocol):
    """What an upload needs of the service's operations."""

    def send(self, call: Call[T], retries: Retries | None = None) -> Flow[T]: ...

    def give_up(self, call: Call[T], failure: RequestFailure) -> T: ...


def upload_code(flows: Sender, archive: Archive) -> Flow[str]:
    """Upload an archive unless the service has it; return its name in a spec."""
    sha256 = archive.name.removeprefix("sha256:")
    try:
        yield from flows.send(upload_calls.has_code(sha256))
    except NotFound:
        yield from flows.send(upload_calls.put_code(sha256, archive.content))
    return archive.name


def upload_data(flows: Sender, sha256: str, body: bytes | Path) -> Flow[str]:
    """Upload a data set unless the service has it; return its name in a spec.

    A large one is sent in parts, some of which may have arrived in an earlier attempt.
    """
    try:
        yield from flows.send(upload_calls.has_data(sha256))
    except NotFound:
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        if size > PART_BYTES:
            yield from _in_parts(flows, sha256, body, size)
        else:
            yield from flows.send(upload_calls.put_data(sha256, body))
    return f"sha256:{sha256}"


def _in_parts(flows: Sender, sha256: str, body: bytes | Path, size: int) -> Flow[None]:
    offset, is_complete = yield from flows.send(upload_calls.part_offset(sha256))
    retries = Retries(_RECONNECTS)
    while not is_complete:
        part = _part(body, offset)
        call = upload_calls.append_part(sha256, offset, size, part)
        outcome = yield Send(call)
        is_answer = isinstance(outcome, httpx.Response) and is_final(outcome)
        if isinstance(outcome, httpx.Response) and is_answer and outcome.status_code != 409:
            offset, is_complete = calls.answer(call, outcome)
            retries = Retries(_RECONNECTS)  # the connection carried a part
            continue
        pause_s = retries.pause_s(_failure(outcome))
        if pause_s is None:
            offset, is_complete = flows.give_up(call, _failure(outcome))
        else:
            yield Pause(pause_s)
            again = Retries(_RECONNECTS)
            offset, is_complete = yield from flows.send(upload_calls.part_offset(sha256), again)


def _part(body: bytes | Path, offset: int) -> bytes:
    if isinstance(body, bytes):
        return body[offset : offset + PART_BYTES]
    with body.open("rb") as file:
        file.seek(offset)
        return file.read(PART_BYTES)


def _failure(outcome: FlowOutcome) -> RequestFailure:
    assert isinstance(outcome, httpx.Response | httpx.RequestError)
    return outcome
