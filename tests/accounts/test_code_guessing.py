"""Guessing passwords and email codes, and codes sent to a former email."""

import itertools
import re
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from tests.accounts.attacks import (
    APPROVE,
    BY_MAIL,
    CLIENT_IPS,
    CONFIRM,
    LONG_AGO,
    NEW_PASSWORD,
    REAUTHENTICATE,
    is_fresh,
    request_email_change,
    request_reset,
    resend_confirmation,
    signed_in_browser,
    with_code,
    wrong_confirmation,
)
from tests.conftest import PASSWORD, show_who
from tests.factories import (
    ask_for_code,
    confirm_code,
    later,
    log_in,
    prove,
    set_up_app,
    sign_up,
    who_is_in,
)
from tests.mail_server import code_in, link_in

# --- Helpers ---------------------------------------------------------------------------------


def altered(code: str) -> str:
    return "BBBB-BBBB" if code != "BBBB-BBBB" else "CCCC-CCCC"


# --- Rate limits -----------------------------------------------------------------------------


def test_password_attempts_share_one_limit_across_all_forms(alice):
    prove(alice)
    for number, client_ip in enumerate(CLIENT_IPS[:5]):
        if number % 2:
            log_in(Client(), password=f"guess {number}", REMOTE_ADDR=client_ip)
        else:
            thief = signed_in_browser(alice)
            thief.post(REAUTHENTICATE, {"password": f"guess {number}"}, REMOTE_ADDR=client_ip)
    browser = Client()
    response = log_in(browser)
    assert who_is_in(browser) is None
    assert "Too many attempts" in response.text
    thief = signed_in_browser(alice)
    assert "Too many" in thief.post(REAUTHENTICATE, {"password": PASSWORD}).text
    assert not is_fresh(thief)
    with later(timedelta(minutes=6)):
        log_in(browser)
        assert who_is_in(browser), "the owner is not locked out for ever"


def test_an_owner_locked_out_by_attempts_of_others_can_log_in_by_mail(alice, mailoutbox):
    prove(alice)
    for number in range(20):
        log_in(Client(), password=f"guess {number}", REMOTE_ADDR=CLIENT_IPS[number])
    browser = Client()
    log_in(browser)
    assert who_is_in(browser) is None
    with_code(browser, alice, mailoutbox)
    assert who_is_in(browser) == str(alice.pk)


def test_attempts_at_the_old_password_are_limited_in_every_session(alice):
    statuses = []
    for number in range(12):
        thief = signed_in_browser(alice)
        passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        response = thief.post(
            "/account/password/change", {"oldpassword": f"guess {number}", **passwords}
        )
        statuses.append(response.status_code)
    assert statuses == [200] * 5 + [429] * 7
    assert int(response["Retry-After"]) > 0
    assert "in a few minutes" in response.text


def test_success_with_ones_own_factor_does_not_reset_the_limit_of_other_accounts(
    alice, mallory, django_capture_on_commit_callbacks
):
    """Ten a minute per client IP, whatever else is requested in between."""
    prove(mallory)
    mallorys = signed_in_browser(mallory, ago=timedelta())
    evaluated = 0
    with django_capture_on_commit_callbacks(execute=True):
        for number in range(24):
            response = log_in(Client(), f"person{number}@example.org", "a common password")
            evaluated += "is incorrect" in response.text
            if number % 8 == 7:
                set_up_app(mallorys)
                mallorys.post("/account/factors/app/deactivate")
    assert evaluated <= 10


# --- Login codes -----------------------------------------------------------------------------


def test_a_login_code_is_long_and_unambiguous(alice, mailoutbox):
    for _ in range(3):
        ask_for_code(Client())
    codes = {code_in(mail.body) for mail in mailoutbox}
    assert len(codes) == 3
    for code in codes:
        assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", code)


def test_three_wrong_codes_invalidate_the_right_one(alice, mailoutbox):
    prove(alice)
    browser = Client()
    ask_for_code(browser)
    code = code_in(mailoutbox[-1].body)
    for _ in range(3):
        response = confirm_code(browser, altered(code))
    assert response["Location"] == "/login/code"
    assert "Too many" in browser.get("/login/code").text
    assert confirm_code(browser, code)["Location"] == "/login/code"
    assert who_is_in(browser) is None


def test_resending_a_code_gives_no_further_attempts(alice, mailoutbox):
    prove(alice)
    browser = Client()
    ask_for_code(browser)
    for _ in range(2):
        confirm_code(browser, altered(code_in(mailoutbox[-1].body)))
        confirm_code(browser, "", action="resend")
    confirm_code(browser, altered(code_in(mailoutbox[-1].body)))
    confirm_code(browser, code_in(mailoutbox[-1].body))
    assert who_is_in(browser) is None
    assert len(mailoutbox) == 3


