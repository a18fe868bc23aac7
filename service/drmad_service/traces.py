"""OpenTelemetry traces, where an address to send them to is set; nothing is loaded without one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from drmad_service.errors import ServiceStartError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables, which its exporter reads."""

_tracer: Tracer | None = None


def configure(service: str, environment: Mapping[str, str]) -> None:
    """Send traces under this name, if the environment says where.

    Raises:
        ServiceStartError: it does, and the extra `otel` is not installed.
    """
    if not any(environment.get(name) for name in ADDRESSES):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ServiceStartError(
            f'{ADDRESSES[0]} is set, traces need: pip install "drmad[otel]" ({error})'
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider.get_tracer("drmad"))


def use(tracer: Tracer | None) -> None:
    """Trace with this tracer from now on; None traces nothing."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    return _tracer is not None


@contextlib.contextmanager
def span(
    name: str, attributes: Mapping[str, Any] = {}, carrier: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """A span around the block, below the one in `carrier` (HTTP headers) or the current one.

    Yields the span, or None where nothing is traced.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract

    context = extract(carrier) if carrier is not None else None
    with _tracer.start_as_current_span(name, context, attributes=dict(attributes)) as current:
        yield current


def record(name: str, began_ns: int, attributes: Mapping[str, Any] = {}) -> None:
    """A span that began at `began_ns` (as of time.time_ns) and ends now."""
    if _tracer is not None:
        _tracer.start_span(name, start_time=began_ns, attributes=dict(attributes)).end(
            time.time_ns()
        )
