"""The log: one event per line, in UTC, that input cannot forge; refusals are logged."""

import io
import logging
import re
from contextlib import contextmanager

import pytest
from django.test import Client

from apikeys import log_redaction
from core import error_views


def format_line(message: str, *, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log_redaction.Formatter())
    exc_info = (type(error), error, error.__traceback__) if error else None
    handler.handle(
        logging.LogRecord("tests", logging.WARNING, __file__, 1, "%s", (message,), exc_info)
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    "hostile",
    ["\n2026-01-01T00:00:00.000Z INFO audit: all is well", "\r\n", "\x1b[2J", "\x9b2J", "\x00",
     "\u2028", "\u202e", "\x85", "\x0b", "\x0c"],
)  # fmt: skip
def test_control_characters_cannot_forge_a_log_line(hostile):
    line = format_line(f"before{hostile}after")
    assert line.endswith("after\n")
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", line)


def test_the_message_of_an_exception_cannot_forge_a_log_line():
    try:
        raise ValueError("one\n2026-01-01T00:00:00.000Z INFO audit: two\r\x1b[2Jthree")
    except ValueError as error:
        first, *rest = format_line("broken", error=error).removesuffix("\n").split("\n")
    assert first.endswith("broken")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_text_in_any_script_is_logged_unchanged():
    assert "スタジオ — Ünïcode\tand more" in format_line("スタジオ — Ünïcode\tand more")


def test_a_log_line_has_utc_time_level_and_logger(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    record = logging.LogRecord("who", logging.ERROR, "", 0, "what", None, None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    assert log_redaction.Formatter().format(record) == "2023-11-14T22:13:20.250Z ERROR who: what"


# --- Refusals --------------------------------------------------------------------------------


@contextmanager
def captured_warnings(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(
        error_views.logger, "warning", lambda text, *args: lines.append(text % args)
    )
    yield lines


def test_a_forbidden_request_is_logged_with_account_path_and_client_ip(
    client, mallory, signed_in, monkeypatch
):
    with captured_warnings(monkeypatch) as lines:
        signed_in(mallory).get("/admin/login/?next=/admin/", REMOTE_ADDR="203.0.113.9")
    (line,) = lines
    assert line == (
        f"Refused, not allowed: GET /admin/login/, account {mallory.pk}, from 203.0.113.9."
    )


def test_a_key_in_a_query_string_is_logged_without_the_key(client, issue, monkeypatch):
    _key, token = issue()
    with captured_warnings(monkeypatch) as lines:
        client.get(f"/keys/?key={token.reveal()}")
    (line,) = lines
    # Not in the assert: pytest would print the key.
    is_logged = token.reveal() in line
    assert not is_logged
    assert "a key in the address" in line


def test_rate_limited_requests_are_logged(client, alice, monkeypatch):
    with captured_warnings(monkeypatch) as lines:
        for number in range(60):
            client.post("/login", {"login": f"{number}@example.org", "password": "a guess"})
    assert any("too often: POST /login" in line for line in lines)


def test_a_form_without_its_csrf_token_is_written_down(alice, caplog):
    answer = Client(enforce_csrf_checks=True).post("/login", {"login": alice.email})
    assert answer.status_code == 403
    (record,) = [one for one in caplog.records if one.name == "django.security.csrf"]
    assert record.levelname == "WARNING"
    assert "/login" in record.getMessage()


@pytest.mark.parametrize("path", ["/keys/", "/customers/me"])
def test_an_unexpected_error_is_written_down_with_its_traceback(
    path, issue, signed_in, alice, monkeypatch, caplog
):
    """Of a page and of the API, with what the handler of the platform makes of it."""

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("what broke")

    _key, token = issue()
    monkeypatch.setattr("apikeys.services.validate", broken)
    monkeypatch.setattr("apikeys.views.render", broken)
    client = signed_in(alice)
    client.raise_request_exception = False
    answer = client.get(path, headers={"X-API-Key": token.reveal()} if "me" in path else {})
    assert answer.status_code == 500
    (record,) = [one for one in caplog.records if one.levelname == "ERROR" and one.exc_info]
    assert path in record.getMessage()
    line = log_redaction.Formatter().format(record)
    assert "RuntimeError: what broke" in line
    assert "in broken" in line


def test_log_lines_about_refusals_are_rate_limited(client, mallory, signed_in, monkeypatch):
    mallorys = signed_in(mallory)
    with captured_warnings(monkeypatch) as lines:
        for _number in range(50):
            mallorys.get("/admin/login/")
    # Ten per minute, and the test may span two minutes.
    assert 10 <= len(lines) <= 20
