"""The causes of 503: in the log once, in the response, and by the error of the database."""

import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import (
    Error,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from psycopg_pool import PoolTimeout

from core import causes
from core.causes import Cause, cause_of, log_unavailable
from core.exceptions import BodiesBusy, HashingBusy
from core.request_log import with_request_ids

ROOT = Path(__file__).parents[2]


def raised(error: type[Error], driver: Exception) -> Error:
    """Return Django's exception for one of the driver."""
    try:
        raise error from driver
    except error as wrapped:
        return wrapped


def sqlite_error(code: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("text")
    error.sqlite_errorname = code
    return error


@pytest.mark.parametrize(
    ("driver", "cause"),
    [
        (psycopg.OperationalError("connection refused"), Cause.DATABASE_UNAVAILABLE),
        (PoolTimeout("couldn't get a connection"), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.ConnectionTimeout(), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.AdminShutdown(), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.CannotConnectNow(), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.ConnectionFailure(), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.TooManyConnections(), Cause.DATABASE_UNAVAILABLE),
        (psycopg.errors.QueryCanceled(), Cause.DATABASE_TIMEOUT),
        (psycopg.errors.LockNotAvailable(), Cause.DATABASE_LOCKED),
        (psycopg.errors.DeadlockDetected(), Cause.DATABASE_LOCKED),
        (psycopg.errors.DiskFull(), Cause.DATABASE_FULL),
        (sqlite_error("SQLITE_BUSY"), Cause.DATABASE_LOCKED),
        (sqlite_error("SQLITE_BUSY_SNAPSHOT"), Cause.DATABASE_LOCKED),
        (sqlite_error("SQLITE_READONLY_DBMOVED"), Cause.DATABASE_READ_ONLY),
        (sqlite_error("SQLITE_FULL"), Cause.DATABASE_FULL),
        (sqlite_error("SQLITE_CANTOPEN"), Cause.DATABASE_UNAVAILABLE),
        (sqlite_error("SQLITE_IOERR_WRITE"), Cause.DATABASE_UNAVAILABLE),
        (sqlite_error("SQLITE_ERROR"), Cause.DATABASE_ERROR),
    ],
)
def test_the_error_of_the_driver_gives_the_cause(driver, cause):
    assert cause_of(raised(OperationalError, driver)) is cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            raised(ProgrammingError, psycopg.errors.ReadOnlySqlTransaction()),
            Cause.DATABASE_READ_ONLY,
        ),
        (raised(ProgrammingError, psycopg.errors.UndefinedTable()), Cause.DATABASE_ERROR),
        (raised(IntegrityError, psycopg.errors.UniqueViolation()), Cause.DATABASE_ERROR),
        (InterfaceError("the connection is closed"), Cause.DATABASE_UNAVAILABLE),
        (HashingBusy(), Cause.HASHING_BUSY),
        (BodiesBusy(), Cause.BODIES_BUSY),
    ],
)
def test_other_errors_have_a_cause(error, cause):
    assert cause_of(error) is cause


def test_sqlite_itself_reports_a_read_only_file_and_a_lock(tmp_path):
    file = tmp_path / "database"
    sqlite3.connect(file).execute("CREATE TABLE a (b)").connection.close()
    read_only = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    holder, waiter = (sqlite3.connect(file, timeout=0) for _ in range(2))
    holder.execute("BEGIN IMMEDIATE")
    found = []
    for connection in (read_only, waiter):
        with pytest.raises(sqlite3.OperationalError) as error:
            connection.execute("BEGIN IMMEDIATE").execute("INSERT INTO a VALUES (1)")
        found.append(cause_of(raised(OperationalError, error.value)))
    for connection in (read_only, holder, waiter):
        connection.close()
    assert found[1] is Cause.DATABASE_LOCKED
    assert found[0] in {Cause.DATABASE_READ_ONLY, Cause.DATABASE_LOCKED}


