"""Every mail that people get: what is in it, in which language, and where it leads.

Each is sent by the way that sends it in use, so that what it is filled with is real too.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import allauth
import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
    yield_hotp_counters_from_time,
)
from allauth.mfa.webauthn.internal import auth as webauthn
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from django.conf import settings as our_settings
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.urls import resolve
from django.utils import translation
from django.utils.html import escape

from accounts import devices, mail, services
from accounts.models import User
from apikeys.models import APIKey
from tests.accounts.test_signing_in import NEW_PASSWORD, RESET, code_in, log_in, sign_up
from tests.conftest import PASSWORD, Issue, show_who

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)
HOSTILE = "<b>x</b> \"quoted\" & 'single' {{ key.encoded }} %(name)s"


@dataclass(frozen=True)
class Letter:
    """A mail, with what it was made of."""

    template: str
    language: str
    context: dict[str, Any]
    message: EmailMultiAlternatives

    @property
    def to(self) -> str:
        (address,) = self.message.to
        return str(address)

    @property
    def text(self) -> str:
        return str(self.message.body)

    @property
    def html(self) -> str:
        ((content, kind),) = self.message.alternatives
        assert kind == "text/html"
        return str(content)

    @property
    def links(self) -> list[str]:
        """Where the text leads, besides to the front page in its signature."""
        found = re.findall(r"https?://[!-~]+", self.text)
        return [link for link in found if link != our_settings.PUBLIC_URL]

    @property
    def anchors(self) -> list[str]:
        return [unescape(link) for link in re.findall(r'href="([^"]*)"', self.html)]


@dataclass
class Post:
    """The letters of a test, in order."""

    outbox: list[EmailMultiAlternatives]
    letters: list[Letter] = field(default_factory=list)

    def forget(self) -> None:
        self.letters.clear()
        self.outbox.clear()

    def of(self, template: str) -> list[Letter]:
        return [letter for letter in self.letters if letter.template == template]

    def the(self, template: str) -> Letter:
        sent = [letter.template for letter in self.letters]
        assert sent.count(template) == 1, sent
        return self.of(template)[0]


@pytest.fixture
def post(monkeypatch, mailoutbox) -> Iterator[Post]:
    post = Post(mailoutbox)

    def noting(template: str, to: str, context: dict[str, Any]) -> EmailMultiAlternatives:
        message = COMPOSE(template, to, context)
        language = translation.get_language()
        post.letters.append(Letter(template, language, {**context}, message))
        return message

    monkeypatch.setattr(mail, "compose", noting)
    yield post
    # Nothing leaves by another way.
    assert [sent.body for sent in mailoutbox] == [letter.text for letter in post.letters]


@dataclass
class Scene:
    """Alice in her browser, where she has just shown who she is, and what else a mail needs."""

    client: Client
    alice: User
    issue: Issue
    settings: Any
    monkeypatch: pytest.MonkeyPatch
    # Somebody's browser, and the language that its pages are in.
    stranger: Client
    post: Post
    committing: Callable[[], AbstractContextManager[object]]

    def with_mail_server(self) -> None:
        self.settings.HAS_MAIL_SERVER = True
        self.settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
        self.settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
        self.settings.ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True

    def last_code(self) -> str:
        return code_in(self.post.letters[-1].text)


@pytest.fixture
def scene(alice, issue, settings, monkeypatch, post, django_capture_on_commit_callbacks) -> Scene:
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    client = Client(headers={"user-agent": FIREFOX, "accept-language": "ko"})
    client.force_login(alice)
    show_who(client, alice)
    stranger = Client(headers={"user-agent": SAFARI, "accept-language": "ko"})
    committing = partial(django_capture_on_commit_callbacks, execute=True)
    return Scene(client, alice, issue, settings, monkeypatch, stranger, post, committing)


def speaks(scene: Scene, language: str) -> None:
    """Alice has chosen this; whoever has no account has a browser that asks for it."""
    User.objects.filter(pk=scene.alice.pk).update(language=language)
    scene.alice.refresh_from_db()


# --- How each is sent ------------------------------------------------------------------------


def forgets_her_password(scene: Scene) -> None:
    scene.stranger.post(RESET, {"email": scene.alice.email})


def resets_her_password(scene: Scene) -> None:
    forgets_her_password(scene)
    (link,) = scene.post.letters[-1].links
    form = scene.stranger.get(urlsplit(link).path, follow=True)
    where = form.request["PATH_INFO"]
    scene.stranger.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})


def changes_her_password(scene: Scene) -> None:
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    scene.client.post("/account/password/change", {"oldpassword": PASSWORD, **new})


def sets_a_password(scene: Scene) -> None:
    services.disown_password(scene.alice)
    scene.client.force_login(scene.alice)
    show_who(scene.client, scene.alice)
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    scene.client.post("/account/password/set", new)


def signs_up(scene: Scene) -> None:
    sign_up(scene.stranger, "nora@example.org")


def signs_up_with_a_mail_server(scene: Scene) -> None:
    scene.with_mail_server()
    signs_up(scene)


def signs_up_with_her_address(scene: Scene) -> None:
    scene.with_mail_server()
    sign_up(scene.stranger, scene.alice.email)


def asks_for_another_link(scene: Scene) -> None:
    EmailAddress.objects.update(verified=False)
    scene.client.post("/account/email", {"email": scene.alice.email, "action_send": ""})


def asks_for_another_code(scene: Scene) -> None:
    scene.with_mail_server()
    asks_for_another_link(scene)


def asks_for_a_login_code(scene: Scene) -> None:
    scene.stranger.post("/login/code", {"email": scene.alice.email})


def shows_who_she_is_by_mail(scene: Scene) -> None:
    scene.with_mail_server()
    scene.client.post("/account/reauthenticate/mail", {"send": "1"})


def asks_for_a_login_code_without_an_account(scene: Scene) -> None:
    scene.stranger.post("/login/code", {"email": "nobody@example.org"})


def asks_to_change_her_address(scene: Scene) -> None:
    scene.with_mail_server()
    scene.client.post("/account/email", {"email": "new@example.org", "action_add": ""})


def changes_her_address(scene: Scene) -> None:
    asks_to_change_her_address(scene)
    scene.client.post("/account/email/approve", {"code": scene.last_code()})
    scene.client.post("/account/confirm-email", {"code": scene.last_code()})


def keeps_her_old_address(scene: Scene) -> None:
    scene.client.post("/account/email", {"email": "new@example.org", "action_add": ""})
    scene.client.post("/account/email", {"email": "new@example.org", "action_remove": ""})


def logs_in_on_another_device(scene: Scene) -> None:
    log_in(scene.stranger)


def adds_an_app(scene: Scene) -> None:
    page = scene.client.get("/account/factors/app/activate")
    counter = next(yield_hotp_counters_from_time()) + 1
    code = format_hotp_value(hotp_value(page.context["form"].secret, counter))
    with scene.committing():
        scene.client.post("/account/factors/app/activate", {"code": code})


def removes_the_app(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    scene.client.post("/account/factors/app/deactivate")


def makes_recovery_codes(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    with scene.committing():
        scene.client.post("/account/factors/recovery-codes/generate")


def adds_a_passkey(scene: Scene) -> None:
    # What a browser's authenticator answers is checked in tests/browser, with a real one.
    verified = SimpleNamespace(is_user_verified=lambda: True)
    scene.monkeypatch.setattr(webauthn, "parse_registration_response", lambda given: given)
    scene.monkeypatch.setattr(webauthn, "complete_registration", lambda given: verified)
    body = {"name": "Laptop", "credential": '{"id": "made up"}', "passwordless": "on"}
    scene.client.post("/account/factors/passkeys/add", body)


def removes_a_passkey(scene: Scene) -> None:
    passkey = Authenticator.objects.create(
        user=scene.alice, type=Authenticator.Type.WEBAUTHN, data={"name": "Laptop"}
    )
    scene.client.post(f"/account/factors/passkeys/{passkey.pk}/remove")


def loses_her_factors_to_staff(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    chosen = {"action": "remove_factors", "_selected_action": scene.alice.pk}
    staff(scene).post("/admin/accounts/user/", {**chosen, "confirmed": "1"})


def connects_a_login(scene: Scene) -> None:
    """She came with GitHub, was led to her password, and gave it."""
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    session = scene.stranger.session
    session["login_to_connect"] = SocialLogin(
        user=User(),
        account=SocialAccount(provider="github", uid="1", extra_data={}),
        email_addresses=[EmailAddress(email=scene.alice.email, verified=True, primary=True)],
        provider=get_adapter().get_provider(None, "github"),
    ).serialize()
    session.save()
    log_in(scene.stranger)
    assert SocialAccount.objects.get().user == scene.alice


def disconnects_a_login(scene: Scene) -> None:
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    login = SocialAccount.objects.create(user=scene.alice, provider="github", uid="1")
    scene.client.post("/account/logins", {"account": login.pk})
    assert not SocialAccount.objects.exists()


def makes_a_key(scene: Scene, name: str = "studio") -> APIKey:
    scene.client.post("/keys/generate", {"name": name, "nonce": str(uuid4())})
    return APIKey.objects.get(owner=scene.alice, name=name)


def loses_a_key_to_staff(scene: Scene, name: str = "studio") -> None:
    key = makes_a_key(scene, name)
    staff(scene).post(f"/admin/apikeys/apikey/{key.pk}/revoke/")


def has_a_key_suspended(scene: Scene) -> None:
    key = makes_a_key(scene)
    staff(scene).post(f"/admin/apikeys/apikey/{key.pk}/suspend/")


def gets_the_key_back(scene: Scene) -> None:
    has_a_key_suspended(scene)
    key = APIKey.objects.get()
    staff(scene).post(f"/admin/apikeys/apikey/{key.pk}/restore/")


def is_shut_out(scene: Scene) -> None:
    staff(scene).post(f"/admin/accounts/user/{scene.alice.pk}/disable/", {"reason": "A test"})


def is_let_in_again(scene: Scene) -> None:
    is_shut_out(scene)
    staff(scene).post(f"/admin/accounts/user/{scene.alice.pk}/enable/")


def staff(scene: Scene) -> Client:
    """Sam, who reads Korean, and looks after alice's account and keys."""
    browser = Client(headers={"accept-language": "ko"})
    sam = services.make_staff("sam@example.org", PASSWORD)[0]
    browser.force_login(sam)
    show_who(browser, sam)
    return browser