def test_several_browsers_get_no_more_codes_than_one(alice, mailoutbox):
    prove(alice)
    for client_ip in CLIENT_IPS[:20]:
        browser = Client()
        response = browser.post(
            "/login/code", {"email": "Alice@example.org"}, REMOTE_ADDR=client_ip
        )
    assert len(mailoutbox) == 3
    assert "Too many" in response.text


def test_a_login_code_is_valid_once_in_its_browser_for_minutes(alice, mailoutbox):
    prove(alice)
    first, second, slow = Client(), Client(), Client()
    ask_for_code(first)
    code = code_in(mailoutbox[-1].body)
    ask_for_code(second)
    assert confirm_code(second, code).status_code == 200
    assert who_is_in(second) is None
    confirm_code(first, code)
    assert who_is_in(first)
    first.post("/logout")
    confirm_code(first, code)
    assert who_is_in(first) is None
    ask_for_code(slow)
    with later(timedelta(minutes=4)):
        confirm_code(slow, code_in(mailoutbox[-1].body))
        assert who_is_in(slow) is None


def test_a_new_code_invalidates_the_previous_one(alice, mailoutbox):
    prove(alice)
    browser = Client()
    ask_for_code(browser)
    confirm_code(browser, "", action="resend")
    confirm_code(browser, code_in(mailoutbox[0].body))
    assert who_is_in(browser) is None
    confirm_code(browser, code_in(mailoutbox[1].body))
    assert who_is_in(browser)


def test_a_malformed_code_is_refused(alice):
    prove(alice)
    nothing = ["", "-", " ", "-- ", "\0", "ＢＢＢＢ-ＢＢＢＢ", "B" * 100_000]
    for email, code in itertools.product(["alice@example.org", "nobody@example.org"], nothing):
        cache.clear()
        browser = Client()
        ask_for_code(browser, email)
        assert confirm_code(browser, code).status_code == 200
        assert who_is_in(browser) is None


# --- Verification codes ----------------------------------------------------------------------


@pytest.mark.usefixtures("with_mail")
def test_a_verification_code_has_three_attempts_however_often_it_is_sent(db, mailoutbox):
    browser = Client()
    sign_up(browser, "nora@example.org")
    for _ in range(2):
        wrong_confirmation(browser, "")
        cache.clear()
        resend_confirmation(browser, "")
    wrong_confirmation(browser, "")
    browser.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert who_is_in(browser) is None
    assert not EmailAddress.objects.filter(verified=True).exists()


@pytest.mark.usefixtures("with_mail")
def test_several_browsers_get_no_more_verification_codes_than_one(db, mailoutbox):
    sign_up(Client(), "nora@example.org")
    for client_ip in CLIENT_IPS[:10]:
        response = log_in(Client(), "nora@example.org", REMOTE_ADDR=client_ip)
    assert len(mailoutbox) <= 5
    assert response.status_code == 429 or "Too many" in response.text


# --- Codes for logged-in users ---------------------------------------------------------------


def test_reauthentication_codes_are_limited_across_sessions(alice, mailoutbox, with_mail):
    prove(alice)
    for _ in range(10):
        response = signed_in_browser(alice).post(BY_MAIL, {"send": "1"})
    assert len(mailoutbox) == 6
    assert "Try again in an hour" in response.text
    with later(timedelta(minutes=61)):
        signed_in_browser(alice).post(BY_MAIL, {"send": "1"})
    assert len(mailoutbox) == 7


def test_attempts_at_reauthentication_codes_are_limited_across_sessions(
    alice, mailoutbox, with_mail
):
    prove(alice)
    seen = []
    for _ in range(5):
        thief = signed_in_browser(alice)
        thief.post(BY_MAIL, {"send": "1"})
        seen += [thief.post(BY_MAIL, {"code": "WRONG-CODE"}) for _ in range(3)]
    assert [response.status_code for response in seen].count(200) <= 10
    assert seen[-1].status_code == 429
    assert int(seen[-1]["Retry-After"]) > 0


def test_a_code_for_one_purpose_is_refused_for_another(alice, mailoutbox, with_mail):
    prove(alice)
    browser = signed_in_browser(alice, ago=timedelta())
    request_email_change(browser)
    to_change = code_in(mailoutbox[-1].body)
    show_who(browser, alice, ago=LONG_AGO)
    browser.post(BY_MAIL, {"code": to_change})
    assert not is_fresh(browser)

    browser = signed_in_browser(alice, ago=timedelta())
    request_email_change(browser)
    browser.post(BY_MAIL, {"send": "1"})
    to_show = code_in(mailoutbox[-1].body)
    sent = len(mailoutbox)
    browser.post(APPROVE, {"code": to_show})
    assert len(mailoutbox) == sent, "the new address was asked"

    signing_in = Client()
    ask_for_code(signing_in)
    to_sign_in = code_in(mailoutbox[-1].body)
    thief = signed_in_browser(alice)
    thief.post(BY_MAIL, {"send": "1"})
    thief.post(BY_MAIL, {"code": to_sign_in})
    assert not is_fresh(thief)
    assert confirm_code(signing_in, code_in(mailoutbox[-1].body)).status_code == 200
    assert who_is_in(signing_in) is None


