"""Spans for requests, where traces are on; without, nothing is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from drmad_service import traces
from drmad_service.errors import ServiceStartError

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces.use(provider.get_tracer("tests"))
    yield exporter
    traces.use(None)


async def test_request_is_a_span_below_its_callers(
    api: httpx.AsyncClient, body: dict[str, Any], spans: InMemorySpanExporter
) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await api.post("/v1/jobs", json=body, headers={"traceparent": caller})
    (span,) = spans.get_finished_spans()
    assert span.name == "POST /v1/jobs"
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 201
    assert span.attributes["drmad.request_id"] == answer.headers["x-request-id"]
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == caller[3:52]


def test_spans_nest_and_those_recorded_afterwards_have_their_beginning(
    spans: InMemorySpanExporter,
) -> None:
    with traces.span("job"), traces.span("meta-iteration", {"drmad.iteration": 3}):
        pass
    traces.record("claim", 1_000, {"drmad.job_id": "job_1"})
    inner, outer, claim = spans.get_finished_spans()
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id
    assert claim.start_time == 1_000


def test_without_an_address_nothing_is_loaded() -> None:
    program = (
        "import sys; from drmad_service import traces; traces.configure('x', {})\n"
        "with traces.span('a') as span: assert span is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_address_without_the_extra_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ServiceStartError, match=r'pip install "\.\[otel\]" in the clone'):
        traces.configure("x", {traces.ADDRESSES[0]: "http://127.0.0.1:4318"})
