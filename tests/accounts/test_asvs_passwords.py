"""What a password may be, and what it may not."""

import gzip
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings as our_settings
from django.contrib.auth import password_validation
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core.exceptions import ValidationError
from django.test import Client

from accounts import mailcodes, passwords
from accounts.models import User
from tests.accounts.test_asvs_lifetimes import later
from tests.accounts.test_signing_in import change_password, is_in, log_in, sign_up
from tests.conftest import PASSWORD

# Each of them long and not common, and nothing else.
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
        password_validation.validate_password(password)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize("password", GOOD)
def test_a_password_may_be_of_anything_and_is_kept_as_it_was_typed(client, db, password):
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
def test_no_letter_of_a_long_password_is_left_out(client, db, length):
    password = ("ab cd-ef_" * 200)[: length - 1] + "Z"
    sign_up(client, "nora@example.org", password)
    nora = User.objects.get()
    assert nora.check_password(password)
    assert not nora.check_password(password[:-1] + "Y")


def test_nine_letters_are_too_few_and_ten_are_enough():
    assert refused("vqzjxkwmp")
    assert not refused("vqzjxkwmpt")


def test_every_common_password_is_refused_in_more_dresses_than_three_thousand():
    """Of ten letters and more: 1,780 as they are, and what is made of others."""
    listed = Path(password_validation.__file__).parent / "common-passwords.txt.gz"
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
def test_words_of_this_place_make_no_password(client, db, password):
    sign_up(client, "nora@example.org", password)
    assert not User.objects.exists()


def test_the_name_of_the_platform_is_one_of_them(settings):
    settings.PUBLIC_HOST = "render.studio-owl.example"
    assert refused("studio-owl-2026")
    assert {"render", "studioowl"} <= passwords.words()


def test_a_sentence_may_have_such_a_word():
    assert not refused("my comfyui paints owls at night")


def test_the_words_are_documented():
    text = (Path(__file__).parents[2] / "docs" / "asvs.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("Words that alone make no"))
    assert set(passwords.WORDS) == {word.strip("`.,") for word in line.split() if "`" in word}


def test_a_password_does_not_wear_out(alice):
    client = Client()
    for years in (1, 5):
        with later(timedelta(days=365 * years)):
            log_in(client)
            assert is_in(client)


def test_changing_a_password_takes_the_one_so_far_and_a_good_one(alice):
    client = Client()
    log_in(client)
    for former, new in (("a guess", "vqzjxkwmpt"), (PASSWORD, "ComfyUI2026!"), ("", "vqzjxkwmpt")):
        change_password(client, former, new)
        alice.refresh_from_db()
        assert alice.check_password(PASSWORD)


@pytest.mark.parametrize("address", ["/login", "/signup", "/account/password/change"])
def test_a_field_for_a_password_hides_it_and_takes_what_is_pasted_or_filled_in(address, alice):
    client = Client()
    if address.startswith("/account"):
        log_in(client)
    page = client.get(address).text
    typed = [tag for tag in re.findall("<input[^>]*>", page) if re.search('name="[^"]*passw', tag)]
    assert typed
    for field in typed:
        assert 'type="password"' in field
        assert 'autocomplete="new-password"' in field or 'autocomplete="current-password"' in field
        assert not {"onpaste", "readonly", "maxlength"} & set(field.replace("=", " ").split())


def test_no_script_of_ours_stops_pasting():
    scripts = Path(our_settings.BASE_DIR, "static", "js").glob("*.js")
    assert not [script.name for script in scripts if '"paste"' in script.read_text()]


def test_a_new_platform_has_no_accounts(db):
    """All migrations ran, and nobody is there."""
    assert not User.objects.exists()


def test_there_is_no_hint_and_no_secret_question():
    fields = {field.name for field in User._meta.get_fields()}
    assert not {name for name in fields if "hint" in name or "question" in name or "answer" in name}


# --- What goes by mail -----------------------------------------------------------------------


def test_codes_by_mail_are_good_for_ten_minutes_at_most_and_a_link_for_an_hour():
    from allauth.account import app_settings

    ten = timedelta(minutes=10)
    assert ten >= mailcodes.GOOD_FOR
    assert timedelta(seconds=app_settings.EMAIL_VERIFICATION_BY_CODE_TIMEOUT) <= ten
    assert timedelta(seconds=app_settings.LOGIN_BY_CODE_TIMEOUT) <= ten
    assert timedelta(seconds=our_settings.PASSWORD_RESET_TIMEOUT) <= timedelta(hours=1)


def test_a_link_to_reset_the_password_is_good_for_an_hour(client, alice, mailoutbox, monkeypatch):
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
