"""The form of log lines, request ids, and the line for each request."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from apikeys.key_networks import customer_network
from apikeys.log_redaction import Formatter, Handler
from core import request_log
from core.request_log import with_request_ids, with_request_log

KEY = "comfyui-5ca1ab1e0ddb8d3f61b09ce27a54f8160b3d92c7e45a1f602b9d47e05d13c324"


def record(message: str = "what", *, error: Exception | None = None, **extra: Any) -> Any:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.getLogger("tests").makeRecord(
        "who", logging.WARNING, "f.py", 1, message, (), exc_info, extra=extra
    )


def as_json(given: Any) -> dict[str, Any]:
    line = Formatter(as_json=True).format(given)
    assert line.isascii()
    assert line.isprintable()
    fields: dict[str, Any] = json.loads(line)
    return fields


# --- JSON ------------------------------------------------------------------------------------


def test_a_json_line_has_time_level_logger_and_message():
    one = record("スタジオ\n\x1b[2J\u202e")
    one.created = 1_700_000_000.25
    assert as_json(one) == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "WARNING",
        "logger": "who",
        "event": "スタジオ\n\x1b[2J\u202e",
    }


def test_a_json_line_has_the_traceback():
    try:
        raise ValueError("one\ntwo")
    except ValueError as error:
        fields = as_json(record(error=error))
    assert fields["exception"].endswith("ValueError: one\ntwo")
    assert "test_request_log.py" in fields["exception"]


@pytest.mark.parametrize("json_or_text", [True, False])
def test_keys_are_masked_in_every_field_and_in_tracebacks(json_or_text):
    try:
        raise ValueError(KEY)
    except ValueError as error:
        # After a letter that JSON writes as an escape of letters and digits.
        one = record(f"スタ{KEY}", error=error, route=KEY, cause=f"é{KEY}", method=KEY.upper())
    line = Formatter(as_json=json_or_text).format(one)
    assert line.lower().count("comfyui-5ca1ab1e0ddb") >= 5
    assert KEY[20:56] not in line.lower()


@pytest.mark.parametrize("json_or_text", [True, False])
def test_only_named_fields_of_a_record_are_written(json_or_text):
    """Django adds the request, statements and their parameters to its records."""
    one = record(request="<WSGIRequest: GET '/login?code=1234'>", params=("hunter2",), status=404)
    line = Formatter(as_json=json_or_text).format(one)
    assert "404" in line
    assert "1234" not in line
    assert "hunter2" not in line


def test_a_text_line_has_the_fields_after_the_message():
    line = Formatter().format(record(status=200, route=None, cause="x\ny"))
    assert line.endswith("WARNING who: what route=- status=200 cause=x\\ny")


@pytest.mark.parametrize("json_or_text", [True, False])
def test_a_line_that_can_not_be_formatted_shows_no_arguments(json_or_text, capsys):
    stream = io.StringIO()
    handler = Handler(stream)
    handler.setFormatter(Formatter(as_json=json_or_text))
    handler.handle(logging.LogRecord("who", logging.INFO, "f.py", 7, "%d", (KEY,), None))
    assert "A log line could not be written (TypeError): f.py, line 7." in stream.getvalue()
    assert KEY[20:56] not in stream.getvalue() + capsys.readouterr().err
    stream.close()
    handler.handle(logging.LogRecord("who", logging.INFO, "f.py", 7, KEY, (), None))
    assert capsys.readouterr() == ("", "")


# --- Request ids -----------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged meanwhile, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(as_json=True))
    root = logging.getLogger()
    level = request_log.logger.level
    root.addHandler(handler)
    request_log.logger.setLevel(logging.INFO)
    yield stream
    request_log.logger.setLevel(level)
    root.removeHandler(handler)


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def environ(path: str = "/", **more: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "127.0.0.1:8000",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        **more,
    }


def fixed(given: dict[str, Any], start_response: Any) -> list[bytes]:
    logging.getLogger("tests").warning("in the application")
    start_response("200 OK", [("A", "b")])
    return [b""]


def call(application: Any, given: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    started: list[tuple[str, list[tuple[str, str]]]] = []
    chunks = application(given, lambda *answer: started.append(answer[:2]))
    b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return started[-1]


def ids(headers: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in headers if name == "X-Request-Id"]


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_an_id_of_the_client_is_returned_and_logged(given, lines):
    _status, headers = call(with_request_ids(fixed), environ(HTTP_X_REQUEST_ID=given))
    assert headers == [("A", "b"), ("X-Request-Id", given)]
    assert [line["request_id"] for line in logged(lines)] == [given]
    logging.getLogger("tests").warning("afterwards")
    assert "request_id" not in logged(lines)[-1]


@pytest.mark.parametrize(
    "given", ["", "x" * 129, "a b", "a\nb", "ä", "a,b", KEY, f"id-{KEY.upper()}", 'a"b']
)
def test_an_id_of_another_form_is_replaced(given):
    _status, headers = call(with_request_ids(fixed), environ(HTTP_X_REQUEST_ID=given))
    (made,) = ids(headers)
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_every_request_has_its_own_id():
    application = with_request_ids(fixed)
    made = {ids(call(application, environ())[1])[0] for _ in range(100)}
    assert len(made) == 100


def test_two_layers_add_one_id():
    inner = with_request_ids(fixed)
    application = with_request_ids(inner, only_given=True)
    assert ids(call(application, environ(HTTP_X_REQUEST_ID="mine"))[1]) == ["mine"]
    assert len(ids(call(application, environ())[1])) == 1
    assert ids(call(with_request_ids(fixed, only_given=True), environ())[1]) == []


def test_an_application_that_raises_leaves_no_id():
    def broken(given: Any, start_response: Any) -> list[bytes]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(with_request_ids(broken), environ())
    assert request_log.request_id() == ""


# --- The line of a request -------------------------------------------------------------------


def log_of(application: Any) -> Any:
    return with_request_ids(with_request_log(application, network_of=customer_network))


def test_a_request_is_logged_in_one_line(lines):
    def noting(given: Any, start_response: Any) -> list[bytes]:
        request_log.note(route="/a/<b>", cache="hit", verdict="VALID", account_id="7")
        start_response("404 Not Found", [])
        return []

    call(log_of(noting), environ("/a/secret", QUERY_STRING="q=1", HTTP_X_REQUEST_ID="mine"))
    (line,) = logged(lines)
    assert line.pop("ms") >= 0
    assert line.pop("timestamp")
    assert line == {
        "level": "INFO",
        "logger": "core.request_log",
        "event": "Request",
        "request_id": "mine",
        "method": "GET",
        "route": "/a/<b>",
        "status": 404,
        "cache": "hit",
        "verdict": "VALID",
        "account_id": "7",
        "client_network": "192.0.2.0/24",
    }


def test_a_request_whose_application_raises_is_logged(lines):
    def broken(given: Any, start_response: Any) -> list[bytes]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        call(log_of(broken), environ())
    (line,) = logged(lines)
    assert line["status"] == 500


def test_an_unknown_method_is_not_repeated(lines):
    call(log_of(fixed), environ(REQUEST_METHOD="HUNTER2", REMOTE_ADDR="2001:db8:1:2::7"))
    line = logged(lines)[-1]
    assert line["method"] == "OTHER"
    assert line["client_network"] == "2001:db8:1::/48"


def line_of(client: Client, path: str, lines: io.StringIO, **headers: str) -> dict[str, Any]:
    """Return the line of a request to Django."""

    def application(given: Any, start_response: Any) -> list[bytes]:
        response = client.get(path, headers=headers)
        start_response(f"{response.status_code} -", list(response.items()))
        return []

    call(log_of(application), environ(path))
    return logged(lines)[-1]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/health", "/health"),
        ("/ready", "/ready"),
        ("/keys/5d6c0bb8-54ff-47ee-a5f9-2ba4e2a2ab4c/delete", "/keys/<uuid:key_id>/delete"),
        ("/customers/me", "/customers/me"),
        ("/static/nothing.css", "/static/"),
        (f"/{KEY}", None),
    ],
)
def test_the_route_is_a_pattern(path, route, lines, client):
    assert line_of(client, path, lines)["route"] == route


def test_the_account_of_a_page_and_of_its_api_requests_is_logged(signed_in, alice, lines):
    client = signed_in(alice)
    for path in ("/keys/", "/customers/api-keys"):
        line = line_of(client, path, lines)
        assert (line["status"], line["account_id"]) == (200, str(alice.pk))
        assert "verdict" not in line


def test_verdict_and_owner_of_a_key_are_logged(issue, alice, lines, client):
    _key, token = issue()
    line = line_of(client, "/customers/me", lines, **{"X-API-Key": token.reveal()})
    assert (line["verdict"], line["account_id"]) == ("VALID", str(alice.pk))
    line = line_of(client, "/customers/me", lines, **{"X-API-Key": "comfyui-no"})
    assert (line["verdict"], line["account_id"]) == ("MALFORMED", None)
