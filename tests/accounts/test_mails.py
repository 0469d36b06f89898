"""Every mail to users: content, language and links.

Each mail is sent by its real cause, so that its context is real as well.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
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
from django.core.cache import cache
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.urls import resolve
from django.utils import timezone, translation
from django.utils.html import escape

from accounts import device_tracking, mail, services
from accounts.models import User
from apikeys import notices
from apikeys.models import APIKey
from tests.accounts.test_signing_in import NEW_PASSWORD, RESET
from tests.conftest import PASSWORD, Issue, show_who
from tests.factories import FIREFOX, SAFARI, browser, log_in, sign_up
from tests.mail_server import code_in

DAY = timedelta(days=1)
HOSTILE = "<b>x</b> \"quoted\" & 'single' {{ key.encoded }} %(name)s"


@dataclass(frozen=True)
class SentMail:
    """A mail with the template and context it was rendered from."""

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
        """Return the links in the text, except the one in the signature."""
        found = re.findall(r"https?://[!-~]+", self.text)
        return [link for link in found if link != our_settings.PUBLIC_URL]

    @property
    def anchors(self) -> list[str]:
        return [unescape(link) for link in re.findall(r'href="([^"]*)"', self.html)]


@dataclass
class Mailbox:
    """The mails of a test, in order."""

    outbox: list[EmailMultiAlternatives]
    letters: list[SentMail] = field(default_factory=list)

    def forget(self) -> None:
        self.letters.clear()
        self.outbox.clear()

    def of(self, template: str) -> list[SentMail]:
        return [letter for letter in self.letters if letter.template == template]

    def the(self, template: str) -> SentMail:
        sent = [letter.template for letter in self.letters]
        assert sent.count(template) == 1, sent
        return self.of(template)[0]


@pytest.fixture
def mailbox(monkeypatch, mailoutbox) -> Iterator[Mailbox]:
    mailbox = Mailbox(mailoutbox)

    def noting(template: str, to: str, context: dict[str, Any]) -> EmailMultiAlternatives:
        message = COMPOSE(template, to, context)
        language = translation.get_language()
        mailbox.letters.append(SentMail(template, language, {**context}, message))
        return message

    monkeypatch.setattr(mail, "compose", noting)
    yield mailbox
    # Mails are sent in no other way.
    assert [sent.body for sent in mailoutbox] == [letter.text for letter in mailbox.letters]


@dataclass
class Scene:
    """Alice in a freshly logged-in browser, and what else a mail needs."""

    client: Client
    alice: User
    issue: Issue
    settings: Any
    monkeypatch: pytest.MonkeyPatch
    # An anonymous browser, and the language of its pages.
    anonymous: Client
    mailbox: Mailbox
    committing: Callable[[], AbstractContextManager[object]]

    def with_mail_server(self) -> None:
        self.settings.HAS_MAIL_SERVER = True
        self.settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
        self.settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
        self.settings.ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True

    def last_code(self) -> str:
        return code_in(self.mailbox.letters[-1].text)


@pytest.fixture
def scene(
    alice, issue, settings, monkeypatch, mailbox, django_capture_on_commit_callbacks
) -> Scene:
    EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)
    client = Client(headers={"user-agent": FIREFOX, "accept-language": "ko"})
    client.force_login(alice)
    show_who(client, alice)
    anonymous = Client(headers={"user-agent": SAFARI, "accept-language": "ko"})
    committing = partial(django_capture_on_commit_callbacks, execute=True)
    return Scene(client, alice, issue, settings, monkeypatch, anonymous, mailbox, committing)


def set_language(scene: Scene, language: str) -> None:
    """Set alice's language; an anonymous browser requests it."""
    User.objects.filter(pk=scene.alice.pk).update(language=language)
    scene.alice.refresh_from_db()


# --- Scenes ----------------------------------------------------------------------------------


def requests_password_reset(scene: Scene) -> None:
    scene.anonymous.post(RESET, {"email": scene.alice.email})


