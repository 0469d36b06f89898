"""Passwords are hashed in normalized form, whatever keyboard they were typed with."""

import unicodedata
from typing import Any

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client

from accounts import password_validation
from accounts.models import User
from tests.accounts.test_signing_in import change_password
from tests.conftest import PASSWORD, show_who
from tests.factories import is_in, log_in, sign_up
from tests.mail_server import link_in

COMPOSED = unicodedata.normalize("NFC", "cafés à la crème brûlée")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
HANGUL = unicodedata.normalize("NFD", "비밀번호는아주길어요정말로")


@pytest.mark.parametrize(
    ("typed", "hashed"),
    [
        (DECOMPOSED, COMPOSED),
        (HANGUL, unicodedata.normalize("NFC", HANGUL)),
        ("two\u3000wide\u00a0spaces", "two wide spaces"),
        # Case, width, compatibility characters and spaces at the ends are kept.
        ("ＰａｓｓＷｏｒｄ ﬁ ²", "ＰａｓｓＷｏｒｄ ﬁ ²"),
        (" ends ", " ends "),
        ("👩\u200d🚀 tab\t", "👩\u200d🚀 tab\t"),
    ],
)
def test_a_password_is_an_opaque_string(typed, hashed):
    assert password_validation.normalize(typed) == hashed


@pytest.mark.parametrize(
    ("chosen", "typed"),
    [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("a b" * 5, "a\u2003b" * 5)],
)
def test_a_password_is_accepted_in_every_equivalent_form(client, db, chosen, typed):
    sign_up(client, "nora@example.org", chosen)
    for form in (chosen, typed):
        other = Client()
        log_in(other, "nora@example.org", form)
        assert is_in(other)
    log_in(other := Client(), "nora@example.org", typed.swapcase())
    assert not is_in(other)


def by_change(alice: User, mailoutbox: Any, new: str) -> None:
    log_in(client := Client())
    change_password(client, PASSWORD, new)


def by_reset(alice: User, mailoutbox: Any, new: str) -> None:
    client = Client()
    client.post("/account/password/reset", {"email": alice.email})
    form = client.get(link_in(mailoutbox[-1].body))
    client.post(form["Location"], {"password1": new, "password2": new})


def by_set(alice: User, mailoutbox: Any, new: str) -> None:
    User.objects.filter(pk=alice.pk).update(password=make_password(None))
    alice.refresh_from_db()
    client = Client()
    client.force_login(alice)
    show_who(client, alice)
    client.post("/account/password/set", {"password1": new, "password2": new})


def by_staff(alice: User, mailoutbox: Any, new: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("sam@example.org", PASSWORD))
    client.post(
        f"/admin/accounts/user/{alice.pk}/password/",
        {"password1": new, "password2": new, "usable_password": "true"},
    )


def by_command(alice: User, mailoutbox: Any, new: str) -> None:
    call_command("make_staff")


@pytest.mark.parametrize("set_it", [by_change, by_reset, by_set, by_staff, by_command])
def test_every_way_to_set_a_password_normalizes_it(alice, mailoutbox, monkeypatch, set_it):
    monkeypatch.setenv("EMAIL", alice.email)
    monkeypatch.setenv("PASSWORD", DECOMPOSED)
    set_it(alice, mailoutbox, DECOMPOSED)
    alice.refresh_from_db()
    assert alice.check_password(COMPOSED)
    assert not User.has_password_as_typed(alice, DECOMPOSED)


def test_the_current_password_is_accepted_in_every_equivalent_form(alice):
    alice.set_password(COMPOSED)
    alice.save()
    log_in(client := Client(), password=COMPOSED)
    change_password(client, DECOMPOSED, "another one to remember")
    alice.refresh_from_db()
    assert alice.check_password("another one to remember")


# --- Hashes of unnormalized text -------------------------------------------------------------


@pytest.fixture
def before(alice) -> User:
    """Alice, whose password was hashed without normalization."""
    User.objects.filter(pk=alice.pk).update(password=make_password(DECOMPOSED))
    alice.refresh_from_db()
    return alice


def test_a_hash_of_the_unnormalized_text_is_accepted_and_upgraded(before):
    log_in(client := Client(), password=COMPOSED)
    assert not is_in(client), "this hash knows the other form alone"
    log_in(client := Client(), password=DECOMPOSED)
    assert is_in(client)
    log_in(client := Client(), password=COMPOSED)
    assert is_in(client), "from then on either form is good"


def test_reauthenticating_with_such_a_password_does_not_log_out(before):
    client = Client()
    client.force_login(before)
    response = client.post(
        "/account/reauthenticate", {"password": DECOMPOSED, "next": "/account/data"}
    )
    assert response["Location"] == "/account/data"
    assert client.get("/account/data").status_code == 200


def test_only_the_typed_form_is_a_fallback(before, monkeypatch):
    tried = []
    original = password_validation.normalize
    monkeypatch.setattr(
        "django.contrib.auth.base_user.check_password",
        lambda raw, *_rest, **_more: tried.append(raw),
    )
    assert not before.check_password(DECOMPOSED)
    assert tried == [original(DECOMPOSED), DECOMPOSED]
    tried.clear()
    assert not before.check_password(COMPOSED)
    assert tried == [COMPOSED]


@pytest.mark.parametrize("password", [PASSWORD, DECOMPOSED])
def test_an_unknown_email_costs_as_many_passes_as_a_known_one(alice, monkeypatch, password):
    passes = []
    encode = MD5PasswordHasher.encode
    monkeypatch.setattr(
        MD5PasswordHasher,
        "encode",
        lambda self, *given, **named: passes.append(1) or encode(self, *given, **named),
    )
    alice.set_password("something else entirely")
    alice.save()
    counts = []
    for email in (alice.email, "nobody@example.org"):
        passes.clear()
        log_in(Client(), email, password)
        counts.append(len(passes))
    assert counts[0] == counts[1] > 0


# --- Validation ------------------------------------------------------------------------------


def test_a_decomposed_letter_counts_as_one_character():
    six = unicodedata.normalize("NFD", "éàüöîñ")
    assert len(six) == 12
    with pytest.raises(ValidationError):
        validate_password(six)
    validate_password(unicodedata.normalize("NFD", "éàüöîñçåêô"))


def test_similarity_to_the_name_is_checked_in_normalized_form(db):
    nora = User(email="nora@example.org", name="Éléonore Brûlé")
    with pytest.raises(ValidationError):
        validate_password(unicodedata.normalize("NFD", "éléonore brûlé"), nora)
