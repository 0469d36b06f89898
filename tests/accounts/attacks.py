"""Helpers of tests that attack accounts.

Mallory has a browser, an account, and identities at Google and GitHub. A test of what mallory must
not get also checks that the owner gets it: otherwise a broken page would pass as a secure one.
"""

from datetime import timedelta
from typing import Any

from allauth.account import views as account_views
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.webauthn import views as webauthn_views
from allauth.socialaccount.models import SocialAccount
from django.conf import settings as django_settings
from django.test import Client
from django.urls import path

import config.urls
from accounts.models import User
from tests.conftest import show_who
from tests.factories import (
    add_app,
    app_code,
    ask_for_code,
    confirm_code,
    log_in,
)
from tests.mail_server import code_in
from tests.provider_session import continue_with
from tests.webauthn import (
    Passkey,
    log_in_with,
)

# The URLs with a mail server, as in config.urls.
handler400, handler403 = config.urls.handler400, config.urls.handler403
handler404, handler429 = config.urls.handler404, config.urls.handler429
handler500 = config.urls.handler500

urlpatterns = [
    path("signup/passkey", account_views.signup_by_passkey, name="account_signup_by_passkey"),
    path("signup/passkey/create", webauthn_views.signup_webauthn, name="mfa_signup_webauthn"),
    *config.urls.urlpatterns,
]


NEW_PASSWORD = "a staple, a battery and a horse"
RESET = "/account/password/reset"
CONFIRM = "/account/confirm-email"
REAUTHENTICATE = "/account/reauthenticate"
BY_FACTOR = f"{REAUTHENTICATE}/factor"
BY_MAIL = f"{REAUTHENTICATE}/mail"
APPROVE = "/account/email/approve"
LONG_AGO = django_settings.REAUTHENTICATION_GRACE + timedelta(minutes=1)


def case_name(value: Any) -> str:
    """Return the id of a test case that is a function."""
    return getattr(value, "__name__", str(value))


def with_password(client, alice, **_):
    return log_in(client)


def with_code(client, alice, mailoutbox, **_):
    ask_for_code(client)
    return confirm_code(client, code_in(mailoutbox[-1].body))


def with_factor(client, alice, **_):
    secret = add_app(alice)
    log_in(client)
    return client.post("/login/factor", {"code": app_code(secret)})


def with_recovery_code(client, alice, **_):
    add_app(alice)
    code = RecoveryCodes.activate(alice).get_unused_codes()[0]
    log_in(client)
    return client.post("/login/factor", {"code": code})


def with_passkey(client, alice, **_):
    return log_in_with(Passkey(alice), client)


def with_provider(client, alice, providers, **_):
    SocialAccount.objects.create(user=alice, provider="google", uid="g-1")
    return continue_with(client, providers.google(), "google")


LOGIN_METHODS = [
    with_password,
    with_code,
    with_factor,
    with_recovery_code,
    with_passkey,
    with_provider,
]


def wrong_password(client, email):
    return log_in(client, email, "not the password")


def request_reset(client, email):
    return client.post(RESET, {"email": email})


def wrong_confirmation(client, email):
    return client.post(CONFIRM, {"code": "WRONG-CODE"})


def resend_confirmation(client, email):
    return client.post(CONFIRM, {"action": "resend"})


# A new client IP each time, so that limits per IP alone would not count these.
CLIENT_IPS = [f"198.51.100.{number}" for number in range(1, 100)]


def signed_in_browser(user: User, *, ago: timedelta = LONG_AGO) -> Client:
    client = Client()
    client.force_login(user)
    show_who(client, user, ago=ago)
    return client


def is_fresh(client: Client) -> bool:
    response = client.get("/account/data")
    if response.status_code == 302:
        assert response["Location"] == f"{REAUTHENTICATE}?next=%2Faccount%2Fdata"
        return False
    assert response.status_code == 200
    # It is streamed, and occupies a slot until it was read.
    response.getvalue()
    return True


def request_email_change(client, new: str = "new@example.org"):
    return client.post("/account/email", {"email": new, "action_add": ""})
