"""What a line of the log is: one line, in UTC, without anything that could be taken for another."""

import io
import logging
import re
from contextlib import contextmanager

import pytest
from django.conf import settings as our_settings

from config import errors, redaction


def written(message: str, *, error: Exception | None = None) -> str:
    to = io.StringIO()
    handler = logging.StreamHandler(to)
    handler.setFormatter(
        redaction.Formatter(our_settings.LOGGING["formatters"]["redacting"]["format"], style="{")
    )
    shown = (type(error), error, error.__traceback__) if error else None
    handler.handle(
        logging.LogRecord("tests", logging.WARNING, __file__, 1, "%s", (message,), shown)
    )
    return to.getvalue()


@pytest.mark.parametrize(
    "hostile",
    ["\n2026-01-01T00:00:00.000Z INFO audit: all is well", "\r\n", "\x1b[2J", "\x9b2J", "\x00",
     "\u2028", "\u202e", "\x85", "\x0b", "\x0c"],
)  # fmt: skip
def test_nobody_writes_a_line_of_their_own_into_the_log(hostile):
    line = written(f"before{hostile}after")
    assert line.endswith("after\n")
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", line)


def test_what_an_error_says_is_taken_for_no_line_either():
    try:
        raise ValueError("one\n2026-01-01T00:00:00.000Z INFO audit: two\r\x1b[2Jthree")
    except ValueError as error:
        first, *rest = written("broken", error=error).removesuffix("\n").split("\n")
    assert first.endswith("broken")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_words_in_any_script_stay_as_they_are():
    assert "スタジオ — Ünïcode\tand more" in written("スタジオ — Ünïcode\tand more")


def test_a_line_says_when_in_utc_how_grave_and_who_says_it(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    record = logging.LogRecord("who", logging.ERROR, "", 0, "what", None, None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    formatter = redaction.Formatter(
        our_settings.LOGGING["formatters"]["redacting"]["format"], style="{"
    )
    assert formatter.format(record) == "2023-11-14T22:13:20.250Z ERROR who: what"


# --- Refusals --------------------------------------------------------------------------------


@contextmanager
def heard(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(errors.logger, "warning", lambda text, *given: lines.append(text % given))
    yield lines


def test_who_is_not_allowed_is_written_down_with_who_where_and_from_where(
    client, mallory, signed_in, monkeypatch
):
    with heard(monkeypatch) as lines:
        signed_in(mallory).get("/admin/login/?next=/admin/", REMOTE_ADDR="203.0.113.9")
    (line,) = lines
    assert line == (
        f"Refused, not allowed: GET /admin/login/, account {mallory.pk}, from 203.0.113.9."
    )


def test_a_key_in_an_address_is_written_down_without_it(client, issue, monkeypatch):
    _key, token = issue()
    with heard(monkeypatch) as lines:
        client.get(f"/keys/?key={token.reveal()}")
    (line,) = lines
    is_in_it = token.reveal() in line
    assert not is_in_it
    assert "a key in the address" in line


def test_too_many_tries_are_written_down(client, alice, monkeypatch):
    with heard(monkeypatch) as lines:
        for number in range(60):
            client.post("/login", {"login": f"{number}@example.org", "password": "a guess"})
    assert any("too often: POST /login" in line for line in lines)


def test_whoever_is_refused_again_and_again_does_not_fill_the_disk(
    client, mallory, signed_in, monkeypatch
):
    mine = signed_in(mallory)
    with heard(monkeypatch) as lines:
        for _number in range(50):
            mine.get("/admin/login/")
    # Ten a minute, and a minute may end meanwhile.
    assert 10 <= len(lines) <= 20
