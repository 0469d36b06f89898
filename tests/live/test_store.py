"""Answers while the database is down, and after it is back."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest

from apikeys import tokens
from tests.live.conftest import (
    Account,
    Answer,
    Browser,
    Folder,
    Key,
    Store,
    ask,
    join,
    migrated_database,
    serving,
    shell,
    until,
    validate,
)
from tests.platforms import Platform

PAGES = {"keys page", "usage page", "account page", "generate page"}
# psycopg's pool retries after 1, 2, 4, 8 … seconds: so long that the next retry is far away.
OUTAGE = 16.0


def together(calls: dict[str, Callable[[], Answer]]) -> dict[str, Answer]:
    """Send calls at the same time, because each may wait for the database; return the responses."""
    with ThreadPoolExecutor(len(calls)) as pool:
        sent = {name: pool.submit(call) for name, call in calls.items()}
        return {name: answer.result() for name, answer in sent.items()}


class Visit:
    """An account with three keys, the first of them used, and every request that it can make."""

    def __init__(self, running: Platform) -> None:
        self.running = running
        self.account = join(running, keys=3)
        self.used, self.unused, self.doomed = self.account.keys
        self.browser = Browser(running, self.account)
        self.hidden = self.browser.hidden("/keys/?new=1")
        assert validate(running, self.used.token).status == 200

    def api(self, method: str, path: str, key: Key | None = None, **more: str) -> Answer:
        body = more or None
        return ask(self.running, method, path, key=(key or self.used).token, body=body)

    def page(self, path: str) -> Answer:
        return Answer.of(self.browser.get(path))

    def generate(self) -> Answer:
        """Send the same form each time: one that made no key may be sent again."""
        return Answer.of(
            self.browser.post("/keys/generate", **self.hidden, name="studio", description="")
        )

    def everything(self) -> dict[str, Answer]:
        return together(
            {
                "validate": lambda: self.api("POST", "/api/v1/keys/validate"),
                "validate, never used": lambda: self.api(
                    "POST", "/api/v1/keys/validate", self.unused
                ),
                "validate, JSON form": lambda: ask(
                    self.running, "POST", "/api/v1/keys/validate", body={"key": self.used.token}
                ),
                "whose key": lambda: self.api("GET", "/customers/me"),
                "list": lambda: self.api("GET", "/customers/api-keys"),
                "generate": lambda: self.api("POST", "/customers/api-keys", name="new"),
                "delete": lambda: self.api("DELETE", f"/customers/api-keys/{self.doomed.id}"),
                "ready": lambda: ask(self.running, "GET", "/ready"),
                "keys page": lambda: self.page("/keys/"),
                "usage page": lambda: self.page("/usage/"),
                "account page": lambda: self.page("/account/"),
                "generate page": self.generate,
            }
        )

    def sign_in(self) -> Answer:
        return self.api("POST", "/customers")


@dataclass(frozen=True)
class Outage:
    """The responses during one outage of the database and after it."""

    visit: Visit
    healthy: list[Answer]
    typos: list[Answer]
    forgeries: list[Answer]
    turned_away: list[dict[str, Answer]]
    out_of_patience: Answer
    patient: list[Answer]
    recovered: dict[str, Answer]


@pytest.fixture(scope="module")
def running(fresh_folder: Folder, store: Store) -> Iterator[Platform]:
    with serving(fresh_folder(), DATABASE_URL=migrated_database(store.url)) as started:
        yield started


@pytest.fixture(scope="module")
def outage(running: Platform, store: Store) -> Outage:
    """One outage for all tests, because it takes long."""
    visit = Visit(running)
    token = visit.used.token
    typo = token[:-1] + ("0" if token[-1] != "0" else "1")
    forged = tokens.make(tag_key=b"not the platform's").reveal()
    endpoints = [
        ("POST", "/api/v1/keys/validate"),
        ("POST", "/customers"),
        ("GET", "/customers/me"),
    ]
    with store.stopped(), ThreadPoolExecutor(5) as pool:
        # Cached entries are valid until the lease ends, after two seconds.
        assert until(lambda: validate(running, token).status == 503, seconds=15)
        back = time.monotonic() + OUTAGE
        impatient = pool.submit(visit.sign_in)
        # Twice: first with broken connections, then with none.
        turned_away = [visit.everything(), visit.everything()]
        healthy = [ask(running, "GET", "/health")]
        typos = [ask(running, *endpoint, key=typo) for endpoint in endpoints]
        forgeries = [ask(running, *endpoint, key=forged) for endpoint in endpoints]
        out_of_patience = impatient.result()
        while time.monotonic() < back:
            validate(running, token)
        waiting = [pool.submit(visit.sign_in) for _ in range(4)]
        time.sleep(2)
        store.start()
        patient = [answer.result() for answer in waiting]
    until(lambda: ask(running, "GET", "/ready").status == 200, seconds=60)
    recovered = visit.everything()
    return Outage(
        visit, healthy, typos, forgeries, turned_away, out_of_patience, patient, recovered
    )


def test_requests_that_need_the_database_are_503_with_retry_after(outage: Outage) -> None:
    for answers in outage.turned_away:
        statuses = {name: answer.status for name, answer in answers.items()}
        assert statuses == dict.fromkeys(answers, 503)
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers.values())


def test_api_clients_get_the_error_as_json(outage: Outage) -> None:
    for answers in outage.turned_away:
        for name in answers.keys() - PAGES:
            assert answers[name].headers["content-type"] == "application/json", name
            assert set(answers[name].json()) == {"error", "message", "cause"}, name
            assert answers[name].json()["error"] == "SERVICE_UNAVAILABLE", name
            assert answers[name].json()["cause"] == "database_unavailable", name


def test_people_get_the_error_as_a_page(outage: Outage) -> None:
    for answers in outage.turned_away:
        for name in PAGES:
            assert answers[name].headers["content-type"].startswith("text/html"), name
            assert "Nothing was changed. Try again in a moment." in answers[name].body, name


def test_health_is_ok_without_the_database(outage: Outage) -> None:
    assert [answer.status for answer in outage.healthy] == [200]


def test_typos_and_forgeries_are_refused_without_the_database(outage: Outage) -> None:
    for answers, code in ((outage.typos, "MALFORMED"), (outage.forgeries, "NOT_FOUND")):
        assert [(answer.status, answer.json()["error"]) for answer in answers] == [(401, code)] * 3


def test_comfyui_gets_503_after_the_wait(outage: Outage) -> None:
    assert outage.out_of_patience.status == 503
    assert "retry-after" in outage.out_of_patience.headers
    assert outage.out_of_patience.json()["error"] == "SERVICE_UNAVAILABLE"


def test_comfyui_is_signed_in_if_the_database_is_back_within_the_wait(outage: Outage) -> None:
    assert [answer.status for answer in outage.patient] == [200] * 4
    assert {answer.json()["email"] for answer in outage.patient} == {outage.visit.account.email}


def test_all_requests_work_when_the_database_is_back(outage: Outage, running: Platform) -> None:
    statuses = {name: answer.status for name, answer in outage.recovered.items()}
    # The form is 200 too: the submissions during the outage made no key.
    assert statuses == dict.fromkeys(statuses, 200) | {"generate": 403, "delete": 204}
    assert running.process.poll() is None


def test_uses_counted_while_the_database_is_down_are_kept(running: Platform, store: Store) -> None:
    visit = Visit(running)
    assert until(lambda: uses(running, visit.account) == 1)
    statuses = [validate(running, visit.used.token).status for _ in range(5)]
    with store.stopped():
        # Cached entries are valid until the lease ends, after two seconds.
        assert until(
            lambda: (
                statuses.append(validate(running, visit.used.token).status) or statuses[-1] == 503
            ),
            seconds=10,
        )
    assert set(statuses) == {200, 503}
    assert until(lambda: uses(running, visit.account) == 1 + statuses.count(200), seconds=60)


def test_a_validation_that_waits_for_a_lock_is_503(running: Platform) -> None:
    """A migration or a maintenance command locks the table: waiting for ever is no answer."""
    visit = Visit(running)
    with (
        closing(psycopg.connect(running.environment["DATABASE_URL"])) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("LOCK TABLE apikeys_apikey IN ACCESS EXCLUSIVE MODE")
        try:
            # A key that is not cached: others are answered from the cache.
            waiting = pool.submit(validate, running, visit.unused.token)
            answered = until(waiting.done, seconds=15)
        finally:
            other.rollback()
        assert answered, "It waits for as long as the lock is held."
        assert waiting.result().status == 503
        assert waiting.result().json()["cause"] in {"database_locked", "database_timeout"}
        assert "retry-after" in waiting.result().headers


def uses(running: Platform, account: Account) -> int:
    counted: int = shell(
        running,
        "from django.db.models import Sum\n"
        "from apikeys.models import DailyUse\n"
        "uses = DailyUse.objects.filter(key__owner__email=given['email'])\n"
        "answer = uses.aggregate(all=Sum('calls'))['all'] or 0",
        email=account.email,
    )
    return counted


def test_sqlite_answers_while_its_write_lock_is_held(fresh_folder: Folder) -> None:
    folder = fresh_folder()
    with serving(folder) as running:
        visit = Visit(running)
        valid = 1
        with closing(sqlite3.connect(folder / "platform.sqlite3", autocommit=True)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for key in (visit.used, visit.unused) * 3:
                assert visit.api("POST", "/api/v1/keys/validate", key).status == 200
                assert visit.api("POST", "/customers", key).status == 200
                valid += 2
            answers = together(
                {
                    "generate": visit.generate,
                    "delete": lambda: visit.api("DELETE", f"/customers/api-keys/{visit.doomed.id}"),
                }
            )
            # The key of the deletion was valid, which counts as a use.
            valid += 1
            other.execute("ROLLBACK")

        assert [answer.status for answer in answers.values()] == [503, 503]
        assert all("retry-after" in answer.headers for answer in answers.values())
        assert "Nothing was changed" in answers["generate"].body
        assert answers["delete"].json()["error"] == "SERVICE_UNAVAILABLE"
        listed = running.manage("list_keys", visit.account.email)
        assert [line.split()[-1] for line in listed.splitlines()] == ["2", "1", "0"]
        assert visit.api("POST", "/api/v1/keys/validate", visit.doomed).status == 200
        valid += 1
        assert until(lambda: uses(running, visit.account) == valid)