def test_a_code_of_one_session_is_refused_in_another(alice, mailoutbox, with_mail):
    prove(alice)
    her_browser, thief = signed_in_browser(alice), signed_in_browser(alice)
    thief.post(BY_MAIL, {"send": "1"})
    her_browser.post(BY_MAIL, {"send": "1"})
    thief.post(BY_MAIL, {"code": code_in(mailoutbox[-1].body)})
    assert not is_fresh(thief)
    her_browser.post(BY_MAIL, {"code": code_in(mailoutbox[-1].body)})
    assert is_fresh(her_browser)
    show_who(her_browser, alice, ago=LONG_AGO)
    her_browser.post(BY_MAIL, {"code": code_in(mailoutbox[-1].body)})
    assert not is_fresh(her_browser), "it was good once"


def test_a_code_for_one_new_email_approves_no_other(alice, mailoutbox, with_mail):
    """The mail names the new email that its code approves."""
    prove(alice)
    thief = signed_in_browser(alice, ago=timedelta())
    for _ in range(5):
        request_email_change(signed_in_browser(alice, ago=timedelta()))
    request_email_change(thief, "alice.new@example.org")
    assert "alice.new@example.org" in mailoutbox[-1].body
    code = code_in(mailoutbox[-1].body)
    # The hourly limit of codes is reached.
    request_email_change(thief, "m@evil.example")
    thief.post(APPROVE, {"code": code})
    assert "m@evil.example" not in {recipient for mail in mailoutbox for recipient in mail.to}


# --- After the email changed -----------------------------------------------------------------


def change_email(user: User, new: str) -> None:
    """The email changes in one of several ways; the former one can no longer log in."""
    EmailAddress.objects.filter(user=user).delete()
    user.email = new
    user.save()
    EmailAddress.objects.create(user=user, email=new, verified=True, primary=True)


def test_a_reset_link_expires_when_the_email_changes(alice, mailoutbox):
    prove(alice)
    browser = Client()
    request_reset(browser, alice.email)
    change_email(alice, "new@example.org")
    form = browser.get(link_in(mailoutbox[-1].body), follow=True)
    passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    browser.post(form.request["PATH_INFO"], passwords)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("mail", ["with", "without"])
def test_a_login_code_expires_when_the_email_changes(alice, mailoutbox, request, mail):
    """Alice leaves a mailbox that mallory reads; earlier codes must not log in."""
    if mail == "with":
        request.getfixturevalue("with_mail")
    prove(alice)
    mallorys = Client()
    ask_for_code(mallorys)
    change_email(alice, "new@example.org")
    confirm_code(mallorys, code_in(mailoutbox[-1].body))
    assert who_is_in(mallorys) is None
    mallorys.post(CONFIRM, {"code": code_in(mailoutbox[-1].body)})
    assert who_is_in(mallorys) is None
    assert [row.email for row in EmailAddress.objects.all()] == ["new@example.org"]
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


def test_an_approval_code_expires_when_the_email_changes(alice, mailoutbox, with_mail):
    prove(alice)
    thief = signed_in_browser(alice, ago=timedelta())
    request_email_change(thief, "m@evil.example")
    code = code_in(mailoutbox[-1].body)
    change_email(alice, "new@example.org")
    thief.post(APPROVE, {"code": code})
    assert "m@evil.example" not in {recipient for mail in mailoutbox for recipient in mail.to}


def test_a_reauthentication_code_expires_when_the_email_changes(alice, mailoutbox, with_mail):
    prove(alice)
    thief = signed_in_browser(alice)
    thief.post(BY_MAIL, {"send": "1"})
    change_email(alice, "new@example.org")
    thief.post(BY_MAIL, {"code": code_in(mailoutbox[-1].body)})
    assert not is_fresh(thief)


@pytest.mark.parametrize("is_verified", [True, False], ids=["verified", "unverified"])
def test_an_unverified_new_email_cannot_log_in_or_verify(alice, mailoutbox, with_mail, is_verified):
    """Requested before there was a mail server, or entered by staff: nobody has verified it."""
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True, verified=is_verified)
    EmailAddress.objects.create(user=alice, email="m@evil.example")
    mallorys = Client()
    ask_for_code(mallorys, "m@evil.example")
    if "Sign-In" in mailoutbox[-1].subject:
        confirm_code(mallorys, code_in(mailoutbox[-1].body))
    assert who_is_in(mallorys) is None
    mallorys.post("/logout")
    request_reset(mallorys, "m@evil.example")
    if "/password/reset/" in mailoutbox[-1].body:
        form = mallorys.get(link_in(mailoutbox[-1].body))
        passwords = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        mallorys.post(form["Location"], passwords)
    alice.refresh_from_db()
    assert alice.check_password(PASSWORD)
    assert EmailAddress.objects.get(email=alice.email).verified is is_verified
