"""Who came in and who did not, and what opens an account: written down as it happens."""

import pytest
from allauth.mfa.totp.internal import auth as totp
from django.core import mail
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from audit.models import Action, Event

PASSWORD = "correct horse battery"
APP = "/account/factors/app/activate"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture
def alice(alice) -> User:
    alice.set_password(PASSWORD)
    alice.save()
    return alice


def log_in(client, email: str, password: str):
    return client.post(
        "/login",
        {"login": email, "password": password},
        headers={"User-Agent": FIREFOX},
        REMOTE_ADDR="192.0.2.7",
    )


def details(action: Action) -> list[dict[str, str]]:
    return list(Event.objects.filter(action=action).values_list("detail", flat=True))


def newest(action: Action) -> Event:
    return Event.objects.filter(action=action).latest("id")


def test_a_sign_in_says_who_how_from_where_and_with_what(client, alice):
    assert log_in(client, alice.email, PASSWORD).status_code == 302
    event = newest(Action.SIGNED_IN)
    assert (event.account, event.actor, event.via) == (alice, alice, "page")
    assert event.address == "192.0.2.7"
    assert event.detail == {"how": "password", "device": "Firefox on Windows"}


def test_a_wrong_password_is_written_down_without_what_was_typed(client, alice):
    log_in(client, alice.email, "a wrong password")
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.actor, event.address) == (alice, None, "192.0.2.7")
    assert event.detail == {"why": "password", "device": "Firefox on Windows"}
    assert "a wrong password" not in str(list(Event.objects.values()))


def test_a_stranger_s_try_keeps_no_address_that_was_typed(client, db):
    log_in(client, "nobody@example.org", "a wrong password")
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.actor) == (None, None)
    assert "nobody" not in str(list(Event.objects.values()))


def test_a_known_address_costs_as_much_as_an_unknown_one(client, alice):
    counts = []
    for address in [alice.email, "nobody@example.org"]:
        with CaptureQueriesContext(connection) as caught:
            log_in(client, address, "a wrong password")
        counts.append(sum("audit_event" in statement["sql"] for statement in caught))
    assert counts == [1, 1]


def test_a_disabled_account_s_right_password_is_a_refusal(client, alice):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    log_in(client, alice.email, PASSWORD)
    assert not Event.objects.filter(action=Action.SIGNED_IN).exists()
    assert newest(Action.SIGN_IN_REFUSED).account == alice


def test_signing_up_out_and_changing_the_password_are_written_down(client, db):
    form = {"email": "new@example.org", "password1": PASSWORD}
    assert client.post("/signup", form).status_code == 302
    user = User.objects.get(email="new@example.org")
    changed = {
        "oldpassword": PASSWORD,
        "password1": "another long one",
        "password2": "another long one",
    }
    assert client.post("/account/password/change", changed).status_code == 302
    assert client.post("/logout").status_code == 302
    told = list(Event.objects.filter(account=user).order_by("id").values_list("action", flat=True))
    assert told[0] == Action.ACCOUNT_MADE
    assert told[-2:] == [Action.PASSWORD_CHANGED, Action.SIGNED_OUT]
    assert Action.SIGNED_IN in told


def test_factors_come_and_go_and_a_wrong_code_is_a_refusal(
    signed_in, alice, client, django_capture_on_commit_callbacks
):
    signed_in(alice)
    secret = client.get(APP).context["form"].secret
    assert client.post(APP, {"code": "000000"}).status_code == 200
    assert newest(Action.SIGN_IN_REFUSED).detail["why"] == "factor"
    counter = next(iter(totp.yield_hotp_counters_from_time()))
    code = totp.format_hotp_value(totp.hotp_value(secret, counter))
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(APP, {"code": code}).status_code == 302
    assert {"type": "totp"} in details(Action.FACTOR_ADDED)
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post(reverse("mfa_deactivate_totp")).status_code == 302
    assert {"type": "totp"} in details(Action.FACTOR_REMOVED)
    assert code not in str(list(Event.objects.values()))
    assert secret not in str(list(Event.objects.values()))


def test_a_wrong_mailed_code_is_a_refusal(client, alice, settings):
    assert client.post("/login/code", {"email": alice.email}).status_code == 302
    assert mail.outbox
    client.post("/login/code/confirm", {"code": "WRONG1"})
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.detail["why"]) == (alice, "code")


def test_sessions_ended_elsewhere_are_written_down(client, alice):
    log_in(client, alice.email, PASSWORD)
    client.post("/account/sessions")
    assert newest(Action.SIGNED_OUT).detail == {"where": "elsewhere"}
