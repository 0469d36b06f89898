"""URLs of login providers: https only, and either all four of Google or none."""

import json

import pytest

from tests.config.test_environment import start

GOOGLE = {
    "GOOGLE_AUTHORIZE_URL": "https://login.example/authorize",
    "GOOGLE_TOKEN_URL": "https://login.example/token",
    "GOOGLE_USERINFO_URL": "https://login.example/userinfo",
    "GOOGLE_ISSUER": "https://login.example",
}
HARMFUL = [
    "http://login.example/x",
    "http://127.0.0.1.evil.example/x",
    "http://localhost@evil.example/x",
    "ftp://login.example/x",
    "login.example/x",
    "https://",
    "https://[::1/x",
    "https://login.example:99999/x",
    "https://user:password@login.example/x",
    "https://login.example/x?y=1",
    "https://login.example/ x",
]


def test_four_urls_replace_those_of_google(tmp_path):
    started = start(tmp_path, "SOCIALACCOUNT_PROVIDERS", **GOOGLE)
    shown = json.loads(started.stdout.replace("'", '"').replace("True", "true"))["google"]
    assert {
        shown["AUTHORIZE_URL"],
        shown["ACCESS_TOKEN_URL"],
        shown["IDENTITY_URL"],
        shown["ID_TOKEN_ISSUER"],
    } == set(GOOGLE.values())


@pytest.mark.parametrize("left_out", GOOGLE)
def test_a_missing_url_is_reported(tmp_path, left_out):
    given = {name: url for name, url in GOOGLE.items() if name != left_out}
    started = start(tmp_path, **given)
    assert started.returncode == 1
    assert f"  {left_out}: is missing" in started.stderr
    assert started.stderr.count("is missing") == 1


def test_the_other_three_urls_are_reported_if_one_is_set(tmp_path):
    started = start(tmp_path, GOOGLE_TOKEN_URL=GOOGLE["GOOGLE_TOKEN_URL"])
    assert started.stderr.count("is missing") == 3


@pytest.mark.parametrize("name", [*GOOGLE, "GITHUB_URL"])
def test_a_provider_url_with_http_is_refused(tmp_path, name):
    started = start(tmp_path, **{**GOOGLE, name: HARMFUL[0]})
    assert started.returncode == 1
    assert f"  {name}: must begin with https://" in started.stderr


@pytest.mark.parametrize("url", HARMFUL)
def test_an_unsafe_provider_url_is_reported(tmp_path, url):
    started = start(tmp_path, GITHUB_URL=url)
    assert started.returncode == 1
    assert "  GITHUB_URL: must " in started.stderr
    assert "Traceback" not in started.stderr
    assert "password@" not in started.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_provider_on_this_machine_may_use_http(tmp_path, host):
    here = f"http://{host}:9"
    given = {name: url.replace("https://login.example", here) for name, url in GOOGLE.items()}
    started = start(tmp_path, "GITHUB_URL", GITHUB_URL=f"{here}/", **given)
    assert started.stdout.strip() == here
