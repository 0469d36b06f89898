"""Spans leave the process with chosen attributes alone. tests/live has the whole way."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server import tracing

KEY = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c324"


@pytest.fixture
def sent() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(sent: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(tracing.Exporter(sent)))
    yield provider.get_tracer("tests")
    provider.shutdown()


def test_only_chosen_attributes_are_sent(tracer: Tracer, sent: InMemorySpanExporter) -> None:
    given = {
        "http.route": "/keys/<uuid:key_id>",
        "http.status_code": 200,
        "db.statement": f"SELECT '{KEY}'",
        "http.target": "/login?code=hunter2",
        "url.query": "code=hunter2",
        "net.peer.ip": "192.0.2.7",
        "http.request.header.x_api_key": (KEY,),
        "db.statement.parameters": "('hunter2',)",
    }
    with tracer.start_as_current_span("GET", kind=SpanKind.SERVER, attributes=given):
        pass
    (span,) = sent.get_finished_spans()
    assert span.attributes == {
        "http.route": "/keys/<uuid:key_id>",
        "http.status_code": 200,
        "db.statement": "SELECT 'comfyui-5ca1ab1e0ddb…'",
    }


def test_of_an_exception_only_the_class_is_sent(tracer: Tracer, sent: InMemorySpanExporter) -> None:
    with (
        pytest.raises(ValueError, match="hunter2"),
        tracer.start_as_current_span("GET", kind=SpanKind.SERVER),
    ):
        raise ValueError("hunter2")
    (span,) = sent.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert [dict(event.attributes or {}) for event in span.events] == [
        {"exception.type": "ValueError"}
    ]
    assert "hunter2" not in span.to_json()


def test_spans_of_background_threads_are_not_sent(
    tracer: Tracer, sent: InMemorySpanExporter
) -> None:
    with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT):
        pass
    assert sent.get_finished_spans() == ()
    with (
        tracer.start_as_current_span("GET", kind=SpanKind.SERVER) as request,
        tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT),
    ):
        pass
    statement, root = sent.get_finished_spans()
    assert isinstance(statement, ReadableSpan)
    assert (statement.name, root.name) == ("SELECT", "GET")
    assert statement.parent == request.get_span_context()
    assert statement.start_time
    assert statement.end_time
