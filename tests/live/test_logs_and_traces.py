"""JSON log lines of each request, and its spans at a collector, from a platform that has ended."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from server import tracing
from tests.core.test_cache import Store as Cache
from tests.live.conftest import (
    Account,
    Answer,
    Browser,
    Folder,
    ask,
    join,
    migrated_database,
    serving,
    validate,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """An OTLP/HTTP receiver (opentelemetry.io/docs/specs/otlp) on a port of its own."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        received = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                is_traces = self.path == "/v1/traces"
                if is_traces:
                    received.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if is_traces else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (as above)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Run:
    """What a platform has written until it ended."""

    account: Account
    answers: dict[str, Answer]
    printed: str
    collector: Collector

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.printed.splitlines() if line.startswith("{")]

    def line(self, request_id: str) -> dict[str, Any]:
        (found,) = [
            line
            for line in self.lines
            if line.get("request_id") == request_id and line["logger"] == "core.request_log"
        ]
        return found

    def root(self, request_id: str) -> Span:
        (found,) = [
            span
            for span in self.collector.spans()
            if attributes(span).get("request.id") == request_id
        ]
        return found

    def children(self, request_id: str) -> list[Span]:
        trace = self.root(request_id).trace_id
        return [span for span in self.collector.spans() if span.trace_id == trace]


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes
    }


@pytest.fixture(scope="module")
def run(fresh_folder: Folder, postgresql: str) -> Iterator[Run]:
    collector = Collector()
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        cache = Cache(Path(folder))
        try:
            with serving(
                fresh_folder(),
                DATABASE_URL=migrated_database(postgresql),
                CACHE_URL=cache.url,
                LOG_FORMAT="json",
                LOG_REQUESTS="1",
                # Refuses requests whose Host is another, as Django does for spans.
                PUBLIC_URL="http://keys.example",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
                # What was asked for is not sent: headers, and values of statements.
                OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST=".*",
                OTEL_PYTHON_DJANGO_TRACED_REQUEST_ATTRS="path_info,META",
                # Only the end of the worker sends them.
                OTEL_BSP_SCHEDULE_DELAY="600000",
            ) as started:
                account = join(started, keys=1)
                key = account.keys[0].token

                def send(name: str, method: str, path: str, **headers: str) -> None:
                    host = {} if "Host" in headers else {"Host": "keys.example"}
                    sent = {"X-Request-Id": name, **host, **headers}
                    answers[name] = ask(started, method, path, headers=sent)

                parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
                send("miss", "POST", "/api/v1/keys/validate", **{"X-API-Key": key}, **parent)
                send("hit", "POST", "/api/v1/keys/validate", **{"X-API-Key": key}, **parent)
                send("forged", "POST", "/customers", **{"X-API-Key": key[:-1] + "z"})
                cookie = "=".join(account.cookie)
                send("page", "GET", "/keys/?q=hunter2", Cookie=cookie, Referer="http://a/hunter2")
                send("unknown", "GET", "/nowhere/hunter2")
                send("probe", "GET", "/ready", Host="192.0.2.1")
                answers["host"] = ask(started, "GET", "/keys/", headers={"Host": "hunter2.example"})
                browser = Browser(started)
                browser.session.headers["Host"] = "keys.example"
                form = browser.hidden("/login")
                browser.session.headers["X-Request-Id"] = "login"
                browser.post("/login", **form, login="a@example.org", password="hunter2")
                plain = validate(started, key)
                answers["without"] = plain
            yield Run(account, answers, started.printed(), collector)
        finally:
            cache.stop()
            collector.close()


def test_each_request_is_one_json_line(run: Run) -> None:
    miss, hit = run.line("miss"), run.line("hit")
    assert [miss.pop("cache"), hit.pop("cache")] == ["miss", "hit"]
    assert miss.pop("ms") > hit.pop("ms") > 0
    for line in (miss, hit):
        assert line.pop("timestamp").endswith("Z")
        line.pop("request_id")
        assert line == {
            "level": "INFO",
            "logger": "core.request_log",
            "event": "Request",
            "method": "POST",
            "route": "/api/v1/keys/validate",
            "status": 200,
            "verdict": "VALID",
            "account_id": line["account_id"],
            "client_network": "127.0.0.0/24",
        }
    assert run.line("page")["account_id"] == miss["account_id"]
    assert run.line("unknown")["route"] is None
    assert run.line("probe")["route"] == "/ready"
    assert run.line("login")["status"] == 200


def test_every_response_has_its_id(run: Run) -> None:
    for name, answer in run.answers.items():
        expected = name if name not in {"host", "without"} else None
        returned = answer.headers["x-request-id"]
        assert returned == (expected or returned)
        assert run.line(returned)["status"] == answer.status


def test_nothing_secret_is_in_the_log(run: Run) -> None:
    assert "hunter2" not in run.printed
    assert run.account.keys[0].secret not in run.printed
    assert run.account.cookie[1] not in run.printed


def test_a_request_joins_the_trace_of_its_client(run: Run) -> None:
    root = run.root("miss")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.kind == Span.SPAN_KIND_SERVER
    assert root.name == "POST api/v1/keys/validate"
    assert attributes(root)["http.route"] == "api/v1/keys/validate"
    statements = [attributes(span).get("db.statement", "") for span in run.children("miss")]
    assert any("apikeys_apikey" in statement for statement in statements)
    # Cached responses, probes and unknown hosts have no span.
    named = {attributes(span).get("request.id") for span in run.collector.spans()}
    assert {"miss", "page", "unknown", "login"} <= named
    assert not {"hit", "probe"} & named


def test_redis_is_traced(run: Run) -> None:
    statements = [attributes(span).get("db.statement", "") for span in run.children("login")]
    assert any(statement.endswith(" ?") for statement in statements)


def test_the_collector_learns_the_name_of_the_service(run: Run) -> None:
    resources = [
        resource.resource for one in run.collector.requests for resource in one.resource_spans
    ]
    assert resources
    for resource in resources:
        named = {each.key: each.value.string_value for each in resource.attributes}
        assert named["service.name"] == "comfyui-keys"


def test_spans_have_chosen_attributes_alone(run: Run) -> None:
    spans = run.collector.spans()
    assert {name for span in spans for name in attributes(span)} <= tracing.ATTRIBUTES
    assert {span.status.message for span in spans} == {""}
    assert {Status.STATUS_CODE_UNSET, Status.STATUS_CODE_OK} >= {span.status.code for span in spans}
    sent = b"".join(request.SerializeToString() for request in run.collector.requests)
    secrets = ("hunter2", run.account.keys[0].secret, run.account.cookie[1], "127.0.0.1", "Cookie")
    assert [name for name in secrets if name.encode() in sent] == []
    # Those of background threads are not sent.
    assert {span.kind for span in spans if not span.parent_span_id} == {Span.SPAN_KIND_SERVER}
