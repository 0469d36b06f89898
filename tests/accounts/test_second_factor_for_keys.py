"""With KEYS_NEED_SECOND_FACTOR, a key is shown only after a second factor."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import User
from apikeys.models import APIKey
from tests.conftest import show_who
from tests.factories import add_app, app_code, log_in, set_up_app
from tests.oauth.conftest import Begin, Login, begin, confirm
from tests.webauthn import Passkey, at_localhost, log_in_with

__all__ = ["begin"]


@pytest.fixture(autouse=True)
def _reauthentication_redirect(settings):
    settings.KEYS_NEED_SECOND_FACTOR = True


def generate(client: Client):
    return client.post("/keys/generate", {"name": "studio", "nonce": str(uuid4())})


def log_in_with_app(user: User) -> Client:
    secret = add_app(user)
    client = Client()
    log_in(client)
    client.post("/login/factor", {"code": app_code(secret)})
    return client


def test_a_password_alone_does_not_show_a_key_and_the_page_explains_why(alice):
    log_in(client := Client())
    response = generate(client)
    assert response["Location"] == "/account/factors"
    assert "requires two-factor authentication for API keys" in client.get("/account/factors").text
    assert not APIKey.objects.exists()
    assert client.get("/keys/").status_code == 200, "all else goes on"


def test_a_second_factor_in_this_session_shows_a_key(alice):
    client = log_in_with_app(alice)
    assert "comfyui-" in generate(client).text
    assert APIKey.objects.count() == 1


def test_a_passkey_alone_shows_a_key(alice):
    client = at_localhost()
    log_in_with(Passkey(alice), client)
    assert generate(client).status_code == 200
    assert APIKey.objects.count() == 1


def test_a_factor_that_is_set_up_but_unused_does_not_show_a_key(alice):
    client = Client()
    log_in(client)
    secret = set_up_app(client)
    response = generate(client)
    assert response["Location"] == "/account/reauthenticate/factor?next=%2Fkeys%2F%3Fnew%3D1"
    assert not APIKey.objects.exists()
    back = client.post(
        response["Location"], {"code": app_code(secret), "next": "/keys/?new=1"}, follow=True
    )
    assert "already" in back.text, "the code was used to set the app up"
    cache.clear()
    back = client.post(
        response["Location"], {"code": app_code(secret), "next": "/keys/?new=1"}, follow=True
    )
    assert 'value="studio"' in back.text, "what was typed is kept"
    assert generate(client).status_code == 200


def test_an_account_with_only_a_passkey_is_asked_for_it(alice):
    Passkey(alice)
    client = Client(headers={"host": "localhost"})
    client.force_login(alice)
    show_who(client, alice)
    assert generate(client)["Location"].startswith("/account/reauthenticate/passkey?")


def test_an_old_factor_proof_requires_reauthentication(alice):
    client = log_in_with_app(alice)
    show_who(client, alice, ago=timedelta(hours=13), method="mfa", type="totp")
    assert generate(client)["Location"].startswith("/account/reauthenticate?")


def test_rotating_a_key_requires_a_second_factor(alice, issue):
    key, _token = issue("studio")
    log_in(client := Client())
    for method in ("get", "post"):
        response = getattr(client, method)(f"/keys/{key.pk}/roll", {"nonce": str(uuid4())})
        assert response["Location"] == "/account/factors"
    assert APIKey.objects.count() == 1


@pytest.mark.parametrize("path", ["/customers/api-keys", "/customers/api-keys/{key}/roll"])
def test_the_api_with_a_page_session_requires_a_second_factor(alice, issue, path):
    key, _token = issue("studio")
    log_in(client := Client())
    response = client.post(
        path.format(key=key.pk), json.dumps({"name": "x"}), content_type="application/json"
    )
    assert (response.status_code, response.json()["error"]) == (403, "SECOND_FACTOR_REQUIRED")
    assert "Create the key on the API keys page" in response.json()["message"]
    assert APIKey.objects.count() == 1


def test_an_extension_with_a_page_session_requires_a_second_factor(alice, issue):
    key, _token = issue("studio", allowed_networks=["203.0.113.0/24"])
    log_in(client := Client())
    body = json.dumps({"allowed_networks": []})
    path = f"/customers/api-keys/{key.pk}"
    response = client.patch(path, body, content_type="application/json")
    assert (response.status_code, response.json()["error"]) == (403, "SECOND_FACTOR_REQUIRED")
    assert "Change the key on its page" in response.json()["message"]


def test_the_device_and_oauth_grants_require_a_second_factor(alice, begin: Begin):
    waiting = begin()
    log_in(client := Client())
    for response in (
        client.post("/device", {"user_code": waiting.user_code}),
        client.post("/device", {"user_code": waiting.user_code, "decision": "confirm"}),
        client.get(Login().url()),
        Login().approve(client),
    ):
        assert response["Location"] == "/account/factors"
    assert waiting.poll().json()["error"] == "authorization_pending"
    confirm(log_in_with_app(alice), waiting.user_code)
    waiting.age_poll()
    assert waiting.poll().status_code == 200
    assert APIKey.objects.count() == 1


def test_by_default_no_second_factor_is_required(alice, settings):
    settings.KEYS_NEED_SECOND_FACTOR = False
    log_in(client := Client())
    assert generate(client).status_code == 200
