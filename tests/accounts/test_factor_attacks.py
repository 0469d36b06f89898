"""Guessing and reusing second factors and passkeys."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from tests.accounts.attacks import (
    BY_FACTOR,
    CLIENT_IPS,
    LONG_AGO,
    is_fresh,
    with_code,
    with_provider,
)
from tests.conftest import show_who
from tests.factories import (
    add_app,
    app_code,
    is_in,
    later,
    log_in,
    prove,
    who_is_in,
    wrong_app_code,
)
from tests.webauthn import (
    Passkey,
    at_localhost,
    options_on,
    passkey_options,
    to_base64,
)


def try_factor(code: str, user: User, client_ip: str, *, at_login: bool) -> tuple[Client, Any]:
    """Each attempt uses a new session."""
    if at_login:
        client = Client(REMOTE_ADDR=client_ip)
        assert log_in(client)["Location"] == "/login/factor"
        return client, client.post("/login/factor", {"code": code})
    client = Client(REMOTE_ADDR=client_ip)
    client.force_login(user)
    show_who(client, user, ago=LONG_AGO)
    return client, client.post(BY_FACTOR, {"code": code})


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_factor_attempts_share_one_limit_across_sessions_and_forms(alice, kind):
    prove(alice)
    secret = add_app(alice)
    recovery = RecoveryCodes.activate(alice).get_unused_codes()

    def right() -> str:
        return app_code(secret) if kind == "app" else recovery.pop()

    for number, client_ip in enumerate(CLIENT_IPS[:5]):
        guess = wrong_app_code(secret) if kind == "app" else "00000000"
        try_factor(guess, alice, client_ip, at_login=number % 2 == 0)
    client, response = try_factor(right(), alice, "203.0.113.1", at_login=True)
    assert who_is_in(client) is None
    assert "Too many" in response.text
    client, response = try_factor(right(), alice, "203.0.113.1", at_login=False)
    assert not is_fresh(client)
    assert "Too many" in response.text
    with later(timedelta(minutes=6)):
        client, _answer = try_factor(right(), alice, "203.0.113.1", at_login=True)
        assert who_is_in(client) == str(alice.pk), "the owner is not locked out for ever"


def test_the_factor_form_requires_the_password_first(alice):
    """Otherwise any client could lock alice out."""
    secret = add_app(alice)
    for client_ip in CLIENT_IPS[:8]:
        client = Client(REMOTE_ADDR=client_ip)
        client.post("/login", {"login": alice.email, "password": f"not {client_ip}"})
        assert client.post("/login/factor", {"code": "000000"})["Location"] == "/login"
    cache.clear()
    client, _answer = try_factor(app_code(secret), alice, "203.0.113.1", at_login=True)
    assert who_is_in(client)


@pytest.mark.parametrize(("step", "is_valid"), [(-2, False), (-1, True), (0, True), (2, False)])
def test_an_app_code_is_valid_for_its_step_of_30_seconds_and_one_more(alice, step, is_valid):
    """RFC 6238 §5.2 allows one step for network delay and clocks that differ."""
    prove(alice)
    secret = add_app(alice)
    while time.time() % 30 > 25:
        # Otherwise the step could end during the test.
        time.sleep(0.5)
    client, _answer = try_factor(
        app_code(secret, at=time.time() + 30 * step), alice, "203.0.113.1", at_login=True
    )
    assert (who_is_in(client) == str(alice.pk)) == is_valid


def test_a_recovery_code_is_valid_once(alice):
    add_app(alice)
    code = RecoveryCodes.activate(alice).get_unused_codes()[0]
    for at_login, expected in ((True, True), (True, False)):
        client, _answer = try_factor(code, alice, "203.0.113.1", at_login=at_login)
        assert bool(who_is_in(client)) is expected
    client, _answer = try_factor(code, alice, "203.0.113.1", at_login=False)
    assert not is_fresh(client)


@pytest.mark.parametrize("seconds", [0, 31, 45])
def test_an_app_code_is_valid_once_for_its_whole_lifetime(alice, seconds):
    """A code that was observed must not be used again (RFC 6238 §5.2)."""
    prove(alice)
    secret = add_app(alice)
    # The next step's code, which a clock that is ahead shows early.
    code = app_code(secret, at=time.time() + 30)
    client, _answer = try_factor(code, alice, "203.0.113.1", at_login=True)
    assert who_is_in(client) == str(alice.pk)
    with later(timedelta(seconds=seconds)):
        client, _answer = try_factor(code, alice, "203.0.113.2", at_login=True)
        assert who_is_in(client) is None
        client, _answer = try_factor(code, alice, "203.0.113.2", at_login=False)
        assert not is_fresh(client)


def test_a_used_code_does_not_reset_the_limit(alice):
    """Mallory has the password and saw a code: sending it again must not reset the limit."""
    prove(alice)
    secret = add_app(alice)
    seen = app_code(secret, at=time.time() + 30)
    try_factor(seen, alice, "203.0.113.1", at_login=True)
    with later(timedelta(seconds=31)):
        evaluated = 0
        for client_ip in CLIENT_IPS[:3]:
            for _ in range(3):
                _client, response = try_factor(
                    wrong_app_code(secret), alice, client_ip, at_login=False
                )
                evaluated += "Too many" not in response.text
            try_factor(seen, alice, client_ip, at_login=False)
    assert evaluated <= 5


def test_codes_of_another_users_factors_are_refused(alice, mallory):
    add_app(alice)
    RecoveryCodes.activate(alice)
    mallorys = add_app(mallory)
    recovery = RecoveryCodes.activate(mallory).get_unused_codes()
    for code in (app_code(mallorys), recovery[0]):
        client, _answer = try_factor(code, alice, "203.0.113.1", at_login=True)
        assert who_is_in(client) is None


def test_the_second_factor_is_required_after_a_code_and_a_provider_too(
    alice, providers, mailoutbox
):
    prove(alice)
    secret = add_app(alice)
    for way in (with_code, with_provider):
        client = Client()
        response = way(client, alice=alice, providers=providers, mailoutbox=mailoutbox)
        assert response["Location"] == "/login/factor", way.__name__
        assert not is_in(client)
    client.post("/login/factor", {"code": app_code(secret)})
    assert is_in(client)


@pytest.mark.parametrize(
    "change",
    [
        {"response": None},
        {"response": {}},
        {"response": []},
        {"response": {"userHandle": None}},
        {"rawId": None},
        {"rawId": "!!"},
        {"id": 5},
    ],
    ids=str,
)
def test_a_malformed_passkey_response_is_refused_without_an_error(alice, change):
    passkey, client = Passkey(alice), at_localhost()
    credential = passkey.answer(passkey_options(client), **change)
    assert client.post("/login/passkey", {"credential": credential}).status_code in {302, 200}
    assert who_is_in(client) is None


@pytest.mark.parametrize("handle", ["AAAA", "not-base64!", "", "YWJj", "____"])
def test_a_passkey_response_for_no_account_is_refused(alice, handle):
    passkey, client = Passkey(alice), at_localhost()
    credential = json.loads(passkey.answer(passkey_options(client)))
    credential["response"]["userHandle"] = handle
    response = client.post("/login/passkey", {"credential": json.dumps(credential)})
    assert response.status_code == 302
    assert who_is_in(client) is None


def test_a_passkey_response_is_valid_once_and_for_its_account_only(alice, mallory):
    alices_browser, mallorys = Passkey(alice), Passkey(mallory)
    client = at_localhost()
    forged = json.loads(mallorys.answer(passkey_options(client)))
    forged["response"]["userHandle"] = to_base64(user_pk_to_url_str(alice).encode())
    client.post("/login/passkey", {"credential": json.dumps(forged)})
    assert who_is_in(client) is None
    response = alices_browser.answer(passkey_options(client))
    client.post("/login/passkey", {"credential": response})
    assert who_is_in(client) == str(alice.pk)
    client.post("/logout")
    client.post("/login/passkey", {"credential": response})
    assert who_is_in(client) is None


def test_a_passkey_without_user_verification_is_refused(alice):
    client = at_localhost()
    credential = Passkey(alice).answer(passkey_options(client), verifies=False)
    client.post("/login/passkey", {"credential": credential})
    assert who_is_in(client) is None


def test_the_challenge_for_a_second_factor_does_not_allow_a_log_in_without_user_verification(
    alice, mallory
):
    """Mallory found alice's security key, which asks for no PIN as mallory's second factor."""
    found = Passkey(alice)
    Passkey(mallory)
    client = at_localhost()
    log_in(client, mallory.email)
    options = options_on(client.get("/login/factor"))
    client.post("/logout", {"next": "/login"})
    credential = found.answer(options, verifies=False)
    client.post("/login/passkey", {"credential": credential})
    assert who_is_in(client) is None
