"""A login method can be removed only if another one is left."""

import threading
from datetime import timedelta
from functools import partial

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.socialaccount.models import SocialAccount, SocialApp
from django.db import connection
from django.test import Client

from accounts.models import User
from tests.accounts.attacks import signed_in_browser
from tests.conftest import PASSWORD
from tests.factories import add_app, log_in, prove
from tests.webauthn import Passkey, at_localhost, log_in_with

fresh_browser = partial(signed_in_browser, ago=timedelta(minutes=1))

LAST = "This is your only way to log in."


@pytest.fixture
def without_password(alice) -> User:
    alice.set_unusable_password()
    alice.save()
    for provider in ("google", "github"):
        SocialApp.objects.create(provider=provider, name=provider, client_id="i", secret="s" * 40)
    return alice


def connect(user: User, provider: str, **given: int) -> SocialAccount:
    return SocialAccount.objects.create(user=user, provider=provider, uid=f"{user.pk}", **given)


def disconnect(user: User, login: SocialAccount) -> str:
    return fresh_browser(user).post("/account/logins", {"account": login.pk}, follow=True).text


def remove(user: User, passkey: Passkey) -> str:
    page = f"/account/factors/passkeys/{passkey.row.pk}/remove"
    return fresh_browser(user).post(page, follow=True).text


def login_methods_left(user: User) -> int:
    return (
        SocialAccount.objects.filter(user=user).count()
        + Authenticator.objects.filter(user=user, type="webauthn").count()
    )


def test_the_last_passkey_cannot_be_removed_after_google(without_password):
    google, passkey = connect(without_password, "google"), Passkey(without_password)
    assert LAST not in disconnect(without_password, google)
    assert LAST in remove(without_password, passkey)
    assert login_methods_left(without_password) == 1
    client = at_localhost()
    log_in_with(passkey, client)
    assert client.session["_auth_user_id"] == str(without_password.pk)


def test_the_last_login_cannot_be_removed_after_the_passkey(without_password):
    google, passkey = connect(without_password, "google"), Passkey(without_password)
    assert LAST not in remove(without_password, passkey)
    assert LAST in disconnect(without_password, google)
    assert login_methods_left(without_password) == 1


def test_equal_primary_keys_of_logins_and_passkeys_are_not_confused(without_password):
    passkey = Passkey(without_password)
    google = connect(without_password, "google", pk=passkey.row.pk)
    assert LAST not in disconnect(without_password, google)
    assert LAST in remove(without_password, passkey)
    google = connect(without_password, "google", pk=passkey.row.pk)
    assert LAST not in remove(without_password, passkey)
    assert LAST in disconnect(without_password, google)


@pytest.mark.parametrize("first", [0, 1])
def test_one_of_two_passkeys_can_be_removed(without_password, first):
    both = [Passkey(without_password), Passkey(without_password)]
    assert LAST not in remove(without_password, both[first])
    assert LAST in remove(without_password, both[1 - first])


@pytest.mark.parametrize("first", ["google", "github"])
def test_one_of_two_logins_can_be_disconnected(without_password, first):
    logins = {name: connect(without_password, name) for name in ("google", "github")}
    assert LAST not in disconnect(without_password, logins.pop(first))
    assert LAST in disconnect(without_password, *logins.values())


def test_a_login_with_a_provider_that_is_not_set_up_is_no_login_method(without_password):
    connect(without_password, "google")
    passkey = Passkey(without_password)
    SocialApp.objects.filter(provider="google").delete()
    assert LAST in remove(without_password, passkey)


def test_a_passkey_that_is_only_a_second_factor_is_no_login_method(without_password):
    google, passkey = connect(without_password, "google"), Passkey(without_password)
    made = passkey.row.data["credential"]
    made["clientExtensionResults"] = {"credProps": {"rk": False}}
    passkey.row.save()
    assert LAST in disconnect(without_password, google)


def test_an_authenticator_app_is_no_login_method(without_password):
    google = connect(without_password, "google")
    add_app(without_password)
    assert LAST in disconnect(without_password, google)


def test_a_password_is_a_login_method(without_password):
    google, passkey = connect(without_password, "google"), Passkey(without_password)
    without_password.set_password(PASSWORD)
    without_password.save()
    assert LAST not in remove(without_password, passkey)
    assert LAST not in disconnect(without_password, google)
    log_in(client := Client())
    assert client.session["_auth_user_id"] == str(without_password.pk)


def test_a_verified_email_is_a_login_method_with_a_mail_server(without_password, with_mail):
    prove(without_password)
    passkey = Passkey(without_password)
    assert LAST not in remove(without_password, passkey)


def test_an_unverified_email_is_no_login_method(without_password, with_mail):
    passkey = Passkey(without_password)
    assert LAST in remove(without_password, passkey)


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_removals_keep_one_login_method(without_password):
    google, passkey = connect(without_password, "google"), Passkey(without_password)
    pages = [
        ("/account/logins", {"account": google.pk}),
        (f"/account/factors/passkeys/{passkey.row.pk}/remove", {}),
    ]
    clients = [fresh_browser(without_password) for _ in pages]
    together = threading.Barrier(2)

    def press(number: int) -> None:
        try:
            together.wait()
            clients[number].post(*pages[number])
        finally:
            connection.close()

    threads = [threading.Thread(target=press, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert login_methods_left(without_password) == 1


# --- Passkeys as second factors --------------------------------------------------------------


def test_the_page_explains_login_methods_before_a_passkey_is_added(alice):
    client = fresh_browser(alice)
    client.defaults["HTTP_HOST"] = "localhost"
    for page in ("/account/factors", "/account/factors/passkeys/add"):
        assert "every other way to log in" in client.get(page).text


def test_an_account_with_only_a_passkey_is_asked_for_the_passkey_first(alice):
    Passkey(alice)
    client = at_localhost()
    log_in(client)
    page = client.get("/login/factor").text
    assert "authenticator app, or" not in page
    assert page.index("Use a passkey") < page.index('name="code"')
    assert "recovery code" in page
    client = Client()
    log_in(client)
    page = client.get("/login/factor").text
    assert "Passkeys need https and a domain name" in page, "no passkey is used at an IP address"
    assert 'name="code"' in page


def test_an_account_with_an_app_is_asked_for_its_code_first(alice):
    add_app(alice)
    client = at_localhost()
    log_in(client)
    page = client.get("/login/factor").text
    assert "Use a passkey" not in page, "there is none"
    Passkey(alice)
    page = client.get("/login/factor").text
    assert page.index('name="code"') < page.index("Use a passkey")


def test_an_account_without_an_app_is_not_asked_for_its_code(alice):
    Passkey(alice)
    RecoveryCodes.activate(alice)
    client = fresh_browser(alice)
    client.defaults["HTTP_HOST"] = "localhost"
    page = client.get("/account/reauthenticate").text
    assert "Use your authenticator app" not in page
    assert "Use a recovery code" in page
    add_app(alice)
    assert "Use your authenticator app" in client.get("/account/reauthenticate").text


def test_a_login_with_a_provider_that_is_not_set_up_is_listed(alice, signed_in):
    SocialAccount.objects.create(
        user=alice, provider="github", uid="1", extra_data={"login": "alice-at-github"}
    )
    for page in ("/account/logins", "/account/"):
        response = signed_in(alice).get(page)
        assert response.status_code == 200, page
        assert "GitHub" in response.text
