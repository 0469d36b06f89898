"""OAuth codes sent many times at the same moment, to two workers, on each kind of database."""

import base64
import hashlib
import secrets
from collections import Counter
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.live.conftest import (
    Account,
    Answer,
    Browser,
    Request,
    ask,
    at_once,
    join,
    shell,
    validate,
)
from tests.platforms import Platform, Pool

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
CALLBACK = "http://127.0.0.1:50123/callback"


@pytest.fixture(scope="module")
def running(pool: Pool, database_kind: str) -> Platform:
    return pool(database_kind, WORKERS="2", LOG_LEVEL="DEBUG")


def form(path: str, **fields: str) -> Request:
    return ("POST", path, FORM, urlencode(fields))


def send(running: Platform, request: Request) -> Answer:
    method, path, headers, body = request
    return ask(running, method, path, headers=headers, body=body)


def keys_of(running: Platform, account: Account) -> list[list[str]]:
    """Return the name and the revocation reason of each key that the account has had."""
    rows: list[list[str]] = shell(
        running,
        "from apikeys.models import APIKey\n"
        "answer = [list(row) for row in APIKey.objects.filter(owner__email=given['email'])"
        ".values_list('name', 'revoked_reason')]",
        email=account.email,
    )
    return rows


def tokens_in(answers: list[Answer]) -> list[str]:
    return [answer.json()["access_token"] for answer in answers if answer.status == 200]


def confirmed(running: Platform, account: Account, **fields: str) -> Request:
    """Return the token request of a device that the account confirmed."""
    started = send(running, form("/oauth/device/code", client_id="comfy-key", device_name="box"))
    assert started.status == 200, started.body
    browser = Browser(running, account)
    sent = {**browser.hidden("/device"), "user_code": started.json()["user_code"]}
    done = browser.post(
        "/device", **{**sent, "decision": "confirm", "name": "box", "expires": "never", **fields}
    )
    assert done.status_code == 302, done.text
    return form(
        "/oauth/token",
        grant_type=DEVICE_GRANT,
        client_id="comfy-key",
        device_code=started.json()["device_code"],
    )


def allowed(running: Platform, account: Account) -> Request:
    """Return the token request for a code that the account allowed."""
    verifier = secrets.token_urlsafe(32)
    digest = hashlib.sha256(verifier.encode()).digest()
    asked = {
        "response_type": "code",
        "client_id": "comfy-cli",
        "redirect_uri": CALLBACK,
        "state": "s",
        "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    browser, address = Browser(running, account), f"/oauth/authorize?{urlencode(asked)}"
    answer = browser.post(
        address, **browser.hidden(address), decision="allow", name="cli", expires="90"
    )
    assert answer.status_code == 303, answer.text
    [code] = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]
    return form(
        "/oauth/token",
        grant_type="authorization_code",
        client_id="comfy-cli",
        redirect_uri=CALLBACK,
        code=code,
        code_verifier=verifier,
    )


def test_a_device_that_polls_forty_times_at_once_gets_one_key(running: Platform) -> None:
    account = join(running)
    poll = confirmed(running, account)

    answers = at_once(running, [poll] * 20, [poll] * 20)

    assert set(Counter(answer.status for answer in answers)) <= {200, 400, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)
    refused = {answer.json()["error"] for answer in answers if answer.status == 400}
    assert refused == {"invalid_grant"}
    (token,) = tokens_in(answers)
    assert keys_of(running, account) == [["box", ""]]
    assert validate(running, token).json()["key"]["name"] == "box"
    assert send(running, poll).json()["error"] == "invalid_grant"


def test_a_code_sent_forty_times_at_once_makes_one_key_and_revokes_it(
    running: Platform,
) -> None:
    account = join(running)
    exchange = allowed(running, account)

    answers = at_once(running, [exchange] * 20, [exchange] * 20)

    assert set(Counter(answer.status for answer in answers)) <= {200, 400, 503}
    tokens = tokens_in(answers)
    assert len(tokens) <= 1
    # The second use of a code revokes its key.
    assert send(running, exchange).json()["error"] == "invalid_grant"
    assert keys_of(running, account) == [["cli", "code"]]
    for token in tokens:
        assert validate(running, token).json()["error"] == "REVOKED"


def test_many_devices_of_one_account_get_their_keys(running: Platform) -> None:
    account = join(running)
    polls = [confirmed(running, account, name=f"box {n}") for n in range(8)]

    waiting, fetched = polls, []
    for _ in range(20):
        answers = at_once(running, waiting)
        fetched += tokens_in(answers)
        assert {answer.status for answer in answers} <= {200, 503}
        waiting = [
            poll for poll, answer in zip(waiting, answers, strict=True) if answer.status == 503
        ]
        if not waiting:
            break

    assert len(set(fetched)) == 8
    assert sorted(name for name, _ended in keys_of(running, account)) == [
        f"box {n}" for n in range(8)
    ]


def test_no_code_and_no_key_is_in_the_log(running: Platform) -> None:
    account = join(running)
    poll, exchange = confirmed(running, account, name="logged"), allowed(running, account)
    secrets_sent = []
    for request in (poll, exchange):
        fields = parse_qs(request[3])
        secrets_sent += [*fields.get("device_code", []), *fields.get("code", [])]
        secrets_sent += [*fields.get("code_verifier", []), *tokens_in([send(running, request)])]
    assert len(secrets_sent) == 5
    printed = running.printed()
    assert not [secret for secret in secrets_sent if secret in printed]
