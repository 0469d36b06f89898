"""Cross-site requests."""

from urllib.parse import urlsplit

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.socialaccount.models import SocialAccount
from django.conf import settings as django_settings
from django.test import Client
from django.urls import reverse

import accounts.urls
from accounts.models import User
from tests.accounts.attacks import (
    BY_MAIL,
    RESET,
    urlpatterns,
)
from tests.conftest import show_who
from tests.factories import (
    add_app,
    is_in,
    prove,
)
from tests.webauthn import (
    Passkey,
)


def posts() -> list[str]:
    values = {"uidb36": "1", "key": "set-password", "pk": "1", "session_id": "1"}
    return [_url(pattern, values) for pattern in urlpatterns[:2] + accounts.urls.urlpatterns]


def _url(pattern, values: dict[str, str]) -> str:
    names = pattern.pattern.regex.groupindex
    return reverse(
        pattern.name, args=[values[name] for name in names], urlconf="tests.accounts.attacks"
    )


@pytest.mark.urls("tests.accounts.attacks")
@pytest.mark.parametrize("visitor", ["anonymous", "alice"])
def test_a_cross_site_post_is_refused(alice, providers, visitor):
    there = posts()
    assert {"/login", "/login/code/confirm", "/login/passkey", "/language", "/logout"} <= {*there}
    client = Client(enforce_csrf_checks=True)
    if visitor == "alice":
        client.force_login(alice)
        show_who(client, alice)
    taken = {url: client.post(url).status_code for url in there}
    assert set(taken.values()) == {403}, taken
    # A CSRF token of another browser is refused.
    alien = Client().get("/login").cookies[django_settings.CSRF_COOKIE_NAME].value
    for url in there:
        response = client.post(url, {"csrfmiddlewaretoken": alien})
        assert response.status_code == 403, url


@pytest.mark.parametrize("provider", ["google", "github"])
def test_a_get_request_alone_does_not_redirect_to_a_provider(providers, provider):
    for process in ("login", "connect", "redirect"):
        response = Client().get(f"/account/logins/{provider}/login/", {"process": process})
        assert not urlsplit(response.get("Location", "")).netloc
        assert 'method="post"' in response.text or process == "connect"


def test_get_requests_change_nothing(alice, providers, mailoutbox):
    prove(alice)
    login = SocialAccount.objects.create(user=alice, provider="google", uid="g-1")
    add_app(alice)
    RecoveryCodes.activate(alice)
    passkey = Passkey(alice).row
    client = Client()
    client.force_login(alice)
    show_who(client, alice)
    for url in (
        "/logout?next=/",
        f"/account/logins?account={login.pk}",
        "/account/factors/app/deactivate",
        "/account/factors/recovery-codes/generate",
        f"/account/factors/passkeys/{passkey.pk}/remove",
        f"/account/factors/passkeys/{passkey.pk}/rename?name=x",
        "/account/email?email=m@evil.example&action_add=1",
        f"/account/delete?email={alice.email}",
        f"{BY_MAIL}?send=1",
        "/account/sessions",
        "/language?language=ja",
        "/login/code?email=alice@example.org",
        f"{RESET}?email=alice@example.org",
    ):
        assert client.get(url).status_code in {200, 302, 405}, url
    assert is_in(client)
    assert mailoutbox == []
    assert SocialAccount.objects.count() == 1
    assert Authenticator.objects.count() == 3
    assert User.objects.get(pk=alice.pk).language == ""
