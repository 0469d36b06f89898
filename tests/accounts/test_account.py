"""The User section: profile, language, address, one's data and the end of it all; and providers."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.apps import apps
from django.conf import settings as our_settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client

from accounts import services as accounts
from accounts.models import User
from apikeys import services, usage
from apikeys.models import APIKey, DailyUse, Reason
from apikeys.services import Code
from audit.models import Action, Event, Via
from audit.trail import Actor
from tests.accounts.test_signing_in import (
    CONFIRM,
    NEW_PASSWORD,
    NOTICES,
    RESET,
    code_in,
    is_in,
    link_in,
    log_in,
    sign_up,
)
from tests.conftest import PASSWORD, show_who

EMAIL = "/account/email"
APPROVE = "/account/email/approve"
DATA = "/account/data"
DELETE = "/account/delete"
ADDRESS = "203.0.113.9"


@pytest.fixture
def with_mail(settings):
    """As settings.py has it when EMAIL_URL is set; mails stay in the test's outbox."""
    settings.HAS_MAIL_SERVER = True
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
    settings.ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
    return settings


@pytest.fixture
def proved(alice) -> EmailAddress:
    return EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)


def language_of(page) -> str:
    return re.search(r'<html lang="([^"]+)"', page.text)[1]


# --- Profile ---------------------------------------------------------------------------------


def test_alice_saves_her_profile(signed_in, alice):
    client = signed_in(alice)
    body = {"name": "Alice Liddell", "language": "ja", "notices": "security"}
    page = client.post("/account/", body, follow=True)
    alice.refresh_from_db()
    assert (alice.name, alice.language, alice.notices) == ("Alice Liddell", "ja", "security")
    # From the very next page on.
    assert language_of(page) == "ja"
    shown = client.get("/account/").context["form"]
    assert [shown[name].value() for name in ("name", "language", "notices")] == list(body.values())


@pytest.mark.parametrize(
    "change", [{"language": "tlh"}, {"language": "xx"}, {"notices": "none"}, {"notices": ""}]
)
def test_what_is_no_choice_is_refused(signed_in, alice, change):
    body = {"name": "Alice L.", "language": "", **NOTICES, **change}
    page = signed_in(alice).post("/account/", body)
    assert page.status_code == 200
    assert page.context["form"].errors.keys() == change.keys()
    alice.refresh_from_db()
    assert (alice.name, alice.language, alice.notices) == ("Alice", "", "all")


def test_alice_takes_her_choice_of_a_language_back(signed_in, alice):
    User.objects.update(language="ko")
    client = signed_in(alice)
    client.post("/account/", {"name": "Alice", "language": "", **NOTICES})
    alice.refresh_from_db()
    assert alice.language == ""
    assert language_of(client.get("/account/", headers={"accept-language": "zh-TW"})) == "zh-hant"


# --- Language --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("", "en"),
        ("ja", "ja"),
        ("ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        ("ko-KR", "ko"),
        ("zh-CN,zh;q=0.9", "zh-hans"),
        ("zh-TW", "zh-hant"),
        ("zh-HK", "zh-hant"),
        ("fr,ko;q=0.5", "ko"),
        ("fr", "en"),
        ("*", "en"),
        ("nonsense;;;q", "en"),
    ],
)
def test_pages_speak_as_the_browser_asks(client, db, asked, language):
    page = client.get("/login", headers={"accept-language": asked})
    assert language_of(page) == language
    assert page["Content-Language"] == language
    assert {"Accept-Language", "Cookie"} <= set(page["Vary"].split(", "))


def test_what_was_chosen_in_this_browser_counts_before_what_it_asks(client, db):
    chosen = client.post("/language", {"language": "ja", "next": "/signup"})
    assert (chosen.status_code, chosen["Location"]) == (302, "/signup")
    cookie = client.cookies[our_settings.LANGUAGE_COOKIE_NAME]
    assert cookie.value == "ja"
    assert cookie["httponly"]
    assert cookie["max-age"] > 300 * 24 * 3600
    assert language_of(client.get("/signup", headers={"accept-language": "ko"})) == "ja"


def test_what_was_chosen_in_the_account_counts_before_both(signed_in, alice):
    client = signed_in(alice)
    client.cookies[our_settings.LANGUAGE_COOKIE_NAME] = "ja"
    User.objects.update(language="zh-hant")
    page = client.get("/keys/", headers={"accept-language": "ko"})
    assert language_of(page) == "zh-hant"
    client.post("/logout")
    assert language_of(client.get("/login", headers={"accept-language": "ko"})) == "ja"


