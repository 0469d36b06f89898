"""A key's secret is in one response, and nowhere else that the platform writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.live.conftest import (
    TOKEN,
    Account,
    Answer,
    Browser,
    Folder,
    ask,
    join,
    serving,
    validate,
)
from tests.platforms import Platform

VALIDATE = "/api/v1/keys/validate"


@pytest.fixture
def folder(fresh_folder: Folder) -> Path:
    return fresh_folder()


@pytest.fixture
def running(folder: Path) -> Iterator[Platform]:
    with serving(folder, LOG_LEVEL="DEBUG") as started:
        yield started


def life_of_a_key(running: Platform, account: Account) -> tuple[str, list[Answer]]:
    """Create a key on the page, use it in every way, and delete it.

    Return its token and all responses except the one that showed it.
    """
    browser = Browser(running, account)
    hidden = browser.hidden("/keys/?new=1")
    form = {**hidden, "name": "studio", "description": "in the studio"}
    (token,) = set(TOKEN.findall(browser.post("/keys/generate", **form).text))

    def page(path: str) -> Answer:
        return Answer.of(browser.get(path))

    def api(method: str, path: str, **body: str) -> Answer:
        return ask(running, method, path, key=token, body=body or None)

    listed = api("GET", "/customers/api-keys")
    key_id = listed.json()["api_keys"][0]["id"]
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
    answers = [
        listed,
        # The same form again, and the page that shows the key.
        Answer.of(browser.post("/keys/generate", **form)),
        page("/keys/"),
        page("/keys/?new=1"),
        page(f"/keys/{key_id}/delete"),
        # A search for the whole key.
        page(f"/keys/?q={token[:20]}"),
        page("/usage/"),
        page("/account/"),
        api("POST", "/customers"),
        api("GET", "/customers/me"),
        api("POST", VALIDATE),
        ask(running, "POST", VALIDATE, body={"key": token}),
        ask(running, "POST", VALIDATE, headers={"Authorization": f"Bearer {token}"}),
        # Every kind of error with it.
        api("POST", "/customers/api-keys", name=token),
        api("POST", VALIDATE, key=token),
        api("GET", "/nowhere"),
        api("GET", f"/customers/api-keys/{token}"),
        api("DELETE", f"/customers/api-keys/{token}"),
        ask(running, "POST", f"{VALIDATE}?key={token}"),
        ask(running, "GET", f"/{token}"),
        ask(running, "GET", f"/keys/{token}/delete"),
        ask(running, "POST", VALIDATE, key=wrong),
        ask(running, "POST", VALIDATE, key=f"{token},{token}"),
        ask(running, "POST", VALIDATE, body=f'{{"key": "{token}'),
        ask(running, "POST", VALIDATE, body={"key": [token]}),
        ask(running, "POST", VALIDATE, body={token: token}),
        ask(running, "POST", "/login", body=f"login=a&password={token}"),
        ask(running, "GET", "/ready", headers={"Host": token}),
        ask(running, "GET", "/customers/me", headers={"Host": f"{token}.example", "X-API-Key": ""}),
        api("DELETE", f"/customers/api-keys/{key_id}"),
        api("POST", VALIDATE),
        api("POST", "/customers"),
        page("/keys/"),
    ]
    return token, answers


def assert_absent(secret: str, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and "static" not in path.parts]
    assert files
    assert [path.name for path in files if secret.encode() in path.read_bytes()] == []


def test_the_secret_is_in_one_response_and_in_no_file(running: Platform, folder: Path) -> None:
    account = join(running, keys=1)
    token, answers = life_of_a_key(running, account)
    secret = token[20:56]

    statuses = {answer.status for answer in answers}
    assert {200, 204, 400, 401, 404, 409} <= statuses
    assert max(statuses) < 500
    assert [answer for answer in answers if secret in answer.body + str(answer.headers)] == []
    # The log is checked for content, so that an empty one does not pass.
    assert " WARNING django" in running.printed()
    assert (folder / "platform.sqlite3-wal").stat().st_size > 0
    assert_absent(secret, folder)

    # Nor after the journal was written into the database file.
    with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert_absent(secret, folder)


def test_a_command_prints_the_secret_to_standard_output_only(
    running: Platform, folder: Path
) -> None:
    account = join(running)
    printed = running.manage("issue_key", account.email, "--name", "studio")
    token = printed.strip()
    assert TOKEN.fullmatch(token)
    assert printed == f"{token}\n"
    assert validate(running, token).status == 200
    assert token[20:56] not in running.manage("list_keys", account.email)
    # An operator may paste the whole key.
    assert token[20:56] not in running.manage("revoke_key", token)
    assert validate(running, token).json()["error"] == "REVOKED"
    assert_absent(token[20:56], folder)


@contextmanager
def without_keys(folder: Path) -> Iterator[None]:
    """Rename the table of keys, so that every query of it fails at once."""

    def rename(one: str, other: str) -> None:
        with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
            database.execute(f"ALTER TABLE {one} RENAME TO {other}")

    rename("apikeys_apikey", "gone")
    try:
        yield
    finally:
        rename("gone", "apikeys_apikey")


def test_with_debug_on_the_secret_is_on_no_error_page_and_in_no_log(folder: Path) -> None:
    # A missing table looks like a missing database, for which a sign-in would wait.
    with serving(folder, DEBUG="1", LOG_LEVEL="DEBUG", DB_RETRY_SECONDS="0") as running:
        account = join(running, keys=1)
        (key,) = account.keys
        browser = Browser(running, account)
        hidden = browser.hidden("/keys/?new=1")
        token = key.token
        headers = {"Authorization": f"Bearer {token}", "X-API-Key": token, "X-Other": token}
        with without_keys(folder):
            # Form field, headers, cookie and URL: the debug page shows them all, and the local
            # variables of every function.
            answers = [
                Answer.of(answer)
                for answer in (
                    browser.post("/keys/generate", **hidden, name=token),
                    browser.get("/keys/", headers=headers),
                    browser.get("/usage/", cookies={"saved": token}),
                )
            ]
            reports = len(answers)
            answers += [
                # These are refused before they reach the table.
                ask(running, "GET", f"/keys/?q={token}&{token}=1"),
                ask(running, "POST", VALIDATE, key=token),
                ask(running, "POST", VALIDATE, body={"key": token}, headers={"X-A": token}),
                ask(running, "POST", "/customers", key=token),
                ask(running, "GET", "/nowhere", headers=headers),
            ]
        assert validate(running, token).status == 200
        for answer in answers[:reports]:
            assert answer.status == 500
            assert "Traceback" in answer.body
            assert f"comfyui-{key.public_id}" in answer.body
        assert [a for a in answers if key.secret in a.body + str(a.headers)] == []
        assert "Traceback" in running.printed()
        assert_absent(key.secret, folder)


def test_passwords_of_other_services_are_on_no_error_page(folder: Path) -> None:
    """A server may pass its environment on with every request, and Django's debug page shows it."""
    mail = "smtp://keys:hunter2hunter2@127.0.0.1:9"
    with serving(folder, DEBUG="1", EMAIL_URL=mail) as running:
        browser = Browser(running, join(running))
        with without_keys(folder):
            page = browser.get("/keys/")
        assert "Traceback" in page.text
        assert "hunter2hunter2" not in page.text
        assert "hunter2hunter2" not in running.printed()