def has_a_key_found_in_public(scene: Scene) -> None:
    _key, token = scene.issue("studio")
    scene.post.forget()
    scene.stranger.post(
        "/leaks", {"key": token.reveal(), "url": "https://evil.example/a.txt?b=c#d"}
    )


def deletes_her_account(scene: Scene) -> None:
    scene.client.post("/account/delete", {"email": scene.alice.email})
    assert not User.objects.filter(pk=scene.alice.pk).exists()


CODE = "a code"
NOTHING = "nothing"
SIGNED_IN = "sessions"

# What is done, the mail that comes of it, and what it has one of: a link to the page with this
# name, or a code, or neither.
MAILS: list[tuple[Callable[[Scene], None], str, str]] = [
    (
        forgets_her_password,
        "account/email/password_reset_key",
        "account_reset_password_from_key",
    ),
    (resets_her_password, "account/email/password_reset", SIGNED_IN),
    (changes_her_password, "account/email/password_changed", SIGNED_IN),
    (sets_a_password, "account/email/password_set", SIGNED_IN),
    (signs_up, "account/email/email_confirmation_signup", "account_confirm_email"),
    (signs_up_with_a_mail_server, "account/email/email_confirmation_signup", CODE),
    (
        signs_up_with_her_address,
        "account/email/account_already_exists",
        "account_reset_password",
    ),
    (asks_for_another_link, "account/email/email_confirmation", "account_confirm_email"),
    (asks_for_another_code, "account/email/email_confirmation", CODE),
    (asks_for_a_login_code, "account/email/login_code", CODE),
    (shows_who_she_is_by_mail, "account/email/login_code", CODE),
    (
        asks_for_a_login_code_without_an_account,
        "account/email/unknown_account",
        "account_signup",
    ),
    # The code, and a page to go to if it wasn't her.
    (asks_to_change_her_address, "accounts/email/approve_change", SIGNED_IN),
    (changes_her_address, "account/email/email_changed", SIGNED_IN),
    (keeps_her_old_address, "account/email/email_deleted", SIGNED_IN),
    (logs_in_on_another_device, "accounts/email/new_device", SIGNED_IN),
    (adds_an_app, "mfa/email/totp_activated", SIGNED_IN),
    (removes_the_app, "mfa/email/totp_deactivated", SIGNED_IN),
    (makes_recovery_codes, "mfa/email/recovery_codes_generated", SIGNED_IN),
    (adds_a_passkey, "mfa/email/webauthn_added", SIGNED_IN),
    (removes_a_passkey, "mfa/email/webauthn_removed", SIGNED_IN),
    (loses_her_factors_to_staff, "accounts/email/factors_removed", "mfa_index"),
    (connects_a_login, "socialaccount/email/account_connected", SIGNED_IN),
    (disconnects_a_login, "socialaccount/email/account_disconnected", SIGNED_IN),
    (makes_a_key, "apikeys/email/issued", "delete_key"),
    (loses_a_key_to_staff, "apikeys/email/revoked", "keys"),
    (has_a_key_found_in_public, "apikeys/email/leaked", "keys"),
    (has_a_key_suspended, "apikeys/email/suspended", "keys"),
    (gets_the_key_back, "apikeys/email/restored", "keys"),
    (is_shut_out, "accounts/email/disabled", NOTHING),
    (is_let_in_again, "accounts/email/enabled", "keys"),
    (deletes_her_account, "accounts/email/deleted", NOTHING),
]
# Of allauth's, what our settings never send: a code to reset a password, a message that an
# address is confirmed. And the two that the others are made of.
NEVER_SENT = {
    "account/email/password_reset_code",
    "account/email/email_confirm",
    "account/email/base",
    "account/email/base_notification",
}
# Who gets them has no account (yet): the language is that of the page they were on.
OF_THE_PAGE = {signs_up, signs_up_with_a_mail_server, asks_for_a_login_code_without_an_account}

