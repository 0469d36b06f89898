"""Simultaneous requests against two worker processes, on each kind of database."""

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.live.conftest import (
    TOKEN,
    Account,
    Answer,
    Browser,
    Key,
    ask,
    at_once,
    join,
    shell,
    validate,
)
from tests.platforms import Platform, Pool

CLIENTS = 2
THREADS = 8
# Each thread continues for this many calls after the key was revoked.
CALLS_AFTER = 5


@pytest.fixture(scope="module")
def running(pool: Pool, database_kind: str) -> Platform:
    return pool(database_kind, WORKERS="2")


def plaintexts(answers: list[Answer]) -> list[str]:
    return [token for answer in answers for token in set(TOKEN.findall(answer.body))]


def assert_made_nothing_else(answers: list[Answer], *, refused: int) -> Counter[int]:
    """Each other request was refused, with Retry-After where it may be sent again."""
    seen = Counter(answer.status for answer in answers)
    assert set(seen) <= {200, refused, 503}, seen
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)
    assert not plaintexts([answer for answer in answers if answer.status != 200])
    return seen


def issued(running: Platform, account: Account) -> dict[str, int]:
    """Return the number of rows and of "key issued" events of the account."""
    counts: dict[str, int] = shell(
        running,
        "from apikeys.models import APIKey\nfrom audit.models import Event\n"
        "mail = given['email']\n"
        "answer = {'keys': APIKey.objects.filter(owner__email=mail).count(),"
        " 'events': Event.objects.filter(account__email=mail, action='key.issued').count()}",
        email=account.email,
    )
    return counts


def test_one_form_sent_a_hundred_times_at_once_makes_one_key(running: Platform) -> None:
    account = join(running)
    press = Browser(running, account).press("studio")

    answers = at_once(running, *[[press] * 50] * CLIENTS)

    assert len(answers) == 100
    assert assert_made_nothing_else(answers, refused=409)[200] == 1
    (token,) = plaintexts(answers)
    assert len(running.manage("list_keys", account.email).splitlines()) == 1
    assert issued(running, account) == {"keys": 1, "events": 1}
    assert validate(running, token).json()["key"]["name"] == "studio"


def test_one_name_from_many_forms_at_once_makes_one_key(running: Platform) -> None:
    account = join(running)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    presses = [browser.press("studio", hidden=hidden | {"nonce": str(uuid4())}) for _ in range(40)]

    answers = at_once(running, presses[:20], presses[20:])

    assert assert_made_nothing_else(answers, refused=400)[200] == 1
    assert issued(running, account) == {"keys": 1, "events": 1}
    refusals = [answer.body for answer in answers if answer.status == 400]
    assert all("You already have a key with this name." in body for body in refusals)


def test_the_limit_holds_when_many_forms_come_at_once(running: Platform) -> None:
    account = join(running)
    shell(
        running,
        "from accounts.models import User\n"
        "from apikeys.models import APIKey\n"
        "owner = User.objects.get(email=given['email'])\n"
        "APIKey.objects.bulk_create(APIKey(owner=owner, name=f'old {n}', folded_name=f'old {n}',"
        " public_id=f'{owner.pk.hex[:10]}{n:02x}', encoded='none') for n in range(45))",
        email=account.email,
    )
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    presses = [
        browser.press(f"new {number}", hidden=hidden | {"nonce": str(uuid4())})
        for number in range(60)
    ]

    answers = at_once(running, presses[:30], presses[30:])

    assert assert_made_nothing_else(answers, refused=400)[200] == 5
    assert len(plaintexts(answers)) == 5
    assert issued(running, account) == {"keys": 50, "events": 5}


