"""Logins, failed logins and changes of login methods are recorded in the audit log."""

import pytest
from allauth.mfa.totp.internal import auth as totp
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from audit.models import Action, Event
from tests.factories import FIREFOX, PASSWORD, browser, log_in

APP = "/account/factors/app/activate"


@pytest.fixture
def client() -> Client:
    return browser(FIREFOX, "192.0.2.7")


def details(action: Action) -> list[dict[str, str]]:
    return list(Event.objects.filter(action=action).values_list("detail", flat=True))


def newest(action: Action) -> Event:
    return Event.objects.filter(action=action).latest("id")


def test_a_log_in_is_recorded_with_user_methods_ip_and_device(client, alice):
    assert log_in(client, alice.email, PASSWORD).status_code == 302
    event = newest(Action.SIGNED_IN)
    assert (event.account, event.actor, event.via) == (alice, alice, "page")
    assert event.address == "192.0.2.7"
    assert event.detail == {"how": "password", "device": "Firefox on Windows"}


def test_a_wrong_password_is_recorded_without_input(client, alice):
    log_in(client, alice.email, "a wrong password")
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.actor, event.address) == (alice, None, "192.0.2.7")
    assert event.detail == {"why": "password", "device": "Firefox on Windows"}
    assert "a wrong password" not in str(list(Event.objects.values()))


def test_a_failed_log_in_without_an_account_is_recorded_without_the_email(client, db):
    log_in(client, "nobody@example.org", "a wrong password")
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.actor) == (None, None)
    assert "nobody" not in str(list(Event.objects.values()))


def test_an_unknown_email_costs_as_many_queries_as_a_known_one(client, alice):
    counts = []
    for address in [alice.email, "nobody@example.org"]:
        with CaptureQueriesContext(connection) as caught:
            log_in(client, address, "a wrong password")
        counts.append(sum("audit_event" in statement["sql"] for statement in caught))
    assert counts == [1, 1]


def test_the_right_password_of_a_disabled_account_is_recorded_as_a_failure(client, alice):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    log_in(client, alice.email, PASSWORD)
    assert not Event.objects.filter(action=Action.SIGNED_IN).exists()
    assert newest(Action.SIGN_IN_REFUSED).account == alice


def test_sign_up_log_out_and_password_change_are_recorded(client, db):
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
    actions = list(
        Event.objects.filter(account=user).order_by("id").values_list("action", flat=True)
    )
    assert actions[0] == Action.ACCOUNT_CREATED
    assert actions[-2:] == [Action.PASSWORD_CHANGED, Action.SIGNED_OUT]
    assert Action.SIGNED_IN in actions


def test_added_and_removed_factors_and_wrong_codes_are_recorded(
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


def test_a_wrong_email_code_is_recorded(client, alice, settings):
    assert client.post("/login/code", {"email": alice.email}).status_code == 302
    assert mail.outbox
    client.post("/login/code/confirm", {"code": "WRONG1"})
    event = newest(Action.SIGN_IN_REFUSED)
    assert (event.account, event.detail["why"]) == (alice, "code")


def test_ending_other_sessions_is_recorded(client, alice):
    log_in(client, alice.email, PASSWORD)
    client.post("/account/sessions")
    assert newest(Action.SIGNED_OUT).detail == {"where": "elsewhere"}