# Whose subjects allauth brings in many languages.
TRANSLATED = ("account/", "socialaccount/", "mfa/email/totp", "mfa/email/recovery")
COMPOSE = mail.compose

each_mail = pytest.mark.parametrize(
    ("happens", "template", "has"),
    MAILS,
    ids=[happens.__name__ for happens, _template, _has in MAILS],
)


def test_every_mail_that_there_is_a_template_for_is_looked_at():
    folders = [*our_settings.TEMPLATES[0]["DIRS"], Path(allauth.__file__).parent / "templates"]
    templates = {
        str(path.relative_to(folder)).removesuffix(".txt").removesuffix("_message")
        for folder in folders
        for path in Path(folder).rglob("*/email/*.txt")
        if not path.name.endswith("_subject.txt")
    }
    assert {template for _happens, template, _has in MAILS} == templates - NEVER_SENT


# --- What each is like -----------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ja"])
@each_mail
def test_a_mail_is_whole_and_leads_to_one_place(scene, happens, template, has, language):
    if happens in OF_THE_PAGE:
        scene.stranger.defaults["HTTP_ACCEPT_LANGUAGE"] = language
    speaks(scene, language)
    happens(scene)
    letter = scene.post.the(template)
    is_whole(letter)
    is_in(letter, language)
    leads_to_one_place(letter, has, scene)


