"""Passwords: length, characters, common passwords and words of this site."""

import gzip
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings as our_settings
from django.contrib.auth import password_validation as django_validation
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core.exceptions import ValidationError
from django.test import Client

from accounts import email_codes, password_validation
from accounts.models import User
from tests.accounts.test_signing_in import change_password
from tests.conftest import PASSWORD
from tests.factories import add_app, app_code, is_in, later, log_in, prove, sign_up

# Long, not common, and of one kind of characters each.
GOOD = [
    "rivervalleymountain",
    "RIVERVALLEYMOUNTAIN",
    "83104729561048372",
    "   spaces at both ends   ",
    "山と川と谷の長い合言葉です",
    "🦊🐻🐼🐨🐯🦁🐮🐷🐸🐵🐔🐧",
    "#*&^%$!)(_+-={}[]~~",
    "thirteen words are good enough " * 4,
]


def refused(password: str) -> bool:
    try:
        validate_password(password)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize("password", GOOD)
def test_a_password_may_have_any_characters_and_is_stored_unchanged(client, db, password):
    assert sign_up(client, "nora@example.org", password).status_code == 302
    nora = User.objects.get()
    assert nora.check_password(password)
    other = Client()
    for near in (password[:-1], password + " ", password.swapcase(), password.strip()):
        if near != password:
            assert not nora.check_password(near)
    log_in(other, "nora@example.org", password)
    assert is_in(other)


@pytest.mark.parametrize("length", [64, 72, 73, 128, 1000])
def test_every_character_of_a_long_password_counts(client, db, length):
    password = ("ab cd-ef_" * 200)[: length - 1] + "Z"
    sign_up(client, "nora@example.org", password)
    nora = User.objects.get()
    assert nora.check_password(password)
    assert not nora.check_password(password[:-1] + "Y")


def test_a_password_needs_ten_characters():
    assert refused("vqzjxkwmp")
    assert not refused("vqzjxkwmpt")


def test_every_common_password_is_refused_with_thousands_of_decorations():
    """Common passwords of ten characters and more: 1,780 unchanged, and decorated shorter ones."""
    listed = Path(django_validation.__file__).parent / "common-passwords.txt.gz"
    common = gzip.decompress(listed.read_bytes()).decode().split()
    long_enough = [one for one in common if len(one) >= 10]
    assert len(long_enough) > 1_500
    short = [one for one in common if 6 <= len(one) < 10 and not one.isdigit()][:1_000]
    dressed = [dress for one in short for dress in (f"{one}12345!", f"!!{one}2026", one * 2)]
    matching = {one for one in [*long_enough, *dressed] if len(one) >= 10}
    assert len(matching) > 4_000
    assert [one for one in matching if not refused(one)] == []


@pytest.mark.parametrize(
    "password",
    ["comfyui-keys", "ComfyUI2026!", "comfy comfy comfy", "API-Keys-API-Keys", "Admin@ComfyUI1",
     "Stable_Diffusion_1"],
)  # fmt: skip
def test_words_of_this_site_are_refused(client, db, password):
    sign_up(client, "nora@example.org", password)
    assert not User.objects.exists()


def test_the_host_name_is_one_of_the_words(settings):
    settings.PUBLIC_HOST = "render.studio-owl.example"
    assert refused("studio-owl-2026")
    assert {"render", "studioowl"} <= password_validation.site_words()


def test_a_passphrase_may_have_such_a_word():
    assert not refused("my comfyui paints owls at night")


def test_the_words_are_documented():
    text = (Path(__file__).parents[2] / "docs" / "asvs.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("Words that alone make no"))
    assert set(password_validation.SITE_WORDS) == {
        word.strip("`.,") for word in line.split() if "`" in word
    }


def test_a_password_does_not_expire(alice):
    client = Client()
    for years in (1, 5):
        with later(timedelta(days=365 * years)):
            log_in(client)
            assert is_in(client)


def test_changing_a_password_requires_the_current_one_and_a_valid_one(alice):
    client = Client()
    log_in(client)
    for former, new in (("a guess", "vqzjxkwmpt"), (PASSWORD, "ComfyUI2026!"), ("", "vqzjxkwmpt")):
        change_password(client, former, new)
        alice.refresh_from_db()
        assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("url", ["/login", "/signup", "/account/password/change"])
def test_a_password_field_is_masked_and_allows_paste_and_autofill(url, alice):
    client = Client()
    if url.startswith("/account"):
        log_in(client)
    page = client.get(url).text
    typed = [tag for tag in re.findall("<input[^>]*>", page) if re.search('name="[^"]*passw', tag)]
    assert typed
    for field in typed:
        assert 'type="password"' in field
        assert 'autocomplete="new-password"' in field or 'autocomplete="current-password"' in field
        assert not {"onpaste", "readonly", "maxlength"} & set(field.replace("=", " ").split())


def test_no_script_blocks_pasting():
    scripts = Path(our_settings.BASE_DIR, "static", "js").glob("*.js")
    assert not [script.name for script in scripts if '"paste"' in script.read_text()]


def test_a_new_site_has_no_accounts(db):
    """The database is migrated and empty."""
    assert not User.objects.exists()


def test_there_is_no_hint_and_no_security_question():
    fields = {field.name for field in User._meta.get_fields()}
    assert not {name for name in fields if "hint" in name or "question" in name or "answer" in name}


# --- Email codes and links -------------------------------------------------------------------


def test_email_codes_expire_within_ten_minutes_and_links_within_an_hour():
    from allauth.account import app_settings

    ten = timedelta(minutes=10)
    assert ten >= email_codes.LIFETIME
    assert timedelta(seconds=app_settings.EMAIL_VERIFICATION_BY_CODE_TIMEOUT) <= ten
    assert timedelta(seconds=app_settings.LOGIN_BY_CODE_TIMEOUT) <= ten
    assert timedelta(seconds=our_settings.PASSWORD_RESET_TIMEOUT) <= timedelta(hours=1)


def test_a_reset_link_expires_after_an_hour(client, alice, mailoutbox, monkeypatch):
    client.post("/account/password/reset", {"email": alice.email})
    link = next(word for word in mailoutbox[-1].body.split() if "/password/reset/" in word)
    path = link.partition("8000")[2]
    now = datetime.now
    for minutes, is_good in ((59, True), (61, False)):
        monkeypatch.setattr(
            PasswordResetTokenGenerator,
            "_now",
            lambda _self, minutes=minutes: now() + timedelta(minutes=minutes),
        )
        page = Client().get(path, follow=True)
        assert ('name="password1"' in page.text) == is_good


def test_a_password_reset_does_not_skip_the_second_factor(alice, mailoutbox):
    prove(alice)
    secret = add_app(alice)
    client = Client()
    client.post("/account/password/reset", {"email": alice.email})
    link = next(word for word in mailoutbox[-1].body.split() if "/password/reset/" in word)
    form = client.get(link.partition("8000")[2], follow=True)
    new = {"password1": "vqzjxkwmpt", "password2": "vqzjxkwmpt"}
    client.post(form.request["PATH_INFO"], new)
    alice.refresh_from_db()
    assert alice.check_password("vqzjxkwmpt"), "the password was reset"
    assert not is_in(client)
    assert log_in(client, password="vqzjxkwmpt")["Location"] == "/login/factor"
    assert not is_in(client)
    client.post("/login/factor", {"code": app_code(secret)})
    assert is_in(client)
