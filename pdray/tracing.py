"""Spans of a run for OpenTelemetry: the run, its stages, the rounds over their shards.

Only where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) is set; the library's own variables say the
rest, among them ``OTEL_EXPORTER_OTLP_HEADERS``, which nothing here reads or repeats.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from pdray.errors import reason

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FLUSH_MILLISECONDS = 10_000
HEADERS_LOGGER = "opentelemetry.util.re"  # which warns of a header that it cannot read, and quotes it

Attribute = str | int | float
_tracers: list[Any] = []


@contextlib.contextmanager
def traced(note: Callable[[str], None], name: str, **attributes: Attribute) -> Iterator[None]:
    """The outermost span, which lasts as long as the block; what ended in it is sent at its end at the latest.

    Args:
        note: tells the user that spans are asked for and cannot be made. No run fails for want of them.
        name: of the span.
        attributes: of the span.
    """
    if _tracers or not any(os.environ.get(name) for name in ENDPOINTS):
        with span(name, **attributes):
            yield
        return
    provider = _provider(note)
    if provider is None:
        yield
        return
    _tracers.append(provider.get_tracer("pdray"))
    try:
        with span(name, **attributes):
            yield
    finally:
        _tracers.clear()
        provider.force_flush(FLUSH_MILLISECONDS)
        provider.shutdown()


def _provider(note: Callable[[str], None]) -> Any:
    protocol = next((found for name in PROTOCOLS if (found := os.environ.get(name))), "http/protobuf")
    if protocol != "http/protobuf":
        note(
            f"no traces: the protocol {protocol} is asked for, but pdray sends http/protobuf; set {PROTOCOLS[1]} to it"
        )
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        note(f"no traces: {ENDPOINTS[0]} is set, but OpenTelemetry is not installed; pip install 'pdray[otel]'")
        return None
    service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "pdray"}
    logging.getLogger(HEADERS_LOGGER).addFilter(_without_values)
    try:
        provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, RuntimeError) as error:
        note(f"no traces: OpenTelemetry refuses its settings ({reason(error)}); correct the OTEL_ variables")
        return None
    return provider


def _without_values(record: logging.LogRecord) -> bool:
    record.args = ("(not shown)",)
    return True


@contextlib.contextmanager
def span(name: str, **attributes: Attribute) -> Iterator[None]:
    """A span inside :func:`traced`; nothing outside it. An exception marks it as failed."""
    if not _tracers:
        yield
        return
    with _tracers[-1].start_as_current_span(name, attributes=attributes):
        yield


def tell(**attributes: Attribute) -> None:
    """More attributes of the innermost span."""
    if _tracers:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(attributes)