@each_mail
def test_a_mail_says_as_much_in_every_language(scene, happens, template, has):
    happens(scene)
    letter = scene.post.the(template)
    for language, _name in our_settings.LANGUAGES:
        with translation.override(language):
            message = COMPOSE(template, letter.to, letter.context)
        translated = replace(letter, language=language, message=message)
        is_whole(translated)
        assert translated.links == letter.links
        assert translated.anchors == letter.anchors
        if "code" in letter.context:
            assert code_in(translated.text) == letter.context["code"]


def is_whole(letter: Letter) -> None:
    assert letter.message.subject.strip()
    assert "\n" not in letter.message.subject
    assert letter.text.strip()
    assert letter.message.from_email == our_settings.DEFAULT_FROM_EMAIL
    for part in (letter.message.subject, letter.text, letter.html):
        for leftover in ("{{", "}}", "{%", "%}", "{#", "#}", "%(", "\N{REPLACEMENT CHARACTER}"):
            assert leftover not in part, f"{leftover} in {part}"
        assert not re.search(r"\b(None|True|False|object at)\b", part)
    # No hole where a word should have been filled in.
    assert not re.search(r"“\s*”|\(\s*\)", letter.text)
    # One source of words: both parts say the same.
    html = unescape(re.sub(r"<[^>]*>", "", letter.html.partition("</title>")[2]))
    for line in letter.text.splitlines():
        assert line.removeprefix("-- ").strip() in html


