"""Whole keys are refused in names and descriptions, and masked in logs."""

from urllib.parse import urlencode
from uuid import uuid4

import pytest
from allauth.mfa.models import Authenticator
from django.core.exceptions import ValidationError

from accounts.models import User
from apikeys import services
from apikeys.leaks.api import WELL_FORMED
from apikeys.models import APIKey
from audit.models import Action, Event
from core.text import contains_key, is_visible
from oauth.models import AuthorizationCode, DeviceRequest
from oauth.services import available_name
from tests.conftest import show_who

REFUSED = "contains a complete API key"
SECRET = "s" * 40

# As programs and people mangle what they paste.
PASTED = [
    "{}",
    "my key is {} and that is all",
    "<{}>",
    " {}\n",
    "\u200b{}",
]
MANGLED = [
    WELL_FORMED.upper(),
    WELL_FORMED.replace("-", "\u2011"),
    WELL_FORMED.replace("-", "\u2013"),
    WELL_FORMED[:40] + "\u200b" + WELL_FORMED[40:],
    WELL_FORMED[:40] + "\n" + WELL_FORMED[40:],
    WELL_FORMED[:40] + "\u00ad" + WELL_FORMED[40:],
    "".join(chr(ord(character) + 0xFEE0) for character in WELL_FORMED),
    WELL_FORMED[:-1],
]


@pytest.mark.parametrize("text", [*(form.format(WELL_FORMED) for form in PASTED), *MANGLED])
def test_a_key_is_seen_however_it_was_pasted(text):
    assert contains_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "studio-pc",
        "comfyui-5ca1ab1e0ddb…",
        "comfyui-5ca1ab1e0ddb",
        "comfyui-20261130120000",
        "comfyui-550e8400e29b41d4a716446655440000",
        "platform key for comfyui-studio " + "a" * 64,
    ],
)
def test_what_is_no_key_is_a_name(text):
    assert not contains_key(text)


@pytest.fixture
def pasted(issue) -> str:
    _key, token = issue("studio")
    return token.reveal()


@pytest.mark.parametrize("form", PASTED[:3])
def test_no_key_is_named_or_described_by_a_key(alice, pasted, form):
    for fields in ({"name": form.format(pasted)[:80]}, {"name": "x", "description": pasted}):
        with pytest.raises(ValidationError, match=REFUSED) as refused:
            services.issue(owner=alice, **fields)
        assert pasted[20:] not in str(refused.value)
    assert APIKey.objects.count() == 1


def test_comfyuis_own_call_is_refused_in_its_shape(alice, client, pasted, signed_in):
    response = signed_in(alice).post(
        "/customers/api-keys",
        {"name": pasted},
        content_type="application/json",
        headers={"X-API-Key": pasted},
    )
    assert response.status_code in {400, 403}
    assert pasted[20:] not in response.text


def test_the_page_refuses_a_key_as_a_name_and_keeps_the_form(alice, signed_in, pasted, mailoutbox):
    client = signed_in(alice)
    mailoutbox.clear()
    form = {"name": pasted, "description": "for the studio", "nonce": str(uuid4())}
    response = client.post("/keys/generate", form)
    assert response.status_code == 400
    assert REFUSED in response.text
    assert 'value="for the studio"' in response.text
    assert pasted[20:] not in response.text
    assert APIKey.objects.count() == 1
    assert not mailoutbox


def test_an_account_is_not_called_by_a_key(alice, signed_in, pasted):
    client = signed_in(alice)
    response = client.post("/account/", {"name": pasted, "language": "", "notices": "all"})
    assert REFUSED in response.text
    assert pasted[20:] not in response.text
    assert User.objects.get(pk=alice.pk).name == "Alice"


def device_code(client, **fields: str):
    body = urlencode({"client_id": "comfy-cli", **fields})
    kind = "application/x-www-form-urlencoded"
    return client.post("/oauth/device/code", body, content_type=kind)


def test_a_device_is_not_called_by_a_key(client, pasted, db):
    for name in (pasted, f"the machine upstairs, with {pasted}"):
        response = device_code(client, device_name=name)
        assert response.status_code == 400
        assert response.json()["error"] == "invalid_request"
        assert "device_name" in response.json()["message"]
        assert pasted[20:] not in response.text
    assert not DeviceRequest.objects.exists()


def test_a_machines_key_is_not_called_by_a_key(alice, signed_in, pasted, client):
    code = device_code(client).json()["user_code"]
    response = signed_in(alice).post(
        "/device", {"user_code": code, "decision": "confirm", "name": pasted}
    )
    assert response.status_code == 400
    assert REFUSED in response.text
    assert pasted[20:] not in response.text
    assert not DeviceRequest.objects.exclude(key_name="").exists()
    assert not AuthorizationCode.objects.exists()