def test_no_response_is_of_another_account(running: Platform) -> None:
    accounts = [join(running, keys=1) for _ in range(2)]
    batches = [
        [("GET", "/customers/me", {"X-API-Key": account.keys[0].token}, "")] * 100
        for account in accounts
    ]

    answers = at_once(running, *batches)

    for account, mine in zip(accounts, (answers[:100], answers[100:]), strict=True):
        assert {answer.status for answer in mine} <= {200, 503}, [a.body for a in mine]
        emails = Counter(answer.json()["email"] for answer in mine if answer.status == 200)
        assert list(emails) == [account.email]


@dataclass(frozen=True)
class Seen:
    """One validation: when it was sent, and its status."""

    started: float
    status: int
    error: str


def hammer(running: Platform, key: Key, end: Callable[[], None]) -> tuple[list[Seen], list[Seen]]:
    """Validate `key` from many threads while `end` revokes it.

    Return the validations sent before `end` returned, and those sent after.
    """
    where = urlsplit(running.url)
    seen: list[Seen] = []
    ended = threading.Event()
    failures: list[BaseException] = []

    def strike() -> None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        left = CALLS_AFTER
        deadline = time.monotonic() + 60
        try:
            while left and time.monotonic() < deadline:
                left -= ended.is_set()
                started = time.monotonic()
                connection.request(
                    "POST", "/api/v1/keys/validate", headers={"X-API-Key": key.token}
                )
                answer = connection.getresponse()
                body = answer.read().decode()
                error = re.search(r'"error":"(\w+)"', body)
                seen.append(Seen(started, answer.status, error[1] if error else ""))
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=strike) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        end()
    finally:
        at = time.monotonic()
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures
    return [one for one in seen if one.started <= at], [one for one in seen if one.started > at]


def assert_ends_at_once(
    running: Platform, key: Key, end: Callable[[], None], *, code: str, warm: bool
) -> None:
    if warm:
        # Often enough, on new connections, that both workers have the key cached.
        assert {validate(running, key.token).status for _ in range(10)} == {200}
    before, after = hammer(running, key, end)
    assert {(one.status, one.error) for one in before} <= {(200, ""), (401, code)}
    assert len(after) >= THREADS * (CALLS_AFTER - 1)
    assert {(one.status, one.error) for one in after} == {(401, code)}


def test_a_key_deleted_by_api_is_refused_at_once(running: Platform) -> None:
    account = join(running, keys=13)
    other, *doomed = account.keys
    for round_, key in enumerate(doomed):

        def delete(key: Key = key) -> None:
            time.sleep(random.uniform(0, 0.03))  # noqa: S311
            answer = ask(running, "DELETE", f"/customers/api-keys/{key.id}", key=other.token)
            assert answer.status == 204, answer.body

        assert_ends_at_once(running, key, delete, code="REVOKED", warm=round_ % 2 == 0)
    assert validate(running, other.token).status == 200


def test_a_key_deleted_on_the_page_is_refused_at_once(running: Platform) -> None:
    account = join(running, keys=6)
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    for round_, key in enumerate(account.keys):

        def delete(key: Key = key) -> None:
            time.sleep(random.uniform(0, 0.03))  # noqa: S311
            answer = browser.post(f"/keys/{key.id}/delete", **hidden)
            assert answer.status_code == 302, answer.text

        assert_ends_at_once(running, key, delete, code="REVOKED", warm=round_ % 2 == 0)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_key_revoked_by_a_command_is_refused_at_once(running: Platform, warm: bool) -> None:
    (key,) = join(running, keys=1).keys

    def revoke() -> None:
        running.manage("revoke_key", key.public_id)

    assert_ends_at_once(running, key, revoke, code="REVOKED", warm=warm)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_keys_of_an_account_disabled_by_another_process_are_refused_at_once(
    running: Platform, warm: bool
) -> None:
    account = join(running, keys=1)

    def disable() -> None:
        shell(
            running,
            "from accounts.models import User\n"
            "User.objects.filter(email=given['email']).update(is_active=False)",
            email=account.email,
        )

    assert_ends_at_once(running, account.keys[0], disable, code="ACCOUNT_DISABLED", warm=warm)
