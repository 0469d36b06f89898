"""/ready with METRICS_SECRET, and /metrics, in the test's process; tests/live has real faults."""

import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from apikeys import usage
from apikeys.cache import invalidation
from core import error_views, health, metrics
from core.monitoring import is_nearly_full
from outbox.models import Mail
from server import housekeeping

SECRET = "what-monitors-present-in-these-tests"


@pytest.fixture
def monitor(client, db, settings, own_version_table):
    """Return a function that asks /ready with the secret."""
    settings.METRICS_SECRET = SECRET
    return lambda: client.get("/ready", headers={"Authorization": f"Bearer {SECRET}"})


def degraded(response):
    assert response.json()["ready"] is (response.status_code == 200)
    # On PostgreSQL no listener runs in this process.
    return [code for code in response.json()["degraded"] if code != "listener_without_lease"]


def test_nothing_is_degraded_at_rest(monitor):
    response = monitor()
    assert degraded(response) == []
    assert "no-store" in response["Cache-Control"]


def test_an_email_is_stuck_after_ten_minutes(monitor):
    mail = Mail(to="alice@example.org", sender="keys@example.org", subject="Code")
    mail.text, mail.html = "code", ""
    for minutes, codes in ((9, []), (11, ["outbox_stuck"])):
        mail.queued_at = timezone.now() - timedelta(minutes=minutes)
        mail.save()
        assert degraded(monitor()) == codes


def test_a_version_table_that_was_replaced_is_reported(monitor, settings):
    assert invalidation.version_table() is not None
    settings.VERSION_TABLE_FILE.unlink()
    assert degraded(monitor()) == ["validation_cache_unavailable"]
    settings.VALIDATION_CACHE = False
    assert degraded(monitor()) == []


def test_usage_that_can_not_be_written_is_reported(monitor, issue):
    key, _token = issue()
    usage.count(key.pk)

    def fail(*_arguments):
        raise OperationalError("the disk is full")

    with connection.execute_wrapper(fail):
        usage.flush()
    assert degraded(monitor()) == ["usage_not_written"]
    usage.flush()
    assert degraded(monitor()) == []


def test_periodic_tasks_that_hang_are_reported(monitor, monkeypatch):
    health.register_check("housekeeping_stuck", housekeeping._is_stuck)
    try:
        for age, codes in ((500, []), (700, ["housekeeping_stuck"])):
            monkeypatch.setattr(housekeeping, "_ran_at", time.monotonic() - age)
            assert degraded(monitor()) == codes
    finally:
        del health._checks["housekeeping_stuck"]


def test_a_check_that_fails_counts_as_degraded_and_stops_no_other(monitor):
    def fail() -> bool:
        raise OSError("no such file")

    health.register_check("broken", fail)
    try:
        assert degraded(monitor()) == ["broken"]
    finally:
        del health._checks["broken"]


@pytest.mark.parametrize(
    ("total", "free", "is_full"),
    [
        (100 << 30, 2 << 30, False),
        (100 << 30, 1 << 29, True),
        (10 << 20, 1 << 20, False),
        (10 << 20, 1 << 18, True),
        (0, 0, False),
    ],
)
def test_a_disk_is_nearly_full_by_share_and_by_size(total, free, is_full):
    assert is_nearly_full(total=total, free=free) is is_full


def test_only_the_secret_shows_what_is_degraded(client, db, settings):
    wrong = {"Authorization": f"Bearer {SECRET}é"}
    # Without a secret the header is none of ours: a proxy may send it.
    assert client.get("/ready", headers=wrong).json() == {"status": "ok"}
    settings.METRICS_SECRET = SECRET
    response = client.get("/ready", headers=wrong)
    assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")
    assert client.get("/ready").json() == {"status": "ok"}


def test_metrics_need_no_database_and_are_not_limited(client, settings, tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OperationalError("the connection was lost")

    settings.METRICS, settings.METRICS_SECRET = True, SECRET
    monkeypatch.setattr(metrics, "folder", tmp_path)
    with connection.execute_wrapper(fail):
        for _ in range(50):
            response = client.get("/metrics", headers={"Authorization": f"Bearer {SECRET}"})
            assert response.status_code == 200
    assert 'comfyui_keys_scrape_errors{source="database"} 1.0' in response.text
    assert "comfyui_keys_outbox_pending" not in response.text
    assert "comfyui_keys_disk_free_bytes" in response.text


def test_a_process_that_can_not_count_says_so(client, settings):
    settings.METRICS, settings.METRICS_SECRET = True, SECRET
    response = client.get("/metrics", headers={"Authorization": f"Bearer {SECRET}"})
    assert (response.status_code, response["Retry-After"]) == (503, "5")


def test_metrics_are_an_endpoint_of_programs():
    assert error_views.is_path_for_clients("/metrics")