def resets_her_password(scene: Scene) -> None:
    requests_password_reset(scene)
    (link,) = scene.mailbox.letters[-1].links
    form = scene.anonymous.get(urlsplit(link).path, follow=True)
    where = form.request["PATH_INFO"]
    scene.anonymous.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})


def changes_her_password(scene: Scene) -> None:
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    scene.client.post("/account/password/change", {"oldpassword": PASSWORD, **new})


def sets_a_password(scene: Scene) -> None:
    services.make_password_unusable(scene.alice)
    scene.client.force_login(scene.alice)
    show_who(scene.client, scene.alice)
    new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    scene.client.post("/account/password/set", new)


def signs_up(scene: Scene) -> None:
    sign_up(scene.anonymous, "nora@example.org")


def signs_up_with_a_mail_server(scene: Scene) -> None:
    scene.with_mail_server()
    signs_up(scene)


def signs_up_with_a_taken_email(scene: Scene) -> None:
    scene.with_mail_server()
    sign_up(scene.anonymous, scene.alice.email)


def resends_link(scene: Scene) -> None:
    EmailAddress.objects.update(verified=False)
    scene.client.post("/account/email", {"email": scene.alice.email, "action_send": ""})


def resends_code(scene: Scene) -> None:
    scene.with_mail_server()
    resends_link(scene)


def requests_login_code(scene: Scene) -> None:
    scene.anonymous.post("/login/code", {"email": scene.alice.email})


def reauthenticates_by_mail(scene: Scene) -> None:
    scene.with_mail_server()
    scene.client.post("/account/reauthenticate/mail", {"send": "1"})


def requests_login_code_without_an_account(scene: Scene) -> None:
    scene.anonymous.post("/login/code", {"email": "nobody@example.org"})


def requests_email_change(scene: Scene) -> None:
    scene.with_mail_server()
    scene.client.post("/account/email", {"email": "new@example.org", "action_add": ""})


def changes_her_email(scene: Scene) -> None:
    requests_email_change(scene)
    scene.client.post("/account/email/approve", {"code": scene.last_code()})
    scene.client.post("/account/confirm-email", {"code": scene.last_code()})


def keeps_her_old_email(scene: Scene) -> None:
    scene.client.post("/account/email", {"email": "new@example.org", "action_add": ""})
    scene.client.post("/account/email", {"email": "new@example.org", "action_remove": ""})


def logs_in_on_another_device(scene: Scene) -> None:
    log_in(scene.anonymous)


def adds_an_app(scene: Scene) -> None:
    page = scene.client.get("/account/factors/app/activate")
    counter = next(yield_hotp_counters_from_time()) + 1
    code = format_hotp_value(hotp_value(page.context["form"].secret, counter))
    with scene.committing():
        scene.client.post("/account/factors/app/activate", {"code": code})


