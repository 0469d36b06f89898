"""The page that points a ComfyUI here, and says what is wrong with a key."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from apikeys import services, tokens
from apikeys.hashing import Busy
from apikeys.models import Reason


def tried(client, key):
    answer = client.post("/connect", {"key": key})
    assert key not in answer.text
    return answer


@pytest.fixture
def good(issue):
    return issue("studio-pc")[1].reveal()


@pytest.mark.parametrize("who", ["anybody", "alice"])
def test_the_commands_have_this_platforms_address_in_them(who, alice, client, signed_in, settings):
    settings.PUBLIC_URL = "https://keys.example"
    page = (signed_in(alice) if who == "alice" else client).get("/connect").text
    for flag in (
        "--comfy-api-base https://keys.example",
        "--feature-flag comfy_api_base_url=https://keys.example",
        "--feature-flag comfy_platform_base_url=https://keys.example",
        "--feature-flag comfy_cloud_base_url=https://keys.example",
        "--feature-flag show_signin_button=true",
        "COMFY_API_BASE_URL=https://keys.example",
        "COMFY_CLOUD_BASE_URL=https://keys.example",
    ):
        assert flag in page


@pytest.mark.parametrize(("https", "warned"), [(True, False), (False, True)])
def test_a_platform_without_https_says_what_that_costs(client, settings, https, warned):
    settings.HTTPS = https
    assert ("your key would be sent there" in client.get("/connect").text) is warned


def test_a_good_key_is_called_by_its_name(client, good):
    answer = tried(client, f"  {good}\n")
    assert answer.status_code == 200
    assert "This key is good: it is “studio-pc”" in answer.text


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda key: "sk-proj-abc", "begin with comfyui-"),
        (lambda key: key[:-1], "has 71 characters, and a key has 72"),
        (lambda key: key + key, "has 144 characters"),
        (lambda key: key.upper().replace("COMFYUI", "comfyui"), "small letters a to f"),
        (lambda key: key[:-1] + "o", "small letters a to f"),
        (
            lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
            "at least one character is wrong",
        ),
        (lambda key: tokens.make(tag_key=b"x" * 32).reveal(), "not known here"),
        (lambda key: tokens.make(tag_key=services.tag_keys()[0]).reveal(), "not known here"),
        (lambda key: "", "required"),
        (lambda key: "comfyui-<script>alert(1)</script>", "characters, and a key has 72"),
        (lambda key: "x" * 5000, "at most 4096"),
    ],
)
def test_a_key_that_does_not_work_hears_what_is_wrong(client, good, made, words):
    answer = client.post("/connect", {"key": made(good)})
    assert answer.status_code == 200
    assert words in answer.text
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize(
    ("end", "words"),
    [("deleted", "was deleted"), ("expired", "has expired"), ("disabled", "account of this key")],
)
def test_a_key_that_was_good_once_hears_what_became_of_it(client, alice, issue, end, words):
    key, token = issue(expires_at=timezone.now() - timedelta(days=1) if end == "expired" else None)
    if end == "deleted":
        services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    if end == "disabled":
        alice.is_active = False
        alice.save()
    assert words in tried(client, token.reveal()).text


def test_a_key_is_tried_and_nowhere_afterwards(client, good, caplog, monkeypatch):
    tried(client, good)
    assert good[20:] not in str(dict(client.session.items())) + caplog.text

    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(services, "validate", broken)
    answer = Client(raise_request_exception=False).post("/connect", {"key": good})
    assert answer.status_code == 500
    assert good[20:] not in caplog.text + answer.text


def test_a_platform_that_is_too_busy_says_neither_good_nor_bad(client, good, monkeypatch):
    def busy(*_args: object, **_options: object) -> None:
        raise Busy

    monkeypatch.setattr(services, "validate", busy)
    answer = tried(client, good)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "checked just now" in answer.text


def test_the_hosted_platforms_address_leads_to_the_keys(client):
    assert client.get("/profile/api-keys").url == "/keys/"
