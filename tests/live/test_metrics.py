"""/metrics and /ready of running platforms: the numbers, who may read them, and real faults."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.core.test_cache import Store as Redis
from tests.live.conftest import (
    Browser,
    Folder,
    ask,
    join,
    migrated_database,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import ROOT, Platform, Store

SECRET = "what-prometheus-presents-in-these-tests"
BEARER = {"Authorization": f"Bearer {SECRET}"}
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
PAGE = (ROOT / "docs" / "monitoring.md").read_text()


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        started = Redis(Path(folder))
        yield started
        started.stop()


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, store: Store, redis: Redis) -> Iterator[Platform]:
    with serving(
        fresh_folder(),
        DATABASE_URL=migrated_database(store.url),
        CACHE_URL=redis.url,
        METRICS="1",
        METRICS_SECRET=SECRET,
        WORKERS="2",
        ARGON2_MEMORY_KIB="8",
        ARGON2_PASSES="1",
        # Enough for requests from the cache after the database has stopped.
        INVALIDATION_LEASE_SECONDS="8",
    ) as started:
        assert until(lambda: degraded(started) == [])
        yield started


Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(running: Platform) -> Scraped:
    answer = ask(running, "GET", "/metrics", headers=BEARER)
    assert answer.status == 200, answer.body
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


def value(scraped: Scraped, name: str, **labels: str) -> float | None:
    return scraped.get((f"comfyui_keys_{name}", tuple(sorted(labels.items()))))


def degraded(running: Platform) -> list[str]:
    answer = ask(running, "GET", "/ready", headers=BEARER)
    found: list[str] = answer.json()["degraded"]
    assert answer.json()["ready"] == (answer.status == 200)
    assert ("retry-after" in answer.headers) == (answer.status == 503)
    return found


def names_in(text: str) -> set[str]:
    return set(re.findall(r"comfyui_keys_[a-z0-9_]+", text))


# --- What is counted --------------------------------------------------------------------------


def test_requests_are_counted_over_all_workers(running: Platform) -> None:
    (key,) = join(running, keys=1).keys
    before = scrape(running)
    for _ in range(40):
        assert validate(running, key.token).status == 200
        assert validate(running, "comfyui-" + "0" * 64).status == 401
    browser = Browser(running)
    browser.post("/login", **browser.hidden("/login"), login="nobody@example.org", password="wrong")
    after = scrape(running)

    def new(name: str, **labels: str) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    valid = {cache: new("validations_total", verdict="VALID", cache=cache) for cache in
             ("hit", "row", "verified", "argon2")}  # fmt: skip
    assert sum(valid.values()) == 40
    # Each worker reads the row once; one of them verifies the secret for both.
    assert valid["hit"] >= 36
    assert valid["argon2"] == 1
    assert new("argon2_passes_total") == 1
    assert new("argon2_wait_seconds_count") == 1
    malformed = {"verdict": "MALFORMED"}
    refused = [new("validations_total", cache=cache, **malformed) for cache in ("hit", "parse")]
    assert sum(refused) == 40
    assert refused[0] >= 36
    assert new("request_duration_seconds_count", route="validation") == 80
    assert new("request_duration_seconds_bucket", route="validation", le="+Inf") == 80
    assert 0 < new("request_duration_seconds_sum", route="validation") < 80
    assert new("login_failures_total", reason="password") == 1
    assert new("django_responses_total", route="pages", status="2xx") == 2
    assert new("django_responses_total", route="monitoring", status="2xx") == 1
    assert value(after, "workers") == value(after, "workers_wanted") == 2
    assert value(after, "database_pool_connections", state="max") == 32


def test_rate_limited_requests_are_counted_cached_or_not(fresh_folder: Folder) -> None:
    # The guesses of this test must not limit other tests.
    with serving(
        fresh_folder(), METRICS="1", METRICS_SECRET=SECRET, GUESSES_PER_MINUTE="30"
    ) as limited:
        statuses = [validate(limited, "comfyui-" + "0" * 64).status for _ in range(100)]
        scraped = scrape(limited)
    assert statuses.count(429) > 30
    assert value(scraped, "rate_limited_total", route="validation") == statuses.count(429)


# --- Dashboard, alerts, documentation ---------------------------------------------------------


def test_every_metric_of_dashboard_alerts_and_docs_is_in_a_scrape(running: Platform) -> None:
    assert until(lambda: value(scrape(running), "listener_lease_seconds"))
    scraped = {name for name, _labels in scrape(running)}
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in
                   panel.get("targets", [])]  # fmt: skip
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    for used in (expressions, [rule["expr"] for rule in rules]):
        assert used
        assert names_in(" ".join(used)) <= scraped
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in scraped if "seconds_" in name}
    families = {name for name in families if f"{name}_bucket" in scraped}
    plain = {name for name in scraped if re.sub(r"_(bucket|count|sum)$", "", name) not in families}
    documented = set(re.findall(r"^\| `(comfyui_keys_\w+)` \|", PAGE, re.MULTILINE))
    assert documented == families | plain


# --- Who may read them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost"},
        BEARER,
        {**BEARER, "Host": "10.0.0.7", "X-Forwarded-For": "192.0.2.7"},
        {"Authorization": f"bearer {SECRET}", "Cookie": "sessionid=none"},
    ],
)
def test_this_machine_and_the_secret_read_metrics(
    running: Platform, headers: dict[str, str]
) -> None:
    answer = ask(running, "GET", "/metrics", headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "no-store" in answer.headers["cache-control"]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "keys.example.org"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {SECRET[:-1]}"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": SECRET},
    ],
)
def test_others_are_refused_with_an_explanation(running: Platform, headers: dict[str, str]) -> None:
    answer = ask(running, "GET", "/metrics", headers=headers)
    assert (answer.status, answer.json()["error"]) == (401, "UNAUTHORIZED")
    assert "METRICS_SECRET" in answer.json()["message"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert SECRET[:-1] not in answer.body + running.printed()


def test_openmetrics_is_served_to_those_who_accept_it(running: Platform) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    answer = ask(running, "GET", "/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith("# EOF\n")


def test_probes_get_a_plain_answer_and_a_wrong_secret_none(running: Platform) -> None:
    plain = ask(running, "GET", "/ready")
    assert (plain.status, plain.json()) == (200, {"status": "ok"})
    assert ask(running, "GET", "/ready", headers={"Authorization": "Bearer x"}).status == 401
    assert until(lambda: degraded(running) == [])


# --- Faults -----------------------------------------------------------------------------------


def test_an_old_email_is_a_stuck_outbox(running: Platform) -> None:
    shell(
        running,
        """