def removes_the_app(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    scene.client.post("/account/factors/app/deactivate")


def generates_recovery_codes(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    with scene.committing():
        scene.client.post("/account/factors/recovery-codes/generate")


def adds_a_passkey(scene: Scene) -> None:
    # The response of a real authenticator is tested in tests/browser.
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


def has_factors_removed_by_staff(scene: Scene) -> None:
    TOTP.activate(scene.alice, generate_totp_secret())
    chosen = {"action": "remove_factors", "_selected_action": scene.alice.pk}
    sams_browser(scene).post("/admin/accounts/user/", {**chosen, "confirmed": "1"})


def connects_a_login(scene: Scene) -> None:
    """She logged in with GitHub, was redirected to the login page, and gave her password."""
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    session = scene.anonymous.session
    session["login_to_connect"] = SocialLogin(
        user=User(),
        account=SocialAccount(provider="github", uid="1", extra_data={}),
        email_addresses=[EmailAddress(email=scene.alice.email, verified=True, primary=True)],
        provider=get_adapter().get_provider(None, "github"),
    ).serialize()
    session.save()
    log_in(scene.anonymous)
    assert SocialAccount.objects.get().user == scene.alice


def disconnects_a_login(scene: Scene) -> None:
    SocialApp.objects.create(provider="github", name="GitHub", client_id="i", secret="s")
    login = SocialAccount.objects.create(user=scene.alice, provider="github", uid="1")
    scene.client.post("/account/logins", {"account": login.pk})
    assert not SocialAccount.objects.exists()


def creates_key(scene: Scene, name: str = "studio") -> APIKey:
    scene.client.post("/keys/generate", {"name": name, "nonce": str(uuid4())})
    return APIKey.objects.get(owner=scene.alice, name=name)


def has_key_revoked_by_staff(scene: Scene, name: str = "studio") -> None:
    key = creates_key(scene, name)
    sams_browser(scene).post(f"/admin/apikeys/apikey/{key.pk}/revoke/")


def has_key_suspended(scene: Scene) -> None:
    key = creates_key(scene)
    sams_browser(scene).post(f"/admin/apikeys/apikey/{key.pk}/suspend/")


def has_key_restored(scene: Scene) -> None:
    has_key_suspended(scene)
    key = APIKey.objects.get()
    sams_browser(scene).post(f"/admin/apikeys/apikey/{key.pk}/restore/")


def is_disabled(scene: Scene) -> None:
    sams_browser(scene).post(
        f"/admin/accounts/user/{scene.alice.pk}/disable/", {"reason": "A test"}
    )


def is_enabled(scene: Scene) -> None:
    is_disabled(scene)
    sams_browser(scene).post(f"/admin/accounts/user/{scene.alice.pk}/enable/")


def sams_browser(scene: Scene) -> Client:
    """Sam, who uses Korean, and administers alice's account and keys."""
    browser = Client(headers={"accept-language": "ko"})
    sam = services.make_staff("sam@example.org", PASSWORD)[0]
    browser.force_login(sam)
    show_who(browser, sam)
    return browser


def has_key_reported_as_leaked(scene: Scene) -> None:
    _key, token = scene.issue("studio")
    scene.mailbox.forget()
    scene.anonymous.post(
        "/leaks", {"key": token.reveal(), "url": "https://evil.example/a.txt?b=c#d"}
    )


def has_a_key_in_time(scene: Scene, **ahead: timedelta | None) -> None:
    """Give alice a key with times from now, and send the notices that are due."""
    key, _token = scene.issue("studio")
    times = {name: span and timezone.now() + span for name, span in ahead.items()}
    APIKey.objects.filter(pk=key.pk).update(**times)
    scene.mailbox.forget()
    notices.send()


def has_a_key_that_expires_soon(scene: Scene) -> None:
    has_a_key_in_time(scene, created_at=-30 * DAY, expires_at=3 * DAY)


def has_a_key_that_expired(scene: Scene) -> None:
    has_a_key_in_time(scene, created_at=-30 * DAY, expires_at=-timedelta(hours=1))


def has_an_unused_key(scene: Scene) -> None:
    has_a_key_in_time(scene, created_at=-500 * DAY, last_used_at=-400 * DAY)


def deletes_her_account(scene: Scene) -> None:
    scene.client.post("/account/delete", {"email": scene.alice.email})
    assert not User.objects.filter(pk=scene.alice.pk).exists()


CODE = "a code"
NOTHING = "nothing"
SIGNED_IN = "sessions"

# Cause, template, and what the mail contains: a link to the page with this name, a code, or
# neither.
MAILS: list[tuple[Callable[[Scene], None], str, str]] = [
    (
        requests_password_reset,
        "account/email/password_reset_key",
        "account_reset_password_from_key",
    ),
    (resets_her_password, "account/email/password_reset", SIGNED_IN),
    (changes_her_password, "account/email/password_changed", SIGNED_IN),
    (sets_a_password, "account/email/password_set", SIGNED_IN),
    (signs_up, "account/email/email_confirmation_signup", "account_confirm_email"),
    (signs_up_with_a_mail_server, "account/email/email_confirmation_signup", CODE),
    (
        signs_up_with_a_taken_email,
        "account/email/account_already_exists",
        "account_reset_password",
    ),
    (resends_link, "account/email/email_confirmation", "account_confirm_email"),
    (resends_code, "account/email/email_confirmation", CODE),
    (requests_login_code, "account/email/login_code", CODE),
    (reauthenticates_by_mail, "account/email/login_code", CODE),
    (
        requests_login_code_without_an_account,
        "account/email/unknown_account",
        "account_signup",
    ),
    # The code, and a link for recipients who did not request it.
    (requests_email_change, "accounts/email/approve_change", SIGNED_IN),
    (changes_her_email, "account/email/email_changed", SIGNED_IN),
    (keeps_her_old_email, "account/email/email_deleted", SIGNED_IN),
    (logs_in_on_another_device, "accounts/email/new_device", SIGNED_IN),
    (adds_an_app, "mfa/email/totp_activated", SIGNED_IN),
    (removes_the_app, "mfa/email/totp_deactivated", SIGNED_IN),
    (generates_recovery_codes, "mfa/email/recovery_codes_generated", SIGNED_IN),
    (adds_a_passkey, "mfa/email/webauthn_added", SIGNED_IN),
    (removes_a_passkey, "mfa/email/webauthn_removed", SIGNED_IN),
    (has_factors_removed_by_staff, "accounts/email/factors_removed", "mfa_index"),
    (connects_a_login, "socialaccount/email/account_connected", SIGNED_IN),
    (disconnects_a_login, "socialaccount/email/account_disconnected", SIGNED_IN),
    (creates_key, "apikeys/email/issued", "delete_key"),
    (has_key_revoked_by_staff, "apikeys/email/revoked", "keys"),
    (has_key_reported_as_leaked, "apikeys/email/leaked", "keys"),
    (has_key_suspended, "apikeys/email/suspended", "keys"),
    (has_key_restored, "apikeys/email/restored", "keys"),
    (has_a_key_that_expires_soon, "apikeys/email/expiring", "roll_key"),
    (has_a_key_that_expired, "apikeys/email/expired", "keys"),
    (has_an_unused_key, "apikeys/email/unused", "delete_key"),
    (is_disabled, "accounts/email/disabled", NOTHING),
    (is_enabled, "accounts/email/enabled", "keys"),
    (deletes_her_account, "accounts/email/deleted", NOTHING),
]
# Templates of allauth that are never sent with our settings: a reset code, and a message that an
# email is verified. And the two base templates.
NEVER_SENT = {
    "account/email/password_reset_code",
    "account/email/email_confirm",
    "account/email/base",
    "account/email/base_notification",
}
# Recipients without an account: the language is that of the page.
OF_THE_PAGE = {signs_up, signs_up_with_a_mail_server, requests_login_code_without_an_account}

# Users can turn these off.
OPTIONAL = {creates_key, has_an_unused_key}
COMPOSE = mail.compose

each_mail = pytest.mark.parametrize(
    ("happens", "template", "has"),
    MAILS,
    ids=[happens.__name__ for happens, _template, _has in MAILS],
)


def test_every_mail_template_has_a_scene():
    folders = [*our_settings.TEMPLATES[0]["DIRS"], Path(allauth.__file__).parent / "templates"]
    templates = {
        str(path.relative_to(folder)).removesuffix(".txt").removesuffix("_message")
        for folder in folders
        for path in Path(folder).rglob("*/email/*.txt")
        if not path.name.endswith("_subject.txt")
    }
    assert {template for _happens, template, _has in MAILS} == templates - NEVER_SENT


# --- Checks of every mail --------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ja"])
@each_mail
def test_a_mail_is_complete_and_links_only_to_this_site(scene, happens, template, has, language):
    if happens in OF_THE_PAGE:
        scene.anonymous.defaults["HTTP_ACCEPT_LANGUAGE"] = language
    set_language(scene, language)
    if language == "ja" and happens not in OPTIONAL:
        turn_notices_off(scene)
    happens(scene)
    letter = scene.mailbox.the(template)
    is_complete(letter)
    is_in_language(letter, language)
    if language == "en":
        has_the_same_content_in_every_language(letter)
    links_only_to_this_site(letter, has, scene)


def has_the_same_content_in_every_language(letter: SentMail) -> None:
    for language, _name in our_settings.LANGUAGES:
        with translation.override(language):
            message = COMPOSE(letter.template, letter.to, letter.context)
        translated = replace(letter, language=language, message=message)
        is_complete(translated)
        assert translated.links == letter.links
        assert translated.anchors == letter.anchors
        if "code" in letter.context:
            assert code_in(translated.text) == letter.context["code"]


def is_complete(letter: SentMail) -> None:
    assert letter.message.subject.strip()
    assert "\n" not in letter.message.subject
    assert letter.text.strip()
    assert letter.message.from_email == our_settings.DEFAULT_FROM_EMAIL
    for part in (letter.message.subject, letter.text, letter.html):
        for leftover in ("{{", "}}", "{%", "%}", "{#", "#}", "%(", "\N{REPLACEMENT CHARACTER}"):
            assert leftover not in part, f"{leftover} in {part}"
        assert not re.search(r"\b(None|True|False|object at)\b", part)
    # No missing variable.
    assert not re.search(r"“\s*”|\(\s*\)", letter.text)
    # Text and HTML have the same content.
    html = unescape(re.sub(r"<[^>]*>", "", letter.html.partition("</title>")[2]))
    for line in letter.text.splitlines():
        assert line.removeprefix("-- ").strip() in html


def is_in_language(letter: SentMail, language: str) -> None:
    assert letter.language == language
    direction = "rtl" if language == "ar" else "ltr"
    assert f'<html lang="{language}" dir="{direction}">' in letter.html
    with translation.override(language):
        expected = COMPOSE(letter.template, letter.to, letter.context)
    assert (expected.subject, expected.body) == (letter.message.subject, letter.text)
    if language != "en":
        with translation.override("en"):
            english = COMPOSE(letter.template, letter.to, letter.context)
        assert english.subject != letter.message.subject


def links_only_to_this_site(letter: SentMail, has: str, scene: Scene) -> None:
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
    """Open the page logged in and, if it requires no login, anonymously."""
    anonymous = Client().get(address, follow=True)
    assert anonymous.status_code == 200
    if anonymous.request["PATH_INFO"] == "/login":
        visitor = Client()
        # Some of the mails tell of a new password.
        scene.alice.refresh_from_db()
        visitor.force_login(scene.alice)
        show_who(visitor, scene.alice)
        page = visitor.get(address, follow=True)
        assert page.status_code == 200
        assert page.request["PATH_INFO"] == address.partition("?")[0]


def test_a_mail_is_in_the_language_of_its_recipients_account(scene, client):
    """Independent of the language of the user or browser that caused the mail."""
    subjects = set()
    for language, _name in our_settings.LANGUAGES:
        set_language(scene, language)
        scene.mailbox.forget()
        # More mails than one recipient gets in an hour.
        cache.clear()
        requests_password_reset(scene)
        letter = scene.mailbox.the("account/email/password_reset_key")
        is_in_language(letter, language)
        subjects.add(letter.message.subject)
    assert len(subjects) == len(our_settings.LANGUAGES)


def test_the_device_in_a_mail_is_described_in_the_mails_language(scene, monkeypatch):
    monkeypatch.setattr(device_tracking, "_", lambda text: f"{text} ({translation.get_language()})")
    set_language(scene, "ja")
    logs_in_on_another_device(scene)
    resets_her_password(scene)
    for template in ("accounts/email/new_device", "account/email/password_reset"):
        text = scene.mailbox.the(template).text
        assert "Mobile Safari on iOS (ja)" in text, template


# --- Text from users -------------------------------------------------------------------------


@pytest.mark.parametrize("happens", [creates_key, has_key_revoked_by_staff])
def test_a_keys_name_is_unchanged_in_text_and_escaped_in_html(scene, happens):
    happens(scene, HOSTILE)
    letter = scene.mailbox.letters[-1]
    assert HOSTILE in letter.text
    assert HOSTILE in letter.message.subject
    assert HOSTILE not in letter.html
    assert "<b>" not in letter.html
    # Once in the title, once in the heading, once in the text.
    assert letter.html.count(escape(HOSTILE)) == 3


@pytest.mark.parametrize("happens", [creates_key, has_key_revoked_by_staff])
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
def test_a_keys_name_becomes_neither_link_nor_code(scene, happens, name):
    happens(scene, name)
    letter = scene.mailbox.letters[-1]
    (link,) = letter.anchors
    assert link.startswith(f"{our_settings.PUBLIC_URL}/keys/")
    assert name.strip() in letter.text
    assert "monospace" not in letter.html
    assert letter.html.count("<a ") == 1


def test_an_email_is_unchanged_in_text_and_escaped_in_html(scene):
    scene.with_mail_server()
    odd = "o'brien&{sons}@example.org"
    scene.client.post("/account/email", {"email": odd, "action_add": ""})
    letter = scene.mailbox.the("accounts/email/approve_change")
    assert odd in letter.text
    assert odd not in letter.html
    assert escape(odd) in letter.html


def test_a_user_agent_is_escaped(scene):
    scene.anonymous.defaults["HTTP_USER_AGENT"] = "<script>alert(1)</script> http://evil.example"
    logs_in_on_another_device(scene)
    letter = scene.mailbox.the("accounts/email/new_device")
    assert "<script" not in letter.html
    assert "evil.example" not in letter.text


# --- Which mails are sent --------------------------------------------------------------------


def turn_notices_off(scene: Scene) -> None:
    User.objects.update(notices=User.Notices.SECURITY)
    scene.alice.refresh_from_db()


@pytest.mark.parametrize("happens", OPTIONAL)
def test_mails_about_new_and_unused_keys_can_be_turned_off(scene, happens):
    """That the others cannot is part of the test of every mail, in Japanese."""
    turn_notices_off(scene)
    happens(scene)
    assert scene.mailbox.letters == []


def test_a_key_created_over_the_api_is_notified(scene):
    response = scene.client.post(
        "/customers/api-keys", {"name": "studio"}, content_type="application/json"
    )
    assert response.status_code == 201
    assert scene.mailbox.the("apikeys/email/issued").to == scene.alice.email


def test_no_mail_contains_the_key(scene):
    page = scene.client.post("/keys/generate", {"name": "studio", "nonce": str(uuid4())})
    token = re.search(r"comfyui-[0-9a-f]{64}", page.text)[0]
    letter = scene.mailbox.the("apikeys/email/issued")
    assert APIKey.objects.get().masked in letter.text
    for part in (letter.text, letter.html, letter.message.subject):
        assert token[20:] not in part
        assert token[20:28] not in part


def test_three_keys_suspended_by_staff_send_three_mails(scene):
    made = [creates_key(scene, f"key {number}") for number in range(3)]
    scene.mailbox.forget()
    sams_browser(scene).post(
        "/admin/apikeys/apikey/",
        {
            "action": "suspend_selected",
            "_selected_action": [key.pk for key in made],
            "confirmed": "1",
        },
    )
    assert [letter.template for letter in scene.mailbox.letters] == ["apikeys/email/suspended"] * 3
    assert {letter.to for letter in scene.mailbox.letters} == {scene.alice.email}
    for number in range(3):
        assert sum(f"“key {number}”" in letter.text for letter in scene.mailbox.letters) == 1


@pytest.mark.parametrize("channel", ["page", "api"])
def test_deleting_ones_own_key_sends_no_mail(scene, channel):
    key = creates_key(scene)
    scene.mailbox.forget()
    if channel == "page":
        assert scene.client.post(f"/keys/{key.pk}/delete").status_code == 302
    else:
        assert scene.client.delete(f"/customers/api-keys/{key.pk}").status_code == 204
    assert scene.mailbox.letters == []


def test_keys_deleted_with_their_account_send_one_mail(scene):
    for number in range(3):
        creates_key(scene, f"key {number}")
    scene.mailbox.forget()
    deletes_her_account(scene)
    assert [letter.template for letter in scene.mailbox.letters] == ["accounts/email/deleted"]


# --- New devices -----------------------------------------------------------------------------

NEW_DEVICE = "accounts/email/new_device"


def log_out_and_in(browser: Client, email: str = "alice@example.org", **more: str) -> None:
    browser.post("/logout")
    response = browser.post("/login", {"login": email, "password": PASSWORD, **more})
    assert response["Location"] == "/keys/"


def test_a_new_account_gets_no_mail_about_its_first_device(db, mailbox):
    nora = browser()
    sign_up(nora)
    log_out_and_in(nora, "nora@example.org")
    assert mailbox.of(NEW_DEVICE) == []


def test_a_new_account_with_email_verification_gets_no_mail_about_its_first_device(
    db, settings, mailbox
):
    Scene.with_mail_server(SimpleNamespace(settings=settings))
    nora = browser()
    sign_up(nora)
    nora.post("/account/confirm-email", {"code": code_in(mailbox.letters[-1].text)})
    log_out_and_in(nora, "nora@example.org")
    assert mailbox.of(NEW_DEVICE) == []


def test_a_new_device_is_notified_once(alice, mailbox):
    known, other = browser(), browser(SAFARI, "198.51.100.7")
    log_out_and_in(known)
    mailbox.forget()
    log_out_and_in(known)
    assert mailbox.letters == []
    log_out_and_in(other)
    letter = mailbox.the(NEW_DEVICE)
    assert letter.to == alice.email
    assert "Mobile Safari on iOS" in letter.text
    assert "198.51.100.7" in letter.text
    log_out_and_in(other)
    log_out_and_in(known)
    assert len(mailbox.letters) == 1


def test_a_public_device_is_notified_at_each_log_in(alice, mailbox):
    library = browser()
    for _ in range(3):
        log_out_and_in(library, public_device="on")
    assert len(mailbox.of(NEW_DEVICE)) == 3
    # One login without the checkbox does not make the public device known.
    log_out_and_in(library)
    assert len(mailbox.of(NEW_DEVICE)) == 4


def test_alices_device_is_not_known_for_mallory(alice, mallory, mailbox):
    shared = browser()
    log_out_and_in(shared)
    mailbox.forget()
    log_out_and_in(shared, "mallory@example.org")
    assert mailbox.the(NEW_DEVICE).to == mallory.email
    log_out_and_in(shared)
    assert len(mailbox.letters) == 1, "both are remembered"


def test_the_device_cookie_does_not_reveal_accounts(alice, mailbox):
    hers = browser()
    log_out_and_in(hers)
    (cookie,) = [morsel for name, morsel in hers.cookies.items() if name.startswith("device")]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    for identifier in (alice.email, str(alice.pk), alice.pk.hex):
        assert identifier not in cookie.value


@pytest.mark.parametrize("damage", ["cut", "flipped", "nonsense", "empty"])
def test_a_forged_device_cookie_is_not_known(alice, mailbox, damage):
    hers = browser()
    log_out_and_in(hers)
    mailbox.forget()
    (name,) = [name for name in hers.cookies if name.startswith("device")]
    mark = hers.cookies[name].value
    forged = browser()
    forged.cookies[name] = {
        "cut": mark[:-3],
        "flipped": mark[:-1] + ("A" if mark[-1] != "A" else "B"),
        "nonsense": "nonsense",
        "empty": "",
    }[damage]
    log_out_and_in(forged)
    assert len(mailbox.of(NEW_DEVICE)) == 1


def test_a_log_in_without_the_second_factor_is_not_notified(alice, mailbox):
    TOTP.activate(alice, generate_totp_secret())
    log_in(browser(SAFARI))
    assert mailbox.letters == []


def test_a_notice_that_cannot_be_stored_does_not_fail_a_log_in(alice, settings):
    settings.MAILERS = {"default": {"BACKEND": "tests.accounts.mail.DownBackend"}}
    hers = browser()
    log_out_and_in(hers)
    assert hers.get("/keys/").status_code == 200
