"""Probes and error views."""

import re

import pytest
from django.db import OperationalError, connection
from django.test import Client

from core import health


def test_health_makes_no_query(client, django_assert_num_queries, db):
    with django_assert_num_queries(0):
        assert client.get("/health").json() == {"status": "ok"}


def test_ready_checks_the_database_and_its_migrations(client, db, monkeypatch):
    monkeypatch.setattr(health, "_migrated", False)
    assert client.get("/ready").json() == {"status": "ok"}


def test_a_platform_with_unapplied_migrations_is_not_ready(client, db, monkeypatch):
    monkeypatch.setattr(health, "_migrated", False)
    monkeypatch.setattr(
        health.MigrationExecutor, "migration_plan", lambda self, targets: ["something"]
    )
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "migrate" in answer.json()["message"]


def test_a_platform_without_its_database_is_not_ready(client, db, monkeypatch):
    monkeypatch.setattr(health, "connection", _BrokenConnection())
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer["Retry-After"]


class _BrokenConnection:
    def cursor(self):
        raise OperationalError("gone")

    def close(self):
        connection.close()


def test_a_missing_url_gets_an_html_page_or_a_json_error(client, db):
    assert "Page not found" in client.get("/nothing").text
    assert set(client.get("/customers/nothing").json()) == {"error", "message"}
    assert set(client.get("/api/nothing").json()) == {"error", "message"}


@pytest.mark.parametrize("path", ["/login", "/customers/me"])
def test_a_wrong_host_gets_an_error_that_names_the_setting(client, db, path):
    answer = client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "PUBLIC_URL" in answer.text


def test_the_error_of_an_unhandled_exception_does_not_reveal_it(client, db, monkeypatch):
    from apikeys import services

    def broken(*args, **kwargs):
        raise RuntimeError("a secret of the inner workings")

    monkeypatch.setattr(services, "validate", broken)
    client.raise_request_exception = False
    answer = client.get("/customers/me", headers={"X-API-Key": "x"})
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "message"}
    assert "inner workings" not in answer.text


def test_pages_have_a_strict_csp_and_cannot_be_framed(client, db):
    answer = client.get("/login")
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer["X-Frame-Options"] == "DENY"


def in_frame(answer):
    return 'id="account-menu"' in answer.text and 'class="sections"' in answer.text


def test_errors_of_logged_in_users_are_inside_the_frame(signed_in, alice):
    browser = signed_in(alice)
    for path, status in (("/nowhere", 404), ("/account/factors/passkeys/1/remove", 404)):
        answer = browser.get(path)
        assert (answer.status_code, in_frame(answer)) == (status, True)
        assert "alice@example.org" in answer.text
        assert "aria-current" not in answer.text.partition("</nav>")[0]
    refused = browser.get("/admin/login/")
    assert (refused.status_code, in_frame(refused)) == (403, True)
    assert not in_frame(Client().get("/nowhere"))


def test_the_frame_of_an_error_page_works(alice):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(alice)
    page = browser.get("/nowhere").text
    [token] = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page))
    out = browser.post("/logout", {"csrfmiddlewaretoken": token})
    assert (out.status_code, out["Location"]) == (302, "/login")


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, 500), (OperationalError, 503)])
def test_an_error_page_reads_neither_database_nor_session(
    signed_in, alice, monkeypatch, error, status
):
    """The frame is shown all the same: the user was read before the error."""
    browser = signed_in(alice)
    browser.raise_request_exception = False

    def broken(*_args, **_options):
        # From here on, nothing can be read.
        monkeypatch.setattr(connection, "cursor", broken)
        monkeypatch.setattr("accounts.sessions.SessionStore.load", broken)
        raise error("gone")

    monkeypatch.setattr("apikeys.connect_views.render", broken)
    answer = browser.get("/connect")
    monkeypatch.undo()
    assert answer.status_code == status
    assert in_frame(answer)
    assert "gone" not in answer.text


def test_an_error_before_the_user_is_known_has_the_plain_page(signed_in, alice, monkeypatch):
    browser = signed_in(alice)
    browser.raise_request_exception = False

    def broken(*_args, **_options):
        raise OperationalError("gone")

    monkeypatch.setattr("accounts.sessions.SessionStore.load", broken)
    answer = browser.get("/keys/")
    assert answer.status_code == 503
    assert "<h1>" in answer.text
    assert not in_frame(answer)
