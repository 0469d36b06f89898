"""Wrong passwords from unknown browsers do not lock out a known browser."""

from datetime import timedelta

import pytest
from django.core import signing
from django.test import Client

from accounts.models import User
from tests.accounts.test_signing_in import exhaust
from tests.conftest import PASSWORD
from tests.factories import add_app, app_code, is_in, later, log_in, wrong_app_code

ELSEWHERE = "198.51.100.7"


@pytest.fixture
def alices_browser(alice) -> Client:
    """A browser that alice has logged in and out with."""
    client = Client()
    log_in(client)
    client.post("/logout")
    assert not is_in(client)
    return client


def test_attempts_by_unknown_browsers_lock_out_only_unknown_browsers(alice, alices_browser):
    exhaust(Client(), REMOTE_ADDR=ELSEWHERE)
    assert log_in(unknown_browser := Client()).status_code == 429
    assert not is_in(unknown_browser)
    assert log_in(alices_browser).status_code == 302
    assert is_in(alices_browser)


def test_attempts_from_the_same_network_do_not_lock_out_a_known_browser(alice, alices_browser):
    for number in range(31):
        log_in(Client(), f"person{number}@example.org", "a guess")
    assert log_in(Client()).status_code == 429
    assert log_in(alices_browser).status_code == 302
    assert is_in(alices_browser)


def test_attempts_at_reauthentication_do_not_lock_out_a_known_browser(alice, alices_browser):
    log_in(alices_browser)
    exhaust(Client(), REMOTE_ADDR=ELSEWHERE)
    response = alices_browser.post(
        "/account/reauthenticate", {"password": PASSWORD, "next": "/account/data"}
    )
    assert response["Location"] == "/account/data"


def test_a_known_browser_has_a_separate_limit(alice, alices_browser):
    exhaust(alices_browser)
    response = log_in(alices_browser)
    assert (response.status_code, response["Retry-After"]) == (429, "300")
    assert not is_in(alices_browser)
    assert log_in(Client(), REMOTE_ADDR=ELSEWHERE).status_code == 302, "and takes no one else's"


def test_the_limit_of_a_known_browser_ends_with_its_window(alice, alices_browser):
    exhaust(alices_browser)
    with later(timedelta(minutes=6)):
        log_in(alices_browser)
        assert is_in(alices_browser)


def test_each_known_browser_has_a_separate_limit(alice, alices_browser):
    second = Client()
    log_in(second)
    second.post("/logout")
    exhaust(second)
    assert log_in(second).status_code == 429
    log_in(alices_browser)
    assert is_in(alices_browser)


def test_mallorys_browser_is_not_known_for_alice(alice, mallory):
    mallorys = Client()
    log_in(mallorys, mallory.email)
    mallorys.post("/logout")
    exhaust(mallorys, REMOTE_ADDR=ELSEWHERE)
    assert log_in(mallorys).status_code == 429


@pytest.mark.parametrize(
    "forged",
    ["nonsense", "", signing.dumps(["x" * 32], salt="other")],
    ids=["nonsense", "empty", "of another salt"],
)
def test_a_forged_device_cookie_is_ignored(alice, alices_browser, forged):
    (name,) = [name for name in alices_browser.cookies if name.startswith("device")]
    alices_browser.cookies[name] = forged
    exhaust(alices_browser)
    assert log_in(alices_browser).status_code == 429
    assert log_in(Client()).status_code == 429


def test_a_device_cookie_of_the_first_format_is_known(alice, alices_browser):
    (name,) = [name for name in alices_browser.cookies if name.startswith("device")]
    tokens = signing.loads(alices_browser.cookies[name].value, salt="device")["marks"]
    alices_browser.cookies[name] = signing.dumps(tokens, salt="device")
    exhaust(Client(), REMOTE_ADDR=ELSEWHERE)
    log_in(alices_browser)
    assert is_in(alices_browser)
    assert signing.loads(alices_browser.cookies[name].value, salt="device")["id"]


def test_the_cookie_names_eight_accounts_and_stays_short(db):
    browser, emails = Client(), [f"person{number}@example.org" for number in range(10)]
    for email in emails:
        User.objects.create_user(email, PASSWORD)
        assert log_in(browser, email).status_code == 302
        browser.post("/logout")
    (name,) = [name for name in browser.cookies if name.startswith("device")]
    cookie = browser.cookies[name].value
    assert len(signing.loads(cookie, salt="device")["marks"]) == 8
    # Browsers keep names and values of up to 4,096 bytes together.
    assert len("__Host-") + len(name) + len(cookie) < 1024


def test_factor_attempts_by_unknown_browsers_lock_out_only_unknown_browsers(alice, alices_browser):
    secret = add_app(alice)
    unknown_browser = Client()
    log_in(unknown_browser, REMOTE_ADDR=ELSEWHERE)
    for _ in range(6):
        unknown_browser.post(
            "/login/factor", {"code": wrong_app_code(secret)}, REMOTE_ADDR=ELSEWHERE
        )
    response = unknown_browser.post(
        "/login/factor", {"code": app_code(secret)}, REMOTE_ADDR=ELSEWHERE
    )
    assert response.status_code == 429
    log_in(alices_browser)
    alices_browser.post("/login/factor", {"code": app_code(secret)})
    assert is_in(alices_browser)