from datetime import timedelta
from django.utils import timezone
from outbox.models import Mail

mail = Mail(to="alice@example.org", sender="keys@example.org", subject="Old")
mail.text, mail.html = "old", ""
mail.queued_at = timezone.now() - timedelta(hours=1)
# Claimed by no one.
mail.due_at = timezone.now() + timedelta(hours=1)
mail.tries = 3
mail.save()
""",
    )
    try:
        assert until(lambda: degraded(running) == ["outbox_stuck"])
        scraped = scrape(running)
        assert value(scraped, "outbox_failing") == 1
        assert (value(scraped, "outbox_pending") or 0) >= 1
        assert 3600 <= (value(scraped, "outbox_oldest_seconds") or 0) < 3700
    finally:
        shell(running, "from outbox.models import Mail; Mail.objects.all().delete()")
    assert until(lambda: degraded(running) == [])


def test_metrics_and_readiness_answer_while_the_cache_is_away(
    running: Platform, redis: Redis
) -> None:
    redis.stop()
    try:
        assert "cache_unavailable" in degraded(running)
        assert until(lambda: value(scrape(running), "cache_breaker_open"))
        assert (value(scrape(running), "cache_failures_total") or 0) > 0
        assert ask(running, "GET", "/ready").json() == {"status": "ok"}
    finally:
        redis.start()
    assert until(lambda: degraded(running) == [])


def test_metrics_and_readiness_answer_while_the_database_is_away(
    running: Platform, store: Store
) -> None:
    (key,) = join(running, keys=1).keys
    for _ in range(20):
        assert validate(running, key.token).status == 200
    assert until(lambda: (value(scrape(running), "listener_lag_seconds") or 0) > 0)
    with store.stopped():
        # Cached until the lease ends: these uses are counted and can't be written.
        assert {validate(running, key.token).status for _ in range(20)} == {200}
        scraped = scrape(running)
        assert value(scraped, "scrape_errors", source="database") == 1
        assert value(scraped, "scrape_errors", source="version_table") == 0
        assert value(scraped, "outbox_pending") is None
        assert (value(scraped, "validations_total", verdict="VALID", cache="hit") or 0) > 0
        assert until(lambda: value(scrape(running), "listener_lease_seconds") == 0)
        assert (value(scrape(running), "listener_failures_total") or 0) > 0
        wanted = {"database_unavailable", "listener_without_lease", "usage_not_written"}
        # The worker that answers may have no counts to write.
        assert until(lambda: wanted <= set(degraded(running)), seconds=60)
        assert "outbox_stuck" not in degraded(running)
        assert value(scrape(running), "usage_write_failing")
        answer = ask(running, "GET", "/ready")
        assert (answer.status, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert until(lambda: degraded(running) == [], seconds=60)
    assert until(lambda: value(scrape(running), "usage_write_failing") == 0)
    assert value(scrape(running), "scrape_errors", source="database") == 0