def is_in(letter: Letter, language: str) -> None:
    assert letter.language == language
    assert f'<html lang="{language}">' in letter.html
    with translation.override(language):
        expected = COMPOSE(letter.template, letter.to, letter.context)
    assert (expected.subject, expected.body) == (letter.message.subject, letter.text)
    if language != "en" and letter.template.startswith(TRANSLATED):
        with translation.override("en"):
            english = COMPOSE(letter.template, letter.to, letter.context)
        assert english.subject != letter.message.subject


def leads_to_one_place(letter: Letter, has: str, scene: Scene) -> None:
    assert letter.text.rstrip().endswith(our_settings.PUBLIC_URL)
    if has in {CODE, NOTHING}:
        assert letter.links == letter.anchors == []
    else:
        (link,) = letter.links
        assert link.startswith(f"{our_settings.PUBLIC_URL}/")
        assert letter.anchors == [link]
        parts = urlsplit(link)
        assert resolve(parts.path).view_name == has
        opens(f"{parts.path}?{parts.query}", scene)
    if has == CODE or "code" in letter.context:
        code = code_in(letter.text)
        assert code == letter.context["code"]
        assert f">{code}</p>" in letter.html
        assert code.replace("-", "") not in letter.message.subject.replace("-", "")


def opens(address: str, scene: Scene) -> None:
    """Both for whoever is logged in and, where that is no condition, for whoever is not."""
    anonymous = Client().get(address, follow=True)
    assert anonymous.status_code == 200
    if anonymous.request["PATH_INFO"] == "/login":
        visitor = Client()
        visitor.force_login(User.objects.get(pk=scene.alice.pk))
        page = visitor.get(address, follow=True)
        assert page.status_code == 200
        assert page.request["PATH_INFO"] == address.partition("?")[0]


def test_a_mail_to_alice_is_in_the_language_of_her_account(scene, client):
    """Whatever the language of whoever made us write it, or of their browser."""
    subjects = set()
    for language, _name in our_settings.LANGUAGES:
        speaks(scene, language)
        scene.post.forget()
        forgets_her_password(scene)
        letter = scene.post.the("account/email/password_reset_key")
        is_in(letter, language)
        subjects.add(letter.message.subject)
    assert len(subjects) == len(our_settings.LANGUAGES)


def test_the_device_that_a_mail_names_is_named_in_its_language(scene, monkeypatch):
    monkeypatch.setattr(devices, "_", lambda text: f"{text} ({translation.get_language()})")
    speaks(scene, "ja")
    logs_in_on_another_device(scene)
    resets_her_password(scene)
    for template in ("accounts/email/new_device", "account/email/password_reset"):
        text = scene.post.the(template).text
        assert "Mobile Safari on iOS (ja)" in text, template


# --- What people wrote -----------------------------------------------------------------------


@pytest.mark.parametrize("happens", [makes_a_key, loses_a_key_to_staff])
def test_the_name_of_a_key_is_as_it_was_written_in_text_and_harmless_in_html(scene, happens):
    happens(scene, HOSTILE)
    letter = scene.post.letters[-1]
    assert HOSTILE in letter.text
    assert HOSTILE in letter.message.subject
    assert HOSTILE not in letter.html
    assert "<b>" not in letter.html
    # Once in the title, once in the heading, once in the words.
    assert letter.html.count(escape(HOSTILE)) == 3