def test_the_foot_of_the_page_chooses_for_the_account_too(signed_in, alice, mallory):
    client = signed_in(alice)
    client.post("/language", {"language": "ko", "next": "/keys/"})
    alice.refresh_from_db()
    mallory.refresh_from_db()
    assert (alice.language, mallory.language) == ("ko", "")
    assert language_of(Client().get("/login")) == "en"
    elsewhere = Client()
    log_in(elsewhere)
    assert language_of(elsewhere.get("/keys/")) == "ko"


@pytest.mark.parametrize("language", ["", "tlh", "de", "../ja", "ja "])
def test_what_is_no_language_of_ours_is_not_chosen(signed_in, alice, language):
    client = signed_in(alice)
    assert client.post("/language", {"language": language}).status_code == 404
    assert our_settings.LANGUAGE_COOKIE_NAME not in client.cookies
    alice.refresh_from_db()
    assert alice.language == ""


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_choosing_a_language_leads_nowhere_else(client, db, where):
    answer = client.post("/language", {"language": "ja", "next": where})
    assert urlsplit(answer["Location"]).netloc == ""
    assert answer["Location"].startswith("/")
    referred = client.post("/language", {"language": "ja"}, headers={"referer": where})
    assert urlsplit(referred["Location"]).netloc == ""