def test_a_leak_report_whose_note_is_a_key_is_refused_whole(client, settings, pasted):
    settings.SERVICE_SECRETS = [SECRET]
    response = client.post(
        "/api/v1/leaks",
        {"leaks": [{"key": pasted, "note": f"found {pasted}"}]},
        content_type="application/json",
        headers={"Authorization": f"Bearer {SECRET}"},
    )
    assert response.status_code == 400
    assert "note" in response.json()["message"]
    assert REFUSED in response.json()["message"]
    assert pasted[20:] not in response.text
    assert not Event.objects.filter(action=Action.KEY_LEAKED).exists()


def test_an_address_is_no_key(client, pasted):
    response = client.post(
        "/signup", {"email": f"{pasted}@example.org", "password1": "alice knows 1"}
    )
    assert response.status_code != 302
    assert not User.objects.filter(email__contains=pasted[20:]).exists()


# --- Names that show nothing -----------------------------------------------------------------

INVISIBLE = [
    "\u2800",
    "\u3164",
    "\uffa0",
    "\u115f\u1160",
    "\u17b4",
    "\u180e",
    "\u200b",
    "\u034f",
    "\u2065",
    "\ufe0f",
    "\ufff0",
    "\U000e0020",
    "\U000e0fff",
    "\U0001d159",
    "\U0001bca0",
    "\u2800 \u3164\u200d",
    "\ufffc",
    "\u3000",
]
VISIBLE = [
    "a",
    "김민수",
    "안녕 하세요",
    "ᄀᅠ",
    "山田",
    "नमस्ते",
    "مرحبا",
    "සිංහල",
    "ภาษาไทย",
    "⠓⠑⠇⠇⠕",
    "👩‍💻",
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "1️⃣",
    "❤️",
    "ᠮᠣᠩᠭᠣᠯ",
    "±",
]


@pytest.mark.parametrize("name", INVISIBLE, ids=ascii)
def test_a_name_that_shows_nothing_is_none(name):
    assert not is_visible(name)


@pytest.mark.parametrize("name", VISIBLE, ids=ascii)
def test_a_name_in_any_script_and_of_emoji_is_one(alice, name):
    assert is_visible(name)
    key, _token = services.issue(owner=alice, name=name)
    assert key.name == name or key.name.strip() == name


@pytest.mark.parametrize("name", ["\u2800", "\u3164"], ids=ascii)
def test_nothing_is_called_by_nothing(alice, signed_in, name):
    with pytest.raises(ValidationError, match="invisible"):
        services.issue(owner=alice, name=name)
    response = signed_in(alice).post("/account/", {"name": name, "language": "", "notices": "all"})
    assert "invisible" in response.text
    assert User.objects.get(pk=alice.pk).name == "Alice"


# --- Names of keys that have expired ---------------------------------------------------------


def expire(key: APIKey) -> None:
    APIKey.objects.filter(pk=key.pk).update(expires_at=key.created_at)


def test_an_expired_key_does_not_hold_its_name(alice, issue, signed_in):
    old, _token = issue("Studio")
    expire(old)
    services.check(owner=alice, name="studio")
    new, _token = services.issue(owner=alice, name="studio")
    # Both are listed; the older one stays what it is.
    old.refresh_from_db()
    assert (old.name, old.revoked_at, old.holds_name) == ("Studio", None, False)
    with pytest.raises(ValidationError, match="already have a key with this name"):
        services.issue(owner=alice, name="STUDIO")
    expire(new)
    services.issue(owner=alice, name="studio")
    listed = signed_in(alice).get("/keys/").text
    assert listed.count("tudio") >= 3


def test_anothers_key_and_one_that_works_hold_their_names(alice, mallory, issue):
    key, _token = issue("studio", owner=mallory)
    expire(key)
    services.issue(owner=alice, name="studio")
    key.refresh_from_db()
    assert key.holds_name
    with pytest.raises(ValidationError):
        services.issue(owner=alice, name="studio")


def test_a_machine_gets_the_name_that_an_expired_key_had(alice, issue):
    key, _token = issue("studio")
    assert available_name(alice, "studio") == "studio 2"
    expire(key)
    assert available_name(alice, "studio") == "studio"


def test_a_passkey_is_not_called_by_a_key_or_by_nothing(alice, client, pasted):
    client.force_login(alice)
    show_who(client, alice)
    passkey = Authenticator.objects.create(
        user=alice, type=Authenticator.Type.WEBAUTHN, data={"name": "Laptop", "credential": {}}
    )
    for name in (pasted, "\u2800"):
        response = client.post(f"/account/factors/passkeys/{passkey.pk}/rename", {"name": name})
        assert response.status_code == 200
        assert REFUSED in response.text or "invisible" in response.text
        passkey.refresh_from_db()
        assert passkey.data["name"] == "Laptop"