@pytest.mark.parametrize("happens", [makes_a_key, loses_a_key_to_staff])
@pytest.mark.parametrize(
    "name",
    [
        "http://evil.example",
        "https://evil.example/account/password/reset",
        f"{our_settings.PUBLIC_URL}@evil.example/",
        f"{our_settings.PUBLIC_URL}/logout",
        '"><a href="http://evil.example">here</a>',
        "[here](http://evil.example)",
        "-- signature --",
        "ABC-DEF",
    ],
)
def test_the_name_of_a_key_leads_nowhere_and_is_no_code(scene, happens, name):
    happens(scene, name)
    letter = scene.post.letters[-1]
    (link,) = letter.anchors
    assert link.startswith(f"{our_settings.PUBLIC_URL}/keys/")
    assert name.strip() in letter.text
    assert "monospace" not in letter.html
    assert letter.html.count("<a ") == 1


def test_an_address_is_as_it_was_written_in_text_and_harmless_in_html(scene):
    scene.with_mail_server()
    odd = "o'brien&{sons}@example.org"
    scene.client.post("/account/email", {"email": odd, "action_add": ""})
    letter = scene.post.the("accounts/email/approve_change")
    assert odd in letter.text
    assert odd not in letter.html
    assert escape(odd) in letter.html


def test_a_browser_that_calls_itself_names_is_harmless_too(scene):
    scene.stranger.defaults["HTTP_USER_AGENT"] = "<script>alert(1)</script> http://evil.example"
    logs_in_on_another_device(scene)
    letter = scene.post.the("accounts/email/new_device")
    assert "<script" not in letter.html
    assert "evil.example" not in letter.text


# --- Who wants which -------------------------------------------------------------------------


@each_mail
def test_who_wants_only_safety_is_told_all_that_concerns_it(scene, happens, template, has):
    User.objects.update(notices=User.Notices.SECURITY)
    scene.alice.refresh_from_db()
    happens(scene)
    assert len(scene.post.of(template)) == (0 if happens is makes_a_key else 1)


def test_a_key_made_over_the_api_is_told_of_as_well(scene):
    answer = scene.client.post(
        "/customers/api-keys", {"name": "studio"}, content_type="application/json"
    )
    assert answer.status_code == 201
    assert scene.post.the("apikeys/email/issued").to == scene.alice.email


def test_no_mail_has_the_key_that_it_tells_of(scene):
    page = scene.client.post("/keys/generate", {"name": "studio", "nonce": str(uuid4())})
    token = re.search(r"comfyui-[0-9a-f]{64}", page.text)[0]
    letter = scene.post.the("apikeys/email/issued")
    assert APIKey.objects.get().masked in letter.text
    for part in (letter.text, letter.html, letter.message.subject):
        assert token[20:] not in part
        assert token[20:28] not in part


def test_three_keys_revoked_by_staff_are_three_mails(scene):
    made = [makes_a_key(scene, f"key {number}") for number in range(3)]
    scene.post.forget()
    staff(scene).post(
        "/admin/apikeys/apikey/",
        {
            "action": "revoke_selected",
            "_selected_action": [key.pk for key in made],
            "confirmed": "1",
        },
    )
    assert [letter.template for letter in scene.post.letters] == ["apikeys/email/revoked"] * 3
    assert {letter.to for letter in scene.post.letters} == {scene.alice.email}
    for number in range(3):
        assert sum(f"“key {number}”" in letter.text for letter in scene.post.letters) == 1


@pytest.mark.parametrize("door", ["page", "api"])
def test_whoever_deletes_a_key_of_their_own_is_not_told(scene, door):
    key = makes_a_key(scene)
    scene.post.forget()
    if door == "page":
        assert scene.client.post(f"/keys/{key.pk}/delete").status_code == 302
    else:
        assert scene.client.delete(f"/customers/api-keys/{key.pk}").status_code == 204
    assert scene.post.letters == []


