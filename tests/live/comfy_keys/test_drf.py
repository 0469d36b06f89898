"""A Django REST framework site under a real server accepts the keys of a real platform."""

import subprocess
import sys
import time

import pytest
import requests

from tests.factories import invented_key
from tests.live.comfy_keys.conftest import SOURCES, application, fixed_server, http_answer
from tests.live.comfy_keys.test_client import delete, issue
from tests.live.conftest import join
from tests.platforms import ROOT, free_port


@pytest.fixture(scope="module")
def site(running, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    target = "tests.live.comfy_keys.django_site:application"
    with application("wsgi", target, folder, KEYS_URL=running.url) as url:
        yield url


@pytest.fixture
def alice(running):
    return join(running, keys=1)


def get(site, path, **headers):
    return requests.get(
        f"{site}/{path}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=30,
    )


@pytest.mark.parametrize("header", ["x-api-key", "X-API-Key", "authorization"])
def test_a_valid_key_authenticates_its_owner(site, alice, header):
    token = alice.keys[0].token
    answer = get(site, "me", **{header: f"Bearer {token}" if header == "authorization" else token})
    assert answer.status_code == 200
    answered = answer.json()
    assert answered["email"] == alice.email
    assert answered["id"] == answered["pk"]
    assert alice.keys[0].secret not in answer.text


def test_x_api_key_takes_precedence(site, alice):
    token = alice.keys[0].token
    assert get(site, "me", X_API_Key=token, Authorization="Bearer typo").status_code == 200
    assert get(site, "me", X_API_Key="typo", Authorization=f"Bearer {token}").status_code == 401


@pytest.mark.parametrize("blank", ["", ", "])
def test_an_empty_or_blank_header_counts_as_absent(site, alice, blank):
    bearer = f"Bearer {alice.keys[0].token}"
    assert get(site, "me", X_API_Key=blank, Authorization=bearer).status_code == 200
    assert get(site, "me", X_API_Key=blank).status_code == 401
    assert get(site, "anybody", X_API_Key=blank).json() == {"user": "None"}


def test_without_a_key_the_answer_names_the_header(site):
    for headers in {}, {"Authorization": "Basic YTpi"}:
        answer = get(site, "me", **headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert get(site, "anybody").json() == {"user": "None"}


def test_a_key_in_the_url_is_not_accepted(site, alice):
    token = alice.keys[0].token
    for name in "api_key", "key", "X-API-Key", "access_token":
        assert get(site, f"me?{name}={token}").status_code == 401


def test_an_invalid_key_is_401_with_the_platforms_message(site, running, alice):
    (key,) = alice.keys
    deleted_at = delete(running, key)
    time.sleep(max(0.0, deleted_at + 0.5 - time.monotonic()))
    for token, words in (
        (key.token, "was deleted"),
        ("typo", "complete API key"),
        (invented_key(), "unknown"),
    ):
        for path in "me", "openai", "anybody":
            answer = get(site, path, X_API_Key=token)
            assert answer.status_code == 401
            assert words in answer.json()["detail"]
            assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")


def test_scopes_permit_their_views(site, running, alice):
    everything = alice.keys[0].token
    sign_in = issue(running, alice.email, name="a", scopes=["customers:read"])
    openai = issue(running, alice.email, name="b", scopes=["proxy:openai"])
    runway = issue(running, alice.email, name="c", scopes=["proxy:runway"])
    manager = issue(running, alice.email, name="d", scopes=["keys:manage"])
    passes = {
        path: [
            get(site, path, X_API_Key=key).status_code
            for key in (everything, sign_in, openai, runway, manager)
        ]
        for path in ("openai", "either")
    }
    assert passes == {
        "openai": [200, 403, 200, 403, 403],
        "either": [200, 403, 200, 403, 200],
    }
    refusal = get(site, "openai", X_API_Key=runway)
    assert "doesn't have the scope proxy:openai" in refusal.json()["detail"]
    assert get(site, "openai").status_code == 401


@pytest.mark.parametrize("away", ["nobody listens", "it says 503", "it hangs"])
def test_without_an_answer_of_the_platform_it_is_503_with_retry_after(away, tmp_path, caplog):
    unavailable = http_answer("503 Service Unavailable", Retry_After="0")
    with fixed_server(unavailable, hang=away == "it hangs") as seen:
        url = f"http://127.0.0.1:{free_port()}" if away == "nobody listens" else seen.url
        key = invented_key()
        with application(
            "wsgi",
            "tests.live.comfy_keys.django_site:application",
            tmp_path,
            KEYS_URL=url,
            SITE_DEBUG="1",
        ) as site:
            answer = get(site, "me", X_API_Key=key)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == ("1" if away == "it says 503" else "5")
            assert "WWW-Authenticate" not in answer.headers
            assert key[20:] not in answer.text
        assert key[20:] not in (tmp_path / "site.log").read_text()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "COMFY_KEYS needs"),
        ({"URL": "http://192.168.1.5"}, "allow_http"),
        ({"URL": "https://a.example", "CASHE_FOR": 1}, "CASHE_FOR"),
    ],
)
def test_wrong_settings_are_reported(given, words):
    program = f"""
from django.conf import settings
settings.configure(COMFY_KEYS={given!r}, REST_FRAMEWORK={{"UNAUTHENTICATED_USER": None}})
import django; django.setup()
from django.core.exceptions import ImproperlyConfigured
from comfy_keys import drf
try:
    drf.client()
except ImproperlyConfigured as error:
    print(error)
"""
    answered = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in answered.stdout
