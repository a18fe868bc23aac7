"""OpenTelemetry traces, if an exporter's address is set; otherwise nothing of it is imported."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from drmad_service.errors import ServiceStartError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of OpenTelemetry, which its exporter reads."""

_tracer: Tracer | None = None


def configure(service: str, environment: Mapping[str, str]) -> None:
    """Sends traces under this service name, if the environment has an exporter's address.

    Raises:
        ServiceStartError: an address is set, but the extra `otel` is not installed.
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
            f"{ADDRESSES[0]} is set, but a package for traces is missing ({error}); install "
            'it with: pip install ".[otel]" in the clone'
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider.get_tracer("drmad"))


def use(tracer: Tracer | None) -> None:
    """Traces with this tracer from now on; None turns traces off."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    return _tracer is not None


@contextlib.contextmanager
def span(
    name: str, attributes: Mapping[str, Any] = {}, carrier: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """A span around the block.

    Its parent is the span in `carrier` (HTTP headers), or the current span without a carrier.

    Yields the span, or None if traces are off.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract

    context = extract(carrier) if carrier is not None else None
    with _tracer.start_as_current_span(name, context, attributes=dict(attributes)) as current:
        yield current


def record(name: str, began_ns: int, attributes: Mapping[str, Any] = {}) -> None:
    """Records a span that began at `began_ns`, as time.time_ns counts, and ends now."""
    if _tracer is not None:
        _tracer.start_span(name, start_time=began_ns, attributes=dict(attributes)).end(
            time.time_ns()
        )
