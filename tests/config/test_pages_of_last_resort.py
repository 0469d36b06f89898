"""Probes, and what is said when there is no page to show."""

import pytest
from django.db import OperationalError, connection

from config import probes


def test_health_looks_at_no_store(client, django_assert_num_queries, db):
    with django_assert_num_queries(0):
        assert client.get("/health").json() == {"status": "ok"}


def test_ready_asks_the_database_and_its_migrations(client, db, monkeypatch):
    monkeypatch.setattr(probes, "_migrated", False)
    assert client.get("/ready").json() == {"status": "ok"}


def test_without_its_migrations_the_platform_is_not_ready(client, db, monkeypatch):
    monkeypatch.setattr(probes, "_migrated", False)
    monkeypatch.setattr(
        probes.MigrationExecutor, "migration_plan", lambda self, targets: ["something"]
    )
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "migrate" in answer.json()["message"]


def test_without_its_database_the_platform_is_not_ready(client, db, monkeypatch):
    def gone():
        raise OperationalError("gone")

    monkeypatch.setattr(probes, "connection", _Broken())
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer["Retry-After"]


class _Broken:
    def cursor(self):
        raise OperationalError("gone")

    def close(self):
        connection.close()


def test_an_address_that_is_not_there_gets_a_page_or_the_contracts_error(client, db):
    assert "Nothing here" in client.get("/nothing").text
    assert set(client.get("/customers/nothing").json()) == {"error", "message"}
    assert set(client.get("/api/nothing").json()) == {"error", "message"}


@pytest.mark.parametrize("path", ["/login", "/customers/me"])
def test_a_wrong_host_is_told_the_right_one(client, db, path):
    answer = client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "PUBLIC_URL" in answer.text


def test_a_bug_gets_a_page_that_shows_nothing_of_it(client, db, monkeypatch):
    from apikeys import services

    def broken(*args, **kwargs):
        raise RuntimeError("a secret of the inner workings")

    monkeypatch.setattr(services, "validate", broken)
    client.raise_request_exception = False
    answer = client.get("/customers/me", headers={"X-API-Key": "x"})
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "message"}
    assert "inner workings" not in answer.text


def test_pages_have_a_strict_policy_and_cannot_be_framed(client, db):
    answer = client.get("/login")
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer["X-Frame-Options"] == "DENY"