def test_a_cause_is_logged_at_once_and_then_counted(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(causes.time, "monotonic", lambda: now[0])
    for _ in range(5):
        log_unavailable(Cause.HASHING_BUSY)
    log_unavailable(Cause.BODIES_BUSY)
    now[0] += 10
    log_unavailable(Cause.HASHING_BUSY)
    written = [(record.cause, record.suppressed, record.levelname) for record in caplog.records]
    assert written == [
        ("hashing_busy", 0, "WARNING"),
        ("bodies_busy", 0, "WARNING"),
        ("hashing_busy", 4, "WARNING"),
    ]


def test_only_an_unknown_database_error_has_its_traceback(caplog):
    log_unavailable(Cause.DATABASE_UNAVAILABLE, OperationalError("password of host db"))
    log_unavailable(Cause.DATABASE_ERROR, ProgrammingError("no such table"))
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


# --- In responses ----------------------------------------------------------------------------


def unreachable(*args: object, **kwargs: object) -> None:
    raise raised(OperationalError, psycopg.OperationalError("host db.internal refused"))


def logged_causes(caplog: Any) -> list[str]:
    return [record.cause for record in caplog.records if hasattr(record, "cause")]


@pytest.mark.parametrize(
    ("path", "target"),
    [("/customers/me", "apikeys.services.validate"), ("/ready", "core.health.connection.cursor")],
)
def test_a_json_response_says_the_cause(path, target, client, issue, monkeypatch, caplog):
    _key, token = issue()
    with monkeypatch.context() as patched:
        patched.setattr(target, unreachable)
        response = client.get(path, headers={"X-API-Key": token.reveal()})
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert response.json()["cause"] == "database_unavailable"
    assert "db.internal" not in response.text
    assert logged_causes(caplog) == ["database_unavailable"]


def test_a_page_says_the_cause_in_the_log_alone(signed_in, alice, monkeypatch, caplog):
    client = signed_in(alice)
    client.raise_request_exception = False
    monkeypatch.setattr("apikeys.views.render", unreachable)
    response = client.get("/keys/")
    assert response.status_code == 503
    assert "database_unavailable" not in response.text
    assert logged_causes(caplog) == ["database_unavailable"]


def test_the_page_of_an_error_shows_the_id_of_the_request(signed_in, alice, monkeypatch):
    client = signed_in(alice)
    client.raise_request_exception = False
    monkeypatch.setattr("apikeys.views.render", unreachable)
    pages = []

    def application(given: Any, start_response: Any) -> list[bytes]:
        pages.append(client.get("/keys/").text)
        pages.append(client.get("/nowhere").text)
        start_response("200 OK", [])
        return []

    list(with_request_ids(application)({"HTTP_X_REQUEST_ID": "my-id.7"}, lambda *answer: None))
    assert ["my-id.7" in page for page in pages] == [True, False]


@pytest.mark.parametrize(
    ("path", "form", "target"),
    [
        ("/connect", {"key": "{}"}, "apikeys.connect_views.services.validate"),
        ("/leaks", {"key": "{}"}, "apikeys.leaks.views.leaks.report"),
        ("/admin/lookup/", {"token": "{}"}, "staff.key_lookup.services.validate"),
    ],
)
def test_pages_that_check_a_key_say_when_too_many_are_checked(
    path, form, target, staff, issue, monkeypatch, caplog
):
    def busy(*args: object, **kwargs: object) -> None:
        raise HashingBusy

    _key, token = issue()
    monkeypatch.setattr(target, busy)
    data = {name: value.format(token.reveal()) for name, value in form.items()}
    response = staff.post(path, data)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert logged_causes(caplog) == ["hashing_busy"]


def test_djangos_own_line_about_a_503_is_dropped():
    filters = django_settings.LOGGING["loggers"]["django.request"]["filters"]
    assert filters == ["without_unavailable"]
    (one,) = [django_settings.LOGGING["filters"][name]["()"] for name in filters]
    assert one == "core.causes.WithoutUnavailable"
    record = logging.LogRecord("django.request", logging.ERROR, "", 1, "", (), None)
    for status, is_kept in [(500, True), (503, False)]:
        record.status_code = status
        assert causes.WithoutUnavailable().filter(record) is is_kept


def test_each_cause_is_documented():
    text = (ROOT / "docs" / "monitoring.md").read_text()
    section = text.partition("### Causes of 503\n")[2].partition("\n#")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == [*Cause]
