"""The page on how to connect ComfyUI, with the test of a key."""

import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from apikeys import services, tokens, usage
from apikeys.connect_views import SYSTEMS
from apikeys.key_hasher import key_hasher
from apikeys.models import Reason
from core.exceptions import HashingBusy
from tests.factories import generate_key

ROOT = Path(__file__).parents[2]


def tried(client, key):
    response = client.post("/connect", {"key": key})
    assert key not in response.text
    return response


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
        "COMFY_BUILDER_URL=https://keys.example",
        "COMFY_DEPLOY_URL=https://keys.example",
        "comfy run --where local",
    ):
        assert flag in page


@pytest.mark.parametrize(("https", "warned"), [(True, False), (False, True)])
def test_a_platform_without_https_says_what_that_costs(client, settings, https, warned):
    settings.HTTPS = https
    assert ("send your key to comfy.org. Use a frontend" in client.get("/connect").text) is warned


def upgrades(text: str) -> list[str]:
    """How the page or file names the frontend to install: `-U comfyui-frontend-package==1.50.*`."""
    return re.findall(r'pip install [^\n<`]*comfyui-frontend-package[^\s"`<]*', unescape(text))


def test_the_frontend_is_upgraded_before_the_flags(client, settings):
    settings.HTTPS = True
    for text in (client.get("/connect").text, (ROOT / "README.md").read_text()):
        assert "1.45.19" in text
        assert "api.comfy.org" in text
        assert 0 < text.index("comfyui-frontend-package") < text.index("--feature-flag")


def test_no_page_offers_the_newest_frontend_without_https(client, alice, signed_in, settings):
    settings.HTTPS = False
    signed = signed_in(alice)
    for page in (
        client.get("/connect"),
        signed.get("/connect"),
        client.post("/connect", {"key": "comfyui-"}),
        signed.get("/keys/"),
        generate_key(signed),
        client.get("/", follow=True),
        client.get("/device", follow=True),
    ):
        assert page.status_code == 200
        offered = upgrades(page.text)
        assert all(one.endswith("comfyui-frontend-package==1.50.*") for one in offered), offered
        assert "newest frontend" not in page.text
    assert set(upgrades(client.get("/connect").text)) == {
        'pip install -U "comfyui-frontend-package==1.50.*'
    }
    settings.HTTPS = True
    assert set(upgrades(client.get("/connect").text)) == {"pip install -U comfyui-frontend-package"}
    # No template names the package: the view alone decides which version is offered.
    templates = [path for path in (ROOT / "templates").rglob("*") if path.is_file()]
    assert [path for path in templates if "frontend-package" in path.read_text()] == []


def selected(response):
    """Return the systems whose sections are shown, and those whose tab is marked."""
    sections = re.findall(r'id="(\w+)"[^>]* data-selected', response.text)
    tabs = re.findall(r'data-panel="(\w+)" aria-current', response.text)
    assert sections == tabs
    return sections


@pytest.mark.parametrize(
    ("agent", "system"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/140", "portable"),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/140", "local"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605", "desktop"),
        ("", "local"),
    ],
)
def test_the_first_system_is_that_of_the_browser(client, db, agent, system):
    assert selected(client.get("/connect", headers={"User-Agent": agent})) == [system]


def test_the_chosen_system_is_remembered(client, db, settings):
    chosen = client.get("/connect", {"system": "docker"})
    assert selected(chosen) == ["docker"]
    cookie = chosen.cookies[settings.CONNECT_COOKIE_NAME]
    assert (cookie.value, cookie["httponly"], cookie["samesite"]) == ("docker", True, "Lax")
    assert selected(client.get("/connect")) == ["docker"]
    # Also after the test of a key.
    assert selected(client.post("/connect", {"key": "comfyui-"})) == ["docker"]


def test_an_unknown_system_is_not_remembered(client, db, settings):
    client.cookies[settings.CONNECT_COOKIE_NAME] = "amiga"
    response = client.get("/connect", {"system": "<b>"})
    assert selected(response) == ["local"]
    assert not response.cookies.get(settings.CONNECT_COOKIE_NAME)


def test_every_system_has_numbered_steps_and_the_test_comes_last(client, db):
    page = client.get("/connect").text
    for system in SYSTEMS:
        section = page[page.index(f'id="{system}" aria') :].partition("</section>")[0]
        assert section.count("<li>") >= 3
    assert page.rindex("<section") == page.index('<section class="panel" id="test"')


def test_the_page_says_why_comfyui_forgot_a_key(client):
    page = client.get("/connect").text
    assert "ComfyUI forgot your key?" in page
    assert 'href="#test"' in page


def test_a_key_that_is_tried_was_not_used(client, alice, issue):
    key, token = issue("studio-pc")
    assert "This key is valid" in tried(client, token.reveal()).text
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is None
    # A validation over REST is one.
    response = client.post("/api/v1/keys/validate", headers={"X-API-Key": token.reveal()})
    assert response.status_code == 200
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_a_good_key_is_called_by_its_name(client, good):
    response = tried(client, f"  {good}\n")
    assert response.status_code == 200
    assert "This key is valid: “studio-pc”" in response.text


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda key: "sk-proj-abc", "start with comfyui-"),
        (lambda key: key[:-1], "it has 71 characters instead of 72"),
        (lambda key: key + key, "has 144 characters"),
        (lambda key: key.upper().replace("COMFYUI", "comfyui"), "lowercase letters a to f"),
        (lambda key: key[:-1] + "o", "lowercase letters a to f"),
        (
            lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
            "has a typo",
        ),
        (lambda key: tokens.make(tag_key=b"x" * 32).reveal(), "unknown on this site"),
        (
            lambda key: tokens.make(tag_key=key_hasher().tag_keys[0]).reveal(),
            "unknown on this site",
        ),
        (lambda key: "", "required"),
        (lambda key: "comfyui-<script>alert(1)</script>", "characters instead of 72"),
        (lambda key: "x" * 5000, "at most 4096"),
    ],
)
def test_an_invalid_key_gets_its_error(client, good, made, words):
    response = client.post("/connect", {"key": made(good)})
    assert response.status_code == 200
    assert words in response.text
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    ("end", "words"),
    [("deleted", "was deleted"), ("expired", "has expired"), ("disabled", "account of this key")],
)
def test_a_former_key_gets_the_reason(client, alice, issue, end, words):
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
    response = Client(raise_request_exception=False).post("/connect", {"key": good})
    assert response.status_code == 500
    assert good[20:] not in caplog.text + response.text


def test_a_platform_that_is_too_busy_says_neither_good_nor_bad(client, good, monkeypatch):
    def busy(*_args: object, **_options: object) -> None:
        raise HashingBusy

    monkeypatch.setattr(services, "validate", busy)
    response = tried(client, good)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert "check this right now" in response.text


def test_the_hosted_platforms_address_leads_to_the_keys(client):
    assert client.get("/profile/api-keys").url == "/keys/"
