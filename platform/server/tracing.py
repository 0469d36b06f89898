"""Traces by OpenTelemetry: Django, PostgreSQL and Redis. Imported only if a collector is set.

The instrumentations record URLs with their queries, IPs and, if asked, headers. What leaves the
process is chosen here: attributes that are not in ATTRIBUTES are removed from each span.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status

from apikeys import tokens
from core import request_log

# Both semantic conventions of OpenTelemetry (OTEL_SEMCONV_STABILITY_OPT_IN). Statements have
# placeholders in place of values.
ATTRIBUTES: Final = frozenset(
    {
        "db.name", "db.namespace", "db.operation.name", "db.query.text", "db.statement",
        "db.system", "db.system.name", "error.type", "http.flavor", "http.method",
        "http.request.method", "http.response.status_code", "http.route", "http.scheme",
        "http.status_code", "network.protocol.version", "request.id", "url.scheme",
    }
)  # fmt: skip
# Of exceptions: the class. Messages and tracebacks may contain values.
_EVENT_ATTRIBUTES: Final = frozenset({"exception.type"})
# Seconds for one request to the collector. The server ends a worker five seconds after SIGTERM.
_TIMEOUT: Final = 3.0
# Requests that middleware above it answers have no span: probes, files, plain HTTP. Higher up,
# OpenTelemetry would check the Host header of probes, which may be an IP.
_BELOW: Final = "whitenoise.middleware.WhiteNoiseMiddleware"


class Exporter(SpanExporter):
    """Passes spans on to `exporter` without what they must not contain.

    Spans of background threads are dropped: they belong to no request.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        wanted = [_sanitized(span) for span in spans if span.parent or span.kind is SpanKind.SERVER]
        return self._exporter.export(wanted) if wanted else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def start(url: str) -> None:
    """Send the spans of this process to `url`. Call it before Django loads its middleware."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "comfyui-keys"}))
    names = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")
    timeout = None if any(name in os.environ for name in names) else _TIMEOUT
    # Registers its own end with atexit, which sends what is left.
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=url, timeout=timeout)
    provider.add_span_processor(BatchSpanProcessor(Exporter(exporter)))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument(
        middleware_position=settings.MIDDLEWARE.index(_BELOW) + 1, request_hook=_add_request_id
    )
    PsycopgInstrumentor().instrument()
    RedisInstrumentor().instrument()


def _add_request_id(span: Span, _request: HttpRequest) -> None:
    if span.is_recording():
        span.set_attribute("request.id", request_log.request_id())


def _sanitized(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=tokens.redact(span.name),
        context=_without_state(span.context),
        parent=span.parent and _without_state(span.parent),
        resource=span.resource,
        attributes=_chosen(span.attributes, ATTRIBUTES),
        events=[
            Event(event.name, _chosen(event.attributes, _EVENT_ATTRIBUTES), event.timestamp)
            for event in span.events
        ],
        links=[Link(_without_state(link.context)) for link in span.links],
        kind=span.kind,
        # Its description is the message of an exception.
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_state(context: SpanContext) -> SpanContext:
    """Return the context without its tracestate, which is a header of the client's choice."""
    return SpanContext(
        context.trace_id, context.span_id, context.is_remote, trace_flags=context.trace_flags
    )


def _chosen(attributes: Any, names: frozenset[str]) -> dict[str, Any]:
    return {
        name: tokens.redact(value) if isinstance(value, str) else value
        for name, value in (attributes or {}).items()
        if name in names
    }