def test_keys_that_end_with_their_account_are_one_mail(scene):
    for number in range(3):
        makes_a_key(scene, f"key {number}")
    scene.post.forget()
    deletes_her_account(scene)
    assert [letter.template for letter in scene.post.letters] == ["accounts/email/deleted"]


# --- New devices -----------------------------------------------------------------------------

NEW_DEVICE = "accounts/email/new_device"


def browser(agent: str = FIREFOX, address: str = "203.0.113.9") -> Client:
    return Client(headers={"user-agent": agent}, REMOTE_ADDR=address)


def out_and_in(browser: Client, email: str = "alice@example.org", **more: str) -> None:
    browser.post("/logout")
    response = browser.post("/login", {"login": email, "password": PASSWORD, **more})
    assert response["Location"] == "/keys/"


def test_a_new_account_is_not_told_of_the_device_that_it_was_made_on(db, post):
    nora = browser()
    sign_up(nora)
    out_and_in(nora, "nora@example.org")
    assert post.of(NEW_DEVICE) == []


def test_nor_is_one_that_had_to_confirm_its_address_first(db, settings, post):
    Scene.with_mail_server(SimpleNamespace(settings=settings))
    nora = browser()
    sign_up(nora)
    nora.post("/account/confirm-email", {"code": code_in(post.letters[-1].text)})
    out_and_in(nora, "nora@example.org")
    assert post.of(NEW_DEVICE) == []


def test_alice_is_told_of_a_new_device_once(alice, post):
    known, other = browser(), browser(SAFARI, "198.51.100.7")
    out_and_in(known)
    post.forget()
    out_and_in(known)
    assert post.letters == []
    out_and_in(other)
    letter = post.the(NEW_DEVICE)
    assert letter.to == alice.email
    assert "Mobile Safari on iOS" in letter.text
    assert "198.51.100.7" in letter.text
    out_and_in(other)
    out_and_in(known)
    assert len(post.letters) == 1


def test_on_a_public_device_she_is_told_each_time(alice, post):
    library = browser()
    for _ in range(3):
        out_and_in(library, public_device="on")
    assert len(post.of(NEW_DEVICE)) == 3
    # And it does not become hers by being used without the tick, once.
    out_and_in(library)
    assert len(post.of(NEW_DEVICE)) == 4


def test_a_device_that_is_alices_is_not_mallorys(alice, mallory, post):
    shared = browser()
    out_and_in(shared)
    post.forget()
    out_and_in(shared, "mallory@example.org")
    assert post.the(NEW_DEVICE).to == mallory.email
    out_and_in(shared)
    assert len(post.letters) == 1, "both are remembered"


def test_a_device_does_not_say_whose_it_is(alice, post):
    hers = browser()
    out_and_in(hers)
    (cookie,) = [morsel for name, morsel in hers.cookies.items() if name.startswith("device")]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    for told in (alice.email, str(alice.pk), alice.pk.hex):
        assert told not in cookie.value


@pytest.mark.parametrize("damage", ["cut", "flipped", "nonsense", "empty"])
def test_a_mark_that_is_not_ours_is_worth_nothing(alice, post, damage):
    hers = browser()
    out_and_in(hers)
    post.forget()
    (name,) = [name for name in hers.cookies if name.startswith("device")]
    mark = hers.cookies[name].value
    forged = browser()
    forged.cookies[name] = {
        "cut": mark[:-3],
        "flipped": mark[:-1] + ("A" if mark[-1] != "A" else "B"),
        "nonsense": "nonsense",
        "empty": "",
    }[damage]
    out_and_in(forged)
    assert len(post.of(NEW_DEVICE)) == 1


def test_who_does_not_get_past_the_second_factor_is_not_told_of_as_signed_in(alice, post):
    TOTP.activate(alice, generate_totp_secret())
    log_in(browser(SAFARI))
    assert post.letters == []


def test_a_notice_that_cannot_be_kept_does_not_undo_a_login(alice, settings):
    settings.MAILERS = {"default": {"BACKEND": "tests.accounts.mail.DownBackend"}}
    hers = browser()
    out_and_in(hers)
    assert hers.get("/keys/").status_code == 200