def test_a_language_is_chosen_by_a_form_of_ours_alone(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.get("/language").status_code == 405
    assert client.post("/language", {"language": "ja"}).status_code == 403
    alice.refresh_from_db()
    assert alice.language == ""


def test_every_page_offers_every_language_in_its_own_words(client, db):
    for address in ("/login", "/signup"):
        page = client.get(address).text
        for code, name in our_settings.LANGUAGES:
            assert re.search(rf'value="{code}" lang="{code}"[^>]*>{name}<', page), address


def test_whoever_signs_up_has_the_language_of_the_page(client, db):
    sign_up(client, headers={"accept-language": "ja"})
    assert User.objects.get().language == "ja"


def test_the_api_speaks_english_whoever_asks(signed_in, alice, issue):
    User.objects.update(language="ja")
    key, token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    client = signed_in(alice)
    client.cookies[our_settings.LANGUAGE_COOKIE_NAME] = "ja"
    for method, path, headers in (
        ("post", "/customers", {"x-api-key": token.reveal()}),
        ("get", "/customers/me", {"x-api-key": "comfyui-nonsense"}),
        ("post", "/api/v1/keys/validate", {"x-api-key": token.reveal()}),
        ("post", "/customers/api-keys", {}),
        ("get", "/api/v1/nowhere", {}),
        ("get", "/customers/nowhere", {}),
        ("post", "/health", {}),
    ):
        answer = getattr(client, method)(path, headers={"accept-language": "ja", **headers})
        assert answer.status_code >= 400, path
        assert answer.text.isascii(), path
        assert answer.get("Content-Language", "en") == "en", path


# --- One's data ------------------------------------------------------------------------------


@pytest.fixture
def a_full_life(alice, proved, issue, mallory) -> dict[str, str]:
    """Alice has one of everything. Returns what must be shown to nobody."""
    by = Actor(user=alice, via=Via.PAGE, address=ADDRESS)
    key, token = issue("studio", description="the render box", by=by)
    gone, _token = issue("laptop", by=by)
    services.revoke(gone, reason=Reason.DELETED_BY_OWNER, by=by)
    services.validate(token.reveal())
    usage.flush()
    issue("mallory's", owner=mallory)
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    recovery = RecoveryCodes.activate(alice)
    Authenticator.objects.create(
        user=alice,
        type=Authenticator.Type.WEBAUTHN,
        data={"name": "Laptop", "credential": {"id": "the-credential"}},
    )
    login = SocialAccount.objects.create(
        user=alice, provider="github", uid="uid-4711", extra_data={"login": "alice-at-github"}
    )
    SocialToken.objects.create(account=login, token="a-token-of-githubs")
    elsewhere = Client(headers={"user-agent": "Elsewhere/1.0"}, REMOTE_ADDR=ADDRESS)
    elsewhere.force_login(alice)
    UserSession.objects.create(
        user=alice,
        session_key=elsewhere.session.session_key,
        ip=ADDRESS,
        user_agent="Elsewhere/1.0",
    )
    stored = {row.type: json.dumps(row.data) for row in Authenticator.objects.all()}
    key.refresh_from_db()
    return {
        "password hash": alice.password,
        "hash of a key": key.encoded,
        "key": token.reveal(),
        "secret of the key": token.reveal()[20:56],
        "nonce": str(key.nonce),
        "TOTP secret": secret,
        "encrypted TOTP secret": json.loads(stored["totp"])["secret"],
        "recovery code": recovery.get_unused_codes()[0],
        "seed of the recovery codes": json.loads(stored["recovery_codes"])["seed"],
        "credential": "the-credential",
        "token of a provider": "a-token-of-githubs",
        "session key": elsewhere.session.session_key,
    }


def test_alice_takes_all_that_is_kept_of_her_along(signed_in, alice, a_full_life):
    client = signed_in(alice)
    response = client.get(DATA)
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert re.fullmatch(
        r'attachment; filename="comfyui-keys-\d{4}-\d\d-\d\d\.json"',
        response["Content-Disposition"],
    )
    assert "no-store" in response["Cache-Control"]
    data = response.json()
    assert data["account"]["id"] == str(alice.pk)
    assert data["account"] | {"email": alice.email, "name": "Alice"} == data["account"]
    assert data["email_addresses"] == [{"email": alice.email, "verified": True, "primary": True}]
    (login,) = data["logins"]
    assert (login["provider"], login["id_there"]) == ("github", "uid-4711")
    assert login["what_it_told"] == {"login": "alice-at-github"}
    assert {factor["type"] for factor in data["factors"]} == {"totp", "recovery_codes", "webauthn"}
    assert "Laptop" in {factor["name"] for factor in data["factors"]}
    assert (ADDRESS, "Elsewhere/1.0") in {
        (session["ip"], session["user_agent"]) for session in data["sessions"]
    }
    assert {key["name"] for key in data["keys"]} == {"studio", "laptop"}
    assert {key["description"] for key in data["keys"]} == {"the render box", ""}
    assert [use["calls"] for use in data["daily_uses"]] == [1]
    assert sorted(event["action"] for event in data["events"]) == [
        "key.issued",
        "key.issued",
        "key.revoked",
    ]
    assert {event["address"] for event in data["events"]} == {ADDRESS}


def test_what_she_takes_along_has_no_secret(signed_in, alice, a_full_life):
    client = signed_in(alice)
    text = client.get(DATA).text
    secrets = {**a_full_life, "this session's key": client.session.session_key}
    for what, secret in secrets.items():
        assert secret not in text, what
    assert "argon2" not in text


def test_what_she_takes_along_is_hers_alone(signed_in, alice, mallory, a_full_life):
    assert "mallory" not in signed_in(alice).get(DATA).text
    theirs = signed_in(mallory).get(DATA).json()
    assert [key["name"] for key in theirs["keys"]] == ["mallory's"]
    assert "alice" not in json.dumps(theirs).lower()


def test_names_of_all_scripts_come_along_as_they_are(signed_in, alice):
    User.objects.update(name="山田　太郎")
    assert "山田　太郎" in signed_in(alice).get(DATA).text


def test_a_session_that_is_not_fresh_gets_no_data(signed_in, alice):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    response = client.get(DATA)
    assert response.status_code == 302
    assert response["Location"].startswith("/account/reauthenticate?next=")


# --- Leaving ---------------------------------------------------------------------------------


def everything_kept() -> Iterator[str]:
    """Every value in every table, and what is packed up in sessions."""
    for model in apps.get_models():
        for row in model._default_manager.values_list():
            yield f"{model._meta.label}: {row!r}"
    for session in Session.objects.all():
        yield f"session: {session.get_decoded()!r}"


@pytest.mark.parametrize("typed", ["alice@example.org", " ALICE@Example.org "])
def test_alice_deletes_her_account_and_nothing_of_her_is_left(signed_in, alice, a_full_life, typed):
    client = signed_in(alice)
    client.defaults["REMOTE_ADDR"] = ADDRESS
    told = {"alice", ADDRESS, "Elsewhere", "studio", "render box", "uid-4711"}
    told |= set(a_full_life.values())
    before = "\n".join(everything_kept())
    assert all(words in before for words in ("alice", ADDRESS, "Elsewhere", "studio", "uid-4711"))

    page = client.post(DELETE, {"email": typed}, follow=True)

    assert page.request["PATH_INFO"] == "/login"
    assert "Your account is deleted." in page.text
    assert not User.objects.filter(pk=alice.pk).exists()
    for kept in everything_kept():
        for words in told:
            assert words not in kept, kept
    assert not is_in(client)


def test_her_keys_are_refused_at_once(signed_in, alice, issue, client):
    _key, token = issue("studio")
    assert services.validate(token.reveal()).code is Code.VALID, "its proof is remembered"
    signed_in(alice).post(DELETE, {"email": alice.email})
    assert services.validate(token.reveal()).code is Code.NOT_FOUND
    answer = Client().post("/customers", headers={"X-API-Key": token.reveal()})
    assert (answer.status_code, answer.json()["error"]) == (401, "NOT_FOUND")


def test_she_is_logged_out_everywhere(signed_in, alice):
    elsewhere = Client()
    log_in(elsewhere)
    signed_in(alice).post(DELETE, {"email": alice.email})
    assert not is_in(elsewhere)
    assert elsewhere.get(DATA)["Location"].startswith("/login")
    log_in(elsewhere)
    assert not is_in(elsewhere)


def test_what_happened_is_kept_without_a_name(signed_in, alice, sam, a_full_life):
    by = Actor(user=sam, via=Via.ADMIN, address="192.0.2.200")
    services.revoke(APIKey.objects.get(name="studio"), reason=Reason.REVOKED_BY_STAFF, by=by)
    before = list(Event.objects.filter(account=alice).values("at", "action", "public_id", "key_id"))
    signed_in(alice).post(DELETE, {"email": alice.email})
    trail = Event.objects.filter(account_id=alice.pk)
    kept = list(trail.values("at", "action", "public_id", "key_id"))
    assert [event for event in kept if event in before] == before
    assert Action.ACCOUNT_DELETED in {event["action"] for event in kept}
    assert not trail.filter(actor_id=alice.pk, address__isnull=False).exists()
    # What staff did is still theirs.
    assert trail.get(actor=sam).address == "192.0.2.200"


def test_staff_can_still_read_what_happened(client, alice, sam, issue):
    issue("studio", by=Actor(user=alice, via=Via.PAGE, address=ADDRESS))
    issued = Event.objects.get()
    accounts.delete_account(alice)
    client.force_login(sam)
    there = list(Event.objects.all())
    assert len(there) == 3
    pages = [client.get("/admin/audit/event/")]
    pages += [client.get(f"/admin/audit/event/{event.pk}/change/") for event in there]
    assert {page.status_code for page in pages} == {200}
    assert issued.public_id in pages[0].text
    assert "account deleted by its owner" in pages[0].text


def test_what_staff_did_to_her_account_is_kept_without_her_name_as_well(client, alice, sam):
    """Django's admin notes each change, and what it was made to: by name."""
    client.force_login(sam)
    changed = {"email": alice.email, "name": "Alice A.", "is_active": "on"}
    # To the end, where the page that tells of the change has been read.
    client.post(f"/admin/accounts/user/{alice.pk}/change/", changed, follow=True)
    assert "alice@example.org" in str(list(LogEntry.objects.values()))
    accounts.delete_account(User.objects.get(pk=alice.pk))
    for kept in everything_kept():
        assert "alice" not in kept.lower(), kept


def test_she_gets_one_last_mail_in_her_language(signed_in, alice, issue, mailoutbox):
    User.objects.update(language="ja")
    issue("studio")
    mailoutbox.clear()
    signed_in(alice).post(DELETE, {"email": alice.email})
    (mail,) = mailoutbox
    assert mail.to == ["alice@example.org"]
    assert '<html lang="ja">' in mail.alternatives[0][0]


def test_the_address_is_free_again_and_opens_nothing_of_the_old(signed_in, alice, issue):
    issue("render box")
    signed_in(alice).post(DELETE, {"email": alice.email})
    again = Client()
    sign_up(again, "alice@example.org", PASSWORD)
    assert is_in(again)
    assert "render box" not in again.get("/keys/").text
    assert User.objects.get(email="alice@example.org").pk != alice.pk


@pytest.mark.parametrize("typed", ["", "alice", "alice@example.com", "mallory@example.org"])
def test_a_wrong_address_deletes_nothing(signed_in, alice, mallory, issue, typed):
    _key, token = issue("studio")
    response = signed_in(alice).post(DELETE, {"email": typed})
    assert response.status_code == 400
    assert response.context["form"].errors["email"]
    assert User.objects.count() == 2
    assert services.validate(token.reveal()).code is Code.VALID


def test_the_page_that_asks_deletes_nothing(signed_in, alice):
    client = signed_in(alice)
    page = client.get(DELETE, {"email": alice.email})
    assert page.status_code == 200
    assert "for good" in page.text
    assert User.objects.filter(pk=alice.pk).exists()


def test_a_session_that_is_not_fresh_deletes_nothing(signed_in, alice):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    for response in (client.get(DELETE), client.post(DELETE, {"email": alice.email})):
        assert response["Location"].startswith("/account/reauthenticate?next=")
    assert User.objects.filter(pk=alice.pk).exists()


def test_another_site_deletes_nothing(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    show_who(client, alice)
    assert client.post(DELETE, {"email": alice.email}).status_code == 403
    assert User.objects.filter(pk=alice.pk).exists()


@pytest.mark.parametrize(
    "rights",
    [
        {"is_staff": True, "is_superuser": True},
        {"is_staff": True, "is_superuser": False},
        # Staff rights were taken, as the page asks for, but not that tick.
        {"is_staff": False, "is_superuser": True},
    ],
    ids=["administrator", "staff", "superuser"],
)
def test_staff_are_told_that_they_cannot_go_just_like_that(signed_in, alice, rights):
    User.objects.filter(pk=alice.pk).update(**rights)
    alice.refresh_from_db()
    client = signed_in(alice)
    assert "Ask another administrator" in client.get(DELETE).text
    answer = client.post(DELETE, {"email": alice.email})
    assert answer.status_code < 500
    assert "Ask another administrator" in answer.text
    assert User.objects.filter(pk=alice.pk).exists()
    assert is_in(client)


def test_staff_whose_rights_were_taken_may_go(signed_in, alice):
    alice.is_staff = True
    alice.save()
    alice.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = signed_in(alice)
    client.get("/admin/")
    User.objects.filter(pk=alice.pk).update(is_staff=False)
    client.post(DELETE, {"email": alice.email})
    assert not User.objects.filter(pk=alice.pk).exists()


def test_a_deletion_that_fails_halfway_undoes_itself(signed_in, alice, issue, monkeypatch):
    _key, token = issue("studio")
    client = signed_in(alice)

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(User, "delete", broken)
    with pytest.raises(RuntimeError):
        accounts.delete_account(alice)
    assert services.validate(token.reveal()).code is Code.VALID
    assert is_in(client)
    assert not Event.objects.filter(action=Action.ACCOUNT_DELETED).exists()


def test_a_use_counted_just_before_blocks_no_later_ones(transactional_db, alice, issue, mallory):
    """The store checks at the end of a transaction whether a count's key is there."""
    _key, hers = issue("studio")
    other, theirs = issue("studio", owner=mallory)
    for token in (hers, theirs):
        assert services.validate(token.reveal()).code is Code.VALID
    accounts.delete_account(alice)
    usage.flush()
    services.validate(theirs.reveal())
    usage.flush()
    counted = DailyUse.objects.get()
    assert (counted.key_id, counted.calls) == (other.pk, 2)
    other.refresh_from_db()
    assert other.last_used_at is not None


# --- Changing the address, with a mail server ------------------------------------------------


def ask_for(client, new: str = "new@example.org"):
    return client.post(EMAIL, {"email": new, "action_add": ""})


@pytest.fixture
def mover(signed_in, alice, proved, with_mail) -> Client:
    return signed_in(alice)


def test_an_address_changes_once_both_have_agreed(mover, alice, issue, mailoutbox):
    _key, token = issue("studio")
    mailoutbox.clear()

    assert ask_for(mover)["Location"] == APPROVE
    (first,) = mailoutbox
    assert first.to == ["alice@example.org"]
    assert "new@example.org" in first.body, "she is told which one"
    page = mover.get(APPROVE)
    assert "new@example.org" in page.text
    assert code_in(first.body) not in page.text
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"

    approved = mover.post(APPROVE, {"code": code_in(first.body).lower().replace("-", "")})
    assert approved["Location"] == CONFIRM
    second = mailoutbox[1]
    assert second.to == ["new@example.org"]
    alice.refresh_from_db()
    assert alice.email == "alice@example.org", "not before the new one has agreed too"

    mover.post(CONFIRM, {"code": code_in(second.body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"
    address = EmailAddress.objects.get(user=alice)
    assert (address.email, address.verified, address.primary) == ("new@example.org", True, True)
    told = mailoutbox[2]
    assert told.to == ["alice@example.org"]
    assert "alice@example.org" in told.body
    assert "new@example.org" in told.body
    assert len(mailoutbox) == 3

    assert is_in(mover)
    assert services.validate(token.reveal()).code is Code.VALID
    assert log_in(Client(), "new@example.org")["Location"] == "/keys/"
    old = Client()
    log_in(old, "alice@example.org")
    assert not is_in(old)


def test_the_code_of_the_one_is_not_the_code_of_the_other(mover, alice, mailoutbox):
    ask_for(mover)
    first = code_in(mailoutbox[0].body)
    mover.post(APPROVE, {"code": first})
    mover.post(CONFIRM, {"code": first})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"


def test_a_wrong_code_sends_nothing_to_the_new_address(mover, mailoutbox):
    ask_for(mover)
    page = mover.post(APPROVE, {"code": "WRONG1"})
    assert page.status_code == 200
    assert "not the code" in page.text
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]


def test_three_wrong_codes_are_the_end_of_it(mover, mailoutbox):
    ask_for(mover)
    for _ in range(3):
        mover.post(APPROVE, {"code": "WRONG1"})
    late = mover.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    assert late["Location"] == EMAIL
    assert len(mailoutbox) == 1
    # And begins anew.
    ask_for(mover)
    assert mover.post(APPROVE, {"code": code_in(mailoutbox[1].body)})["Location"] == CONFIRM


def test_a_code_is_good_once(mover, alice, mailoutbox):
    ask_for(mover)
    code = code_in(mailoutbox[0].body)
    mover.post(APPROVE, {"code": code})
    assert mover.post(APPROVE, {"code": code})["Location"] == EMAIL
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"], ["new@example.org"]]


def test_a_code_is_good_for_minutes(mover, mailoutbox, monkeypatch):
    ask_for(mover)
    session = mover.session
    session["mail_code"] = session["mail_code"] | {"at": session["mail_code"]["at"] - 16 * 60}
    session.save()
    assert mover.post(APPROVE, {"code": code_in(mailoutbox[0].body)})["Location"] == EMAIL
    assert len(mailoutbox) == 1


def test_the_newest_code_counts(mover, mailoutbox):
    """Who can't find the mail asks for the change once more: that is sending it again."""
    ask_for(mover)
    ask_for(mover)
    first, second = (code_in(mail.body) for mail in mailoutbox)
    assert mover.post(APPROVE, {"code": first}).status_code == 200
    assert mover.post(APPROVE, {"code": second})["Location"] == CONFIRM


def test_a_code_allows_the_change_that_its_mail_names_and_no_other(mover, mailoutbox, with_mail):
    """Also when there is no new mail, because there were enough for now."""
    with_mail.ACCOUNT_RATE_LIMITS = {"mail_code": "1/h/user"}
    ask_for(mover, "new@example.org")
    code = code_in(mailoutbox[0].body)
    ask_for(mover, "mallory@example.net")
    assert len(mailoutbox) == 1
    mover.post(APPROVE, {"code": code})
    assert "mallory@example.net" not in {address for mail in mailoutbox for address in mail.to}


def test_whoever_asks_too_often_is_told_so_and_not_that_a_mail_is_on_its_way(mover, mailoutbox):
    for _ in range(6):
        ask_for(mover)
    assert len(mailoutbox) == 6
    page = mover.post(EMAIL, {"email": "new@example.org", "action_add": ""}, follow=True)
    assert len(mailoutbox) == 6
    assert "enough codes" in page.text


def test_the_new_address_is_sent_its_code_again(mover, alice, mailoutbox):
    ask_for(mover)
    mover.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    # Ten seconds later: allauth sends no faster.
    cache.clear()
    page = mover.get(CONFIRM)
    assert 'value="resend"' in page.text
    mover.post(CONFIRM, {"action": "resend"})
    first, again = mailoutbox[1:]
    assert first.to == again.to == ["new@example.org"]
    mover.post(CONFIRM, {"code": code_in(first.body)})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    mover.post(CONFIRM, {"code": code_in(again.body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


def test_wrong_codes_of_the_new_address_change_nothing(mover, alice, mailoutbox):
    ask_for(mover)
    mover.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    for _ in range(3):
        mover.post(CONFIRM, {"code": "WRONG1"})
    mover.post(CONFIRM, {"code": code_in(mailoutbox[1].body)})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert EmailAddress.objects.get(user=alice).email == "alice@example.org"


def test_a_session_that_is_not_fresh_asks_first_and_keeps_what_was_typed(mover, alice, mailoutbox):
    show_who(mover, alice, ago=timedelta(minutes=11))
    asked = ask_for(mover)
    assert asked["Location"] == "/account/reauthenticate?next=%2Faccount%2Femail"
    assert mailoutbox == []
    back = mover.post(asked["Location"], {"password": PASSWORD}, follow=True)
    assert back.request["PATH_INFO"] == EMAIL
    assert 'value="new@example.org"' in back.text


def test_whoever_types_the_code_after_a_while_gets_on_all_the_same(mover, alice, mailoutbox):
    """The code is good for longer than the answer to who one is."""
    ask_for(mover)
    show_who(mover, alice, ago=timedelta(minutes=12))
    code = {"code": code_in(mailoutbox[0].body)}
    answer = mover.post(APPROVE, code)
    if answer["Location"].startswith("/account/reauthenticate"):
        back = mover.post(answer["Location"], {"password": PASSWORD})
        assert back["Location"] == APPROVE
        answer = mover.post(APPROVE, code)
    assert answer["Location"] == CONFIRM
    assert mailoutbox[-1].to == ["new@example.org"]


def test_mallorys_session_approves_nothing_of_alices(mover, mallory, with_mail, mailoutbox):
    ask_for(mover)
    theirs = Client()
    theirs.force_login(mallory)
    show_who(theirs, mallory)
    answer = theirs.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    assert answer["Location"] == EMAIL
    assert len(mailoutbox) == 1


def test_an_address_that_was_never_proved_has_no_say(signed_in, alice, with_mail, mailoutbox):
    """There is nobody to ask: it may be mistyped."""
    client = signed_in(alice)
    assert ask_for(client)["Location"] != APPROVE
    assert [mail.to for mail in mailoutbox] == [["new@example.org"]]
    client.post(CONFIRM, {"code": code_in(mailoutbox[0].body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


# --- Changing the address, without a mail server ---------------------------------------------


def test_without_a_mail_server_the_printed_link_changes_the_address(
    signed_in, alice, proved, mailoutbox
):
    client = signed_in(alice)
    assert ask_for(client)["Location"] == EMAIL
    (mail,) = mailoutbox
    assert mail.to == ["new@example.org"]
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    page = client.get(EMAIL)
    assert "has yet to be confirmed" in page.text
    assert "printed in the terminal" in unescape(page.text)
    link = urlsplit(link_in(mail)).path
    client.get(link)
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    client.post(link)
    alice.refresh_from_db()
    assert alice.email == "new@example.org"
    assert [mail.to for mail in mailoutbox] == [["new@example.org"], ["alice@example.org"]]
    assert EmailAddress.objects.get(user=alice).email == "new@example.org"


def test_an_address_that_was_never_confirmed_stays_until_the_new_one_is(client, db, mailoutbox):
    """Without a mail server that is how most accounts are."""
    sign_up(client)
    mailoutbox.clear()
    ask_for(client)
    nora = User.objects.get()
    assert nora.email == "nora@example.org"
    assert log_in(Client(), "nora@example.org")["Location"] == "/keys/"
    link = urlsplit(link_in(mailoutbox[0])).path
    client.post(link)
    nora.refresh_from_db()
    assert nora.email == "new@example.org"
    assert EmailAddress.objects.get(user=nora).email == "new@example.org"


def test_an_account_that_staff_made_keeps_its_address_until_then_too(signed_in, alice):
    """It has no row among the addresses before its owner first looks at them."""
    client = signed_in(alice)
    ask_for(client)
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    client.post(EMAIL, {"email": "new@example.org", "action_remove": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert EmailAddress.objects.get(user=alice).email == "alice@example.org"


def test_an_address_that_is_only_asked_for_is_not_gained_by_dropping_the_other(signed_in, alice):
    client = signed_in(alice)
    ask_for(client)
    client.post(EMAIL, {"email": "alice@example.org", "action_remove": ""})
    client.post(EMAIL, {"email": "new@example.org", "action_primary": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"


def test_two_people_may_be_changing_their_addresses_at_once(alice, mallory):
    for person, new in ((alice, "new@example.org"), (mallory, "newer@example.org")):
        client = Client()
        client.force_login(person)
        show_who(client, person)
        assert ask_for(client, new)["Location"] == EMAIL


def test_a_link_that_went_to_one_address_proves_no_other(client, db, mailoutbox):
    """Whoever began this account may have the new mailbox, and never have had the old one."""
    sign_up(client)
    ask_for(client)
    mailoutbox.clear()
    other = Client()
    other.post(RESET, {"email": "new@example.org"})
    for mail in list(mailoutbox):
        if RESET in mail.body:
            form = other.get(urlsplit(link_in(mail)).path, follow=True)
            new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
            other.post(form.request["PATH_INFO"], new)
    proved = EmailAddress.objects.filter(verified=True).values_list("email", flat=True)
    assert "nora@example.org" not in proved
    assert "" not in proved


def test_without_a_mail_server_too_a_session_has_to_be_fresh(signed_in, alice, proved, mailoutbox):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    assert ask_for(client)["Location"].startswith("/account/reauthenticate")
    assert mailoutbox == []


def test_an_address_that_was_mistyped_is_given_up_again(signed_in, alice, proved):
    client = signed_in(alice)
    ask_for(client, "mistyped@example.org")
    client.post(EMAIL, {"email": "mistyped@example.org", "action_remove": ""})
    assert [address.email for address in EmailAddress.objects.all()] == [alice.email]


# --- Google and GitHub, for those who set them up --------------------------------------------

PROVIDERS = [("google", "Google"), ("github", "GitHub")]


@pytest.fixture
def staff(client, sam) -> Client:
    client.force_login(sam)
    return client


def add(staff: Client, provider: str, **fields: str):
    body = {"provider": provider, "client_id": "the-client", "secret": "s3cret-of-the-client"}
    return staff.post("/admin/socialaccount/socialapp/add/", {**body, **fields})


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_the_front_page_of_staff_says_what_is_missing(staff, provider, name):
    page = unescape(staff.get("/admin/").text)
    assert f"{name}: not set up" in page
    callback = f"{our_settings.PUBLIC_URL}/account/logins/{provider}/login/callback/"
    assert f"<code>{callback}</code>" in page
    assert f"{name.upper()}_CLIENT_ID" in page
    assert f"{name.upper()}_CLIENT_SECRET" in page
    assert 'href="/admin/socialaccount/socialapp/add/"' in page


@pytest.mark.parametrize("host", ["testserver", "localhost:9999"])
@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_the_callback_that_it_says_is_the_one_that_there_is(staff, provider, name, host):
    page = staff.get("/admin/", headers={"host": host}).text
    (callback,) = re.findall(rf"<code>([^<]*/{provider}/[^<]*)</code>", page)
    assert callback.startswith(our_settings.PUBLIC_URL)
    # It answers: that nobody came from there, for want of a client.
    assert staff.get(urlsplit(callback).path).status_code == 404
    add(staff, provider)
    answer = staff.get(urlsplit(callback).path)
    assert answer.status_code in {200, 401}


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_what_a_provider_is_sent_is_the_callback_that_was_to_be_registered(staff, provider, name):
    add(staff, provider)
    (callback,) = re.findall(rf"<code>([^<]*/{provider}/[^<]*)</code>", staff.get("/admin/").text)
    public = urlsplit(our_settings.PUBLIC_URL).netloc
    began = Client().post(f"/account/logins/{provider}/login/", headers={"host": public})
    asked = parse_qs(urlsplit(began["Location"]).query)
    assert asked["redirect_uri"] == [callback]
    assert asked["client_id"] == ["the-client"]
    assert asked["code_challenge_method"] == ["S256"]


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_a_client_that_staff_enter_makes_the_button_appear(staff, provider, name):
    assert f"Continue with {name}" not in Client().get("/login").text
    assert add(staff, provider).status_code == 302
    for address in ("/login", "/signup"):
        assert f"Continue with {name}" in Client().get(address).text, address
    page = unescape(staff.get("/admin/").text)
    assert f"{name}: set up" in page
    assert f"{name}: not set up" not in page
    assert "By the environment." not in page


def test_a_secret_goes_in_and_never_comes_out(staff):
    add(staff, "github")
    app = SocialApp.objects.get()
    address = f"/admin/socialaccount/socialapp/{app.pk}/change/"
    for page in (staff.get(address), staff.get("/admin/socialaccount/socialapp/")):
        assert page.status_code == 200
        assert "s3cret" not in page.text
    kept = staff.post(address, {"provider": "github", "client_id": "another", "secret": ""})
    assert kept.status_code == 302
    app.refresh_from_db()
    assert (app.client_id, app.secret) == ("another", "s3cret-of-the-client")
    assert add(staff, "google", secret="").status_code == 200
    assert add(staff, "github").status_code == 200
    assert SocialApp.objects.count() == 1


def test_what_the_environment_says_counts_before_what_staff_entered(staff, settings):
    add(staff, "github")
    settings.SOCIALACCOUNT_PROVIDERS = {
        **settings.SOCIALACCOUNT_PROVIDERS,
        "github": {
            **settings.SOCIALACCOUNT_PROVIDERS["github"],
            "APPS": [{"client_id": "of-the-environment", "secret": "s"}],
        },
    }
    assert Client().get("/login").text.count("Continue with GitHub") == 1
    began = Client().post("/account/logins/github/login/")
    assert parse_qs(urlsplit(began["Location"]).query)["client_id"] == ["of-the-environment"]
    page = staff.get("/admin/").text
    assert "GitHub: set up" in page
    assert "By the environment." in page


def test_staff_who_may_not_enter_clients_are_sent_to_those_who_may(signed_in, alice):
    alice.is_staff = True
    alice.save()
    alice.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = signed_in(alice)
    page = client.get("/admin/").text
    assert "ask an administrator to enter them" in page
    assert "/admin/socialaccount/socialapp/add/" not in page
    assert add(client, "github").status_code == 403
    assert not SocialApp.objects.exists()


def test_mallory_is_told_nothing_of_it(signed_in, mallory):
    client = signed_in(mallory)
    assert client.get("/admin/", follow=True).status_code == 403
    assert add(client, "github").status_code in {302, 403}
    assert not SocialApp.objects.exists()
