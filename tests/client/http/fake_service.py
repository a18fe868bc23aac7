"""A server on loopback that gives prepared responses, faults included, and records requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from drmad_client.records.events import Event


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    breaks_off: bool = False  # the connection is cut before the body's end
    trickles: bool = False  # the body comes in small pieces, cut anywhere


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


def record(value: BaseModel, status: int = 200, **headers: str) -> Answer:
    return Answer(
        status, value.model_dump_json().encode(), {"content-type": "application/json"} | headers
    )


def problem(status: int, detail: str, errors: Iterable[Any] = (), **headers: str) -> Answer:
    body = {
        "title": "Problem",
        "status": status,
        "detail": detail,
        "code": "some_code",
        "errors": list(errors),
    }
    kind = {"content-type": "application/problem+json", "x-request-id": "req_1"}
    return Answer(status, json.dumps(body).encode(), kind | headers)


def stream(events: Iterable[Event], *, torn: bytes = b"", breaks_off: bool = False) -> Answer:
    """Events as the service sends them; `torn` is the beginning of one that never ends."""
    body = b": keep-alive\r\n\r\n"
    for event in events:
        head = f"id: {event.id}\r\n" if event.id else ""
        body += f"{head}event: {event.type}\r\ndata: {event.model_dump_json()}\r\n\r\n".encode()
    kind = {"content-type": "text/event-stream; charset=utf-8"}
    return Answer(200, body + torn, kind, breaks_off=breaks_off)


class FakeService:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # The short poll makes shutdown quick.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Answer with these in turn; the last one stays."""
        self._answers[method, path] = list(answers)

    def heard(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.requests.append(Request(self.command, path, query, headers, body))
                answers = service._answers.get((self.command, path), [problem(404, "not here")])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("connection", "close")
                length = len(answer.body) + (1 if answer.breaks_off else 0)
                if answer.status != 304:
                    self.send_header("content-length", str(length))
                self.end_headers()
                size = 7 if answer.trickles else max(1, len(answer.body))
                for start in range(0, len(answer.body), size):
                    self.wfile.write(answer.body[start : start + size])
                    self.wfile.flush()
                self.close_connection = True

            do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler
