"""A key's secret is in one answer, and nowhere else that the platform writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.server.conftest import (
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
from tests.servers import Platform

pytestmark = pytest.mark.server

VALIDATE = "/api/v1/keys/validate"


@pytest.fixture
def folder(fresh_folder: Folder) -> Path:
    return fresh_folder()


@pytest.fixture
def running(folder: Path) -> Iterator[Platform]:
    with serving(folder, LOG_LEVEL="DEBUG") as started:
        yield started


def life_of_a_key(running: Platform, account: Account) -> tuple[str, list[Answer]]:
    """Issues a key on the page, uses it in every way, and deletes it.

    Returns its token and all answers but the one that showed it.
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
        # The same form once more, and the page that shows the key.
        Answer.of(browser.post("/keys/generate", **form)),
        page("/keys/"),
        page("/keys/?new=1"),
        page(f"/keys/{key_id}/delete"),
        # Whoever looks for a key by the whole of it.
        page(f"/keys/?q={token[:20]}"),
        page("/usage/"),
        page("/account/"),
        api("POST", "/customers"),
        api("GET", "/customers/me"),
        api("POST", VALIDATE),
        ask(running, "POST", VALIDATE, body={"key": token}),
        ask(running, "POST", VALIDATE, headers={"Authorization": f"Bearer {token}"}),
        # And all that goes wrong with it.
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


def test_the_secret_is_in_one_answer_and_in_no_file(running: Platform, folder: Path) -> None:
    account = join(running, keys=1)
    token, answers = life_of_a_key(running, account)
    secret = token[20:56]

    told = {answer.status for answer in answers}
    assert {200, 204, 400, 401, 404, 409} <= told
    assert max(told) < 500
    assert [answer for answer in answers if secret in answer.body + str(answer.headers)] == []
    # This log is not without it for being empty.
    assert " WARNING django" in running.printed()
    assert (folder / "platform.sqlite3-wal").stat().st_size > 0
    assert_absent(secret, folder)

    # Nor once the log of what was written has become part of the database itself.
    with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert_absent(secret, folder)


def test_the_secret_of_a_key_issued_by_a_command_is_on_its_standard_output_alone(
    running: Platform, folder: Path
) -> None:
    account = join(running)
    printed = running.manage("issue_key", account.email, "--name", "studio")
    token = printed.strip()
    assert TOKEN.fullmatch(token)
    assert printed == f"{token}\n"
    assert validate(running, token).status == 200
    assert token[20:56] not in running.manage("list_keys", account.email)
    # Whoever revokes may paste all of it.
    assert token[20:56] not in running.manage("revoke_key", token)
    assert validate(running, token).json()["error"] == "REVOKED"
    assert_absent(token[20:56], folder)


@contextmanager
def without_keys(folder: Path) -> Iterator[None]:
    """While the table of keys is not there: every query of it is an error, at once."""

    def rename(one: str, other: str) -> None:
        with closing(sqlite3.connect(folder / "platform.sqlite3")) as database:
            database.execute(f"ALTER TABLE {one} RENAME TO {other}")

    rename("apikeys_apikey", "gone")
    try:
        yield
    finally:
        rename("gone", "apikeys_apikey")


def test_the_secret_is_on_no_page_of_an_error_and_in_no_log_with_debug_on(folder: Path) -> None:
    # A missing table looks like a store that is away, for which a sign-in would wait.
    with serving(folder, DEBUG="1", LOG_LEVEL="DEBUG", STORE_PATIENT_WAIT="0") as running:
        account = join(running, keys=1)
        (key,) = account.keys
        browser = Browser(running, account)
        hidden = browser.hidden("/keys/?new=1")
        token = key.token
        headers = {"Authorization": f"Bearer {token}", "X-API-Key": token, "X-Other": token}
        with without_keys(folder):
            # A form's field, headers, a cookie and the address: Django's page of an error shows
            # them all, and what every function on the way had in its hands.
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
                # Refused before anything can break.
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


def test_passwords_of_other_services_are_on_no_page_of_an_error(folder: Path) -> None:
    """A server may hand its process's environment on with every request, where Django shows it."""
    mail = "smtp://keys:hunter2hunter2@127.0.0.1:9"
    with serving(folder, DEBUG="1", EMAIL_URL=mail) as running:
        browser = Browser(running, join(running))
        with without_keys(folder):
            page = browser.get("/keys/")
        assert "Traceback" in page.text
        assert "hunter2hunter2" not in page.text
        assert "hunter2hunter2" not in running.printed()
