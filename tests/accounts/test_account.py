"""Account pages: profile, language, email change, data export and deletion; setup of providers."""

import json
import re
import tracemalloc
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
from django.conf import settings as our_settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from apikeys import receivers, services, usage
from apikeys.models import APIKey, DailyUse, HourlyRefusal, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from core import batches
from tests.accounts.test_signing_in import CONFIRM, NEW_PASSWORD, NOTICES, RESET
from tests.conftest import PASSWORD, show_who
from tests.factories import all_text, exported, is_in, language_of, log_in, sign_up
from tests.mail_server import code_in, link_in

EMAIL = "/account/email"
APPROVE = "/account/email/approve"
DATA = "/account/data"
DELETE = "/account/delete"
CLIENT_IP = "203.0.113.9"


@pytest.fixture
def verified_email(alice) -> EmailAddress:
    return EmailAddress.objects.create(user=alice, email=alice.email, verified=True, primary=True)


# --- Profile ---------------------------------------------------------------------------------


def test_alice_saves_her_profile(signed_in, alice):
    client = signed_in(alice)
    body = {"name": "Alice Liddell", "language": "ja", "notices": "security"}
    page = client.post("/account/", body, follow=True)
    alice.refresh_from_db()
    assert (alice.name, alice.language, alice.notices) == ("Alice Liddell", "ja", "security")
    # Applies from the next page on.
    assert language_of(page) == "ja"
    shown = client.get("/account/").context["form"]
    assert [shown[name].value() for name in ("name", "language", "notices")] == list(body.values())


@pytest.mark.parametrize(
    "change", [{"language": "tlh"}, {"language": "xx"}, {"notices": "none"}, {"notices": ""}]
)
def test_an_unknown_choice_is_refused(signed_in, alice, change):
    body = {"name": "Alice L.", "language": "", **NOTICES, **change}
    page = signed_in(alice).post("/account/", body)
    assert page.status_code == 200
    assert page.context["form"].errors.keys() == change.keys()
    alice.refresh_from_db()
    assert (alice.name, alice.language, alice.notices) == ("Alice", "", "all")


def test_alice_can_unset_her_language(signed_in, alice):
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
        ("it,ko;q=0.5", "ko"),
        ("it", "en"),
        ("fr-CA", "fr"),
        ("pt-PT", "pt-br"),
        ("ar-EG", "ar"),
        ("*", "en"),
        ("nonsense;;;q", "en"),
    ],
)
def test_pages_use_the_language_of_the_browser(client, db, asked, language):
    page = client.get("/login", headers={"accept-language": asked})
    assert language_of(page) == language
    assert page["Content-Language"] == language
    assert {"Accept-Language", "Cookie"} <= set(page["Vary"].split(", "))


def test_the_language_cookie_takes_precedence_over_the_browser(client, db):
    chosen = client.post("/language", {"language": "ja", "next": "/signup"})
    assert (chosen.status_code, chosen["Location"]) == (302, "/signup")
    cookie = client.cookies[our_settings.LANGUAGE_COOKIE_NAME]
    assert cookie.value == "ja"
    assert cookie["httponly"]
    assert cookie["max-age"] > 300 * 24 * 3600
    assert language_of(client.get("/signup", headers={"accept-language": "ko"})) == "ja"


def test_the_accounts_language_takes_precedence_over_cookie_and_browser(signed_in, alice):
    client = signed_in(alice)
    client.cookies[our_settings.LANGUAGE_COOKIE_NAME] = "ja"
    User.objects.update(language="zh-hant")
    page = client.get("/keys/", headers={"accept-language": "ko"})
    assert language_of(page) == "zh-hant"
    client.post("/logout")
    assert language_of(client.get("/login", headers={"accept-language": "ko"})) == "ja"


def test_the_language_form_in_the_footer_sets_the_accounts_language(signed_in, alice, mallory):
    client = signed_in(alice)
    client.post("/language", {"language": "ko", "next": "/keys/"})
    alice.refresh_from_db()
    mallory.refresh_from_db()
    assert (alice.language, mallory.language) == ("ko", "")
    assert language_of(Client().get("/login")) == "en"
    elsewhere = Client()
    log_in(elsewhere)
    assert language_of(elsewhere.get("/keys/")) == "ko"


@pytest.mark.parametrize("language", ["", "tlh", "it", "../ja", "ja "])
def test_an_unknown_language_is_refused(signed_in, alice, language):
    client = signed_in(alice)
    assert client.post("/language", {"language": language}).status_code == 404
    assert our_settings.LANGUAGE_COOKIE_NAME not in client.cookies
    alice.refresh_from_db()
    assert alice.language == ""


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_setting_the_language_does_not_redirect_elsewhere(client, db, where):
    response = client.post("/language", {"language": "ja", "next": where})
    assert urlsplit(response["Location"]).netloc == ""
    assert response["Location"].startswith("/")
    referred = client.post("/language", {"language": "ja"}, headers={"referer": where})
    assert urlsplit(referred["Location"]).netloc == ""


def test_setting_the_language_requires_a_csrf_token(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.get("/language").status_code == 405
    assert client.post("/language", {"language": "ja"}).status_code == 403
    alice.refresh_from_db()
    assert alice.language == ""


def test_every_page_lists_every_language_in_its_own_name(client, db):
    for url in ("/login", "/signup"):
        page = client.get(url).text
        for code, name in our_settings.LANGUAGES:
            assert re.search(rf'value="{code}" lang="{code}"[^>]*>{re.escape(name)}<', page), url


@pytest.mark.parametrize("header", ["ja", "ja-JP,ja;q=0.9,en;q=0.8", "xx, ja;q=0.5"])
def test_api_messages_are_in_the_accepted_language(client, db, header):
    response = client.post(
        "/api/v1/keys/validate",
        {"key": None},
        content_type="application/json",
        headers={"x-api-key": "", "accept-language": header},
    )
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")
    assert response.json()["message"] == "key: この項目はnullにできません。"


def test_api_messages_are_in_the_language_of_the_cookie(client, db):
    client.cookies[our_settings.LANGUAGE_COOKIE_NAME] = "ja"
    response = client.post(
        "/api/v1/keys/validate",
        {"key": None},
        content_type="application/json",
        headers={"accept-language": "ko"},
    )
    assert response.json()["message"] == "key: この項目はnullにできません。"


@pytest.mark.parametrize("header", [None, "", "en", "xx", "*", "a" * 70_000, "ja;q=x"])
def test_api_messages_are_in_english_by_default(client, issue, header):
    User.objects.update(language="ja")
    key, token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    headers = {} if header is None else {"accept-language": header}
    for method, path, extra in (
        ("post", "/customers", {"x-api-key": token.reveal()}),
        ("get", "/customers/me", {"x-api-key": "comfyui-nonsense"}),
        ("post", "/customers/api-keys", {}),
        ("get", "/api/v1/nowhere", {}),
    ):
        response = getattr(client, method)(path, headers={**headers, **extra})
        assert response.status_code >= 400, path
        assert response.text.isascii(), path


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/device/code", "/api/schema/"])
def test_oauth_errors_and_the_openapi_document_are_in_english(client, db, path):
    call = client.get if path == "/api/schema/" else client.post
    english = call(path)
    client.cookies[our_settings.LANGUAGE_COOKIE_NAME] = "ja"
    assert call(path, headers={"accept-language": "ja"}).content == english.content


# --- Data export -----------------------------------------------------------------------------


@pytest.fixture
def alice_with_data(alice, verified_email, issue, mallory) -> dict[str, str]:
    """Return texts of alice's data that must not be shown to others, one of each kind."""
    by = Actor(user=alice, via=Via.PAGE, client_ip=CLIENT_IP)
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
    elsewhere = Client(headers={"user-agent": "Elsewhere/1.0"}, REMOTE_ADDR=CLIENT_IP)
    elsewhere.force_login(alice)
    UserSession.objects.create(
        user=alice,
        session_key=elsewhere.session.session_key,
        ip=CLIENT_IP,
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


def test_the_export_has_all_data_of_the_account(signed_in, alice, alice_with_data):
    client = signed_in(alice)
    response = client.get(DATA)
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert re.fullmatch(
        r'attachment; filename="comfyui-keys-\d{4}-\d\d-\d\d\.json"',
        response["Content-Disposition"],
    )
    assert "no-store" in response["Cache-Control"]
    data = json.loads(response.getvalue())
    assert data["account"]["id"] == str(alice.pk)
    assert data["account"] | {"email": alice.email, "name": "Alice"} == data["account"]
    assert data["email_addresses"] == [{"email": alice.email, "verified": True, "primary": True}]
    (login,) = data["logins"]
    assert (login["provider"], login["id_there"]) == ("github", "uid-4711")
    assert login["what_it_told"] == {"login": "alice-at-github"}
    assert {factor["type"] for factor in data["factors"]} == {"totp", "recovery_codes", "webauthn"}
    assert "Laptop" in {factor["name"] for factor in data["factors"]}
    assert (CLIENT_IP, "Elsewhere/1.0") in {
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
    assert {event["address"] for event in data["events"]} == {CLIENT_IP}


def test_the_export_has_no_secrets(signed_in, alice, alice_with_data):
    client = signed_in(alice)
    text = client.get(DATA).getvalue().decode()
    secrets = {**alice_with_data, "this session's key": client.session.session_key}
    for what, secret in secrets.items():
        assert secret not in text, what
    assert "argon2" not in text


def test_the_export_has_no_data_of_other_accounts(signed_in, alice, mallory, alice_with_data):
    assert b"mallory" not in signed_in(alice).get(DATA).getvalue()
    theirs = exported(signed_in(mallory))
    assert [key["name"] for key in theirs["keys"]] == ["mallory's"]
    assert "alice" not in json.dumps(theirs).lower()


def test_the_export_keeps_names_of_all_scripts(signed_in, alice):
    User.objects.update(name="山田　太郎")
    assert "山田　太郎" in signed_in(alice).get(DATA).getvalue().decode()


def test_the_export_reads_rows_in_batches(signed_in, alice, issue, monkeypatch):
    """None is missing or twice at the end of a batch, also where many have the same time."""
    monkeypatch.setattr(batches, "BATCH", 2)
    monkeypatch.setattr(receivers, "_KEYS_AT_A_TIME", 2)
    client, now = signed_in(alice), timezone.now()
    Event.objects.bulk_create(
        Event(
            action=Action.SIGNED_IN, account=alice, at=now - timedelta(days=n // 5), detail={"n": n}
        )
        for n in range(21)
    )
    keys = [issue(f"key {n}")[0] for n in range(5)]
    for key in keys:
        for n in range(5):
            DailyUse.objects.create(key=key, day=now.date() - timedelta(days=n), calls=n + 1)
            HourlyRefusal.objects.create(key=key, hour=now, code=f"CODE_{n}", calls=n + 1)
    data = exported(client)
    numbers = [event["detail"]["n"] for event in data["events"] if "n" in event["detail"]]
    assert sorted(numbers) == list(range(21))
    assert [event["at"] for event in data["events"]] == sorted(
        (event["at"] for event in data["events"]), reverse=True
    )
    assert all("id" not in event for event in data["events"])
    assert len(data["keys"]) == 5
    for section, names in [
        ("daily_uses", ("key_id", "day")),
        ("hourly_refusals", ("key_id", "code")),
    ]:
        found = {tuple(row[name] for name in names) for row in data[section]}
        assert len(data[section]) == len(found) == 25, section


def peak_of_export(client: Client) -> int:
    """Return the most bytes that Python has allocated meanwhile, and check that it is whole."""
    response = client.get(DATA)
    tracemalloc.start()
    try:
        length = sum(map(len, response.streaming_content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert length > 100 * Event.objects.count()
    return peak


def test_the_memory_of_an_export_does_not_grow_with_the_events(signed_in, alice, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 50)
    client = signed_in(alice)
    peaks = []
    for number in (300, 3000):
        Event.objects.bulk_create(
            Event(action=Action.SIGNED_IN, account=alice, detail={"agent": "Firefox"})
            for _ in range(number)
        )
        peaks.append(peak_of_export(client))
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_an_account_has_few_exports_at_a_time(signed_in, alice, mallory):
    here, there = signed_in(alice), Client()
    here.raise_request_exception = False
    there.force_login(mallory)
    show_who(there, mallory)
    open_ones = [here.get(DATA) for _ in range(2)]
    refused = here.get(DATA)
    assert refused.status_code == 503
    assert refused["Retry-After"]
    assert there.get(DATA).getvalue()
    open_ones.pop().getvalue()
    assert exported(here)["account"]["id"] == str(alice.pk)
    open_ones.pop().getvalue()


def test_the_export_requires_reauthentication(signed_in, alice):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    response = client.get(DATA)
    assert response.status_code == 302
    assert response["Location"].startswith("/account/reauthenticate?next=")


# --- Account deletion ------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["alice@example.org", " ALICE@Example.org "])
def test_deleting_the_account_removes_all_personal_data(signed_in, alice, alice_with_data, typed):
    client = signed_in(alice)
    client.defaults["REMOTE_ADDR"] = CLIENT_IP
    personal = {"alice", CLIENT_IP, "Elsewhere", "studio", "render box", "uid-4711"}
    personal |= set(alice_with_data.values())
    before = "\n".join(all_text().values())
    assert all(words in before for words in ("alice", CLIENT_IP, "Elsewhere", "studio", "uid-4711"))

    page = client.post(DELETE, {"email": typed}, follow=True)

    assert page.request["PATH_INFO"] == "/login"
    assert "Your account and your personal data have been deleted." in page.text
    assert not User.objects.filter(pk=alice.pk).exists()
    for kept in all_text().values():
        for words in personal:
            assert words not in kept, kept
    assert not is_in(client)


def test_deleting_the_account_revokes_its_keys(signed_in, alice, issue, client):
    _key, token = issue("studio")
    assert services.validate(token.reveal()).code is VerdictCode.VALID, "its proof is remembered"
    signed_in(alice).post(DELETE, {"email": alice.email})
    assert services.validate(token.reveal()).code is VerdictCode.NOT_FOUND
    response = Client().post("/customers", headers={"X-API-Key": token.reveal()})
    assert (response.status_code, response.json()["error"]) == (401, "NOT_FOUND")


def test_deleting_the_account_ends_its_sessions(signed_in, alice):
    elsewhere = Client()
    log_in(elsewhere)
    signed_in(alice).post(DELETE, {"email": alice.email})
    assert not is_in(elsewhere)
    assert elsewhere.get(DATA)["Location"].startswith("/login")
    log_in(elsewhere)
    assert not is_in(elsewhere)


def test_audit_events_of_a_deleted_account_have_no_name(signed_in, alice, sam, alice_with_data):
    by = Actor(user=sam, via=Via.ADMIN, client_ip="192.0.2.200")
    services.revoke(APIKey.objects.get(name="studio"), reason=Reason.REVOKED_BY_STAFF, by=by)
    before = list(Event.objects.filter(account=alice).values("at", "action", "public_id", "key_id"))
    signed_in(alice).post(DELETE, {"email": alice.email})
    events = Event.objects.filter(account_id=alice.pk)
    kept = list(events.values("at", "action", "public_id", "key_id"))
    assert [event for event in kept if event in before] == before
    assert Action.ACCOUNT_DELETED in {event["action"] for event in kept}
    assert not events.filter(actor_id=alice.pk, address__isnull=False).exists()
    # The actions of staff keep their actor.
    assert events.get(actor=sam).address == "192.0.2.200"


def test_staff_can_still_read_audit_events_of_a_deleted_account(client, alice, sam, issue):
    issue("studio", by=Actor(user=alice, via=Via.PAGE, client_ip=CLIENT_IP))
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


def test_admin_log_entries_of_a_deleted_account_have_no_name(client, alice, sam):
    """Django's admin log has the name of each changed object."""
    client.force_login(sam)
    changed = {"email": alice.email, "name": "Alice A.", "is_active": "on"}
    # Read the whole stream, so that the confirmation page's message is consumed.
    client.post(f"/admin/accounts/user/{alice.pk}/change/", changed, follow=True)
    assert "alice@example.org" in str(list(LogEntry.objects.values()))
    accounts.delete_account(User.objects.get(pk=alice.pk))
    for kept in all_text().values():
        assert "alice" not in kept.lower(), kept


def test_a_deleted_account_gets_a_last_mail_in_its_language(signed_in, alice, issue, mailoutbox):
    User.objects.update(language="ja")
    issue("studio")
    mailoutbox.clear()
    signed_in(alice).post(DELETE, {"email": alice.email})
    (mail,) = mailoutbox
    assert mail.to == ["alice@example.org"]
    assert '<html lang="ja" dir="ltr">' in mail.alternatives[0][0]


def test_the_email_of_a_deleted_account_can_sign_up_again(signed_in, alice, issue):
    issue("render box")
    signed_in(alice).post(DELETE, {"email": alice.email})
    again = Client()
    sign_up(again, "alice@example.org", PASSWORD)
    assert is_in(again)
    assert "render box" not in again.get("/keys/").text
    assert User.objects.get(email="alice@example.org").pk != alice.pk


@pytest.mark.parametrize("typed", ["", "alice", "alice@example.com", "mallory@example.org"])
def test_a_wrong_email_deletes_nothing(signed_in, alice, mallory, issue, typed):
    _key, token = issue("studio")
    response = signed_in(alice).post(DELETE, {"email": typed})
    assert response.status_code == 400
    assert response.context["form"].errors["email"]
    assert User.objects.count() == 2
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_the_confirmation_page_deletes_nothing(signed_in, alice):
    client = signed_in(alice)
    page = client.get(DELETE, {"email": alice.email})
    assert page.status_code == 200
    assert "can't be undone" in page.text
    assert User.objects.filter(pk=alice.pk).exists()


def test_deletion_requires_reauthentication(signed_in, alice):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    for response in (client.get(DELETE), client.post(DELETE, {"email": alice.email})):
        assert response["Location"].startswith("/account/reauthenticate?next=")
    assert User.objects.filter(pk=alice.pk).exists()


def test_a_cross_site_request_deletes_nothing(alice):
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
        # Removes the staff permissions but not is_staff.
        {"is_staff": False, "is_superuser": True},
    ],
    ids=["administrator", "staff", "superuser"],
)
def test_staff_see_that_they_cannot_delete_their_accounts(signed_in, alice, rights):
    User.objects.filter(pk=alice.pk).update(**rights)
    alice.refresh_from_db()
    client = signed_in(alice)
    assert "Ask another administrator" in client.get(DELETE).text
    response = client.post(DELETE, {"email": alice.email})
    assert response.status_code < 500
    assert "Ask another administrator" in response.text
    assert User.objects.filter(pk=alice.pk).exists()
    assert is_in(client)


def test_the_service_deletes_no_staff_account(sam):
    with pytest.raises(accounts.StaffAccountProtected):
        accounts.delete_account(sam)
    assert User.objects.filter(pk=sam.pk).exists()


def test_former_staff_can_delete_their_accounts(signed_in, alice):
    alice.is_staff = True
    alice.save()
    alice.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = signed_in(alice)
    client.get("/admin/")
    User.objects.filter(pk=alice.pk).update(is_staff=False)
    client.post(DELETE, {"email": alice.email})
    assert not User.objects.filter(pk=alice.pk).exists()


def test_a_failed_deletion_is_rolled_back(signed_in, alice, issue, monkeypatch):
    _key, token = issue("studio")
    client = signed_in(alice)

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(User, "delete", broken)
    with pytest.raises(RuntimeError):
        accounts.delete_account(alice)
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert is_in(client)
    assert not Event.objects.filter(action=Action.ACCOUNT_DELETED).exists()


def test_pending_usage_of_a_deleted_key_does_not_block_later_usage(
    transactional_db, alice, issue, mallory
):
    """PostgreSQL checks the deferred foreign key of a usage row at the end of the transaction."""
    _key, her_browser = issue("studio")
    other, theirs = issue("studio", owner=mallory)
    for token in (her_browser, theirs):
        assert services.validate(token.reveal()).code is VerdictCode.VALID
    accounts.delete_account(alice)
    usage.flush()
    services.validate(theirs.reveal())
    usage.flush()
    counted = DailyUse.objects.get()
    assert (counted.key_id, counted.calls) == (other.pk, 2)
    other.refresh_from_db()
    assert other.last_used_at is not None


# --- Changing the email, with a mail server --------------------------------------------------


def request_change(client, new: str = "new@example.org"):
    return client.post(EMAIL, {"email": new, "action_add": ""})


@pytest.fixture
def alice_with_verified_email(signed_in, alice, verified_email, with_mail) -> Client:
    return signed_in(alice)


def test_an_email_changes_after_codes_to_both_mailboxes(
    alice_with_verified_email, alice, issue, mailoutbox
):
    _key, token = issue("studio")
    mailoutbox.clear()

    assert request_change(alice_with_verified_email)["Location"] == APPROVE
    (first,) = mailoutbox
    assert first.to == ["alice@example.org"]
    assert "new@example.org" in first.body, "she is told which one"
    page = alice_with_verified_email.get(APPROVE)
    assert "new@example.org" in page.text
    assert code_in(first.body) not in page.text
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"

    approved = alice_with_verified_email.post(
        APPROVE, {"code": code_in(first.body).lower().replace("-", "")}
    )
    assert approved["Location"] == CONFIRM
    second = mailoutbox[1]
    assert second.to == ["new@example.org"]
    alice.refresh_from_db()
    assert alice.email == "alice@example.org", "not before the new one has agreed too"

    alice_with_verified_email.post(CONFIRM, {"code": code_in(second.body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"
    row = EmailAddress.objects.get(user=alice)
    assert (row.email, row.verified, row.primary) == ("new@example.org", True, True)
    personal = mailoutbox[2]
    assert personal.to == ["alice@example.org"]
    assert "alice@example.org" in personal.body
    assert "new@example.org" in personal.body
    assert len(mailoutbox) == 3

    assert is_in(alice_with_verified_email)
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    assert log_in(Client(), "new@example.org")["Location"] == "/keys/"
    old = Client()
    log_in(old, "alice@example.org")
    assert not is_in(old)


def test_the_code_to_one_mailbox_is_not_the_code_to_the_other(
    alice_with_verified_email, alice, mailoutbox
):
    request_change(alice_with_verified_email)
    first = code_in(mailoutbox[0].body)
    alice_with_verified_email.post(APPROVE, {"code": first})
    alice_with_verified_email.post(CONFIRM, {"code": first})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"


def test_a_wrong_code_sends_no_code_to_the_new_email(alice_with_verified_email, mailoutbox):
    request_change(alice_with_verified_email)
    page = alice_with_verified_email.post(APPROVE, {"code": "WRONG1"})
    assert page.status_code == 200
    assert "not the code" in page.text
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"]]


def test_three_wrong_codes_end_the_change(alice_with_verified_email, mailoutbox):
    request_change(alice_with_verified_email)
    for _ in range(3):
        alice_with_verified_email.post(APPROVE, {"code": "WRONG1"})
    late = alice_with_verified_email.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    assert late["Location"] == EMAIL
    assert len(mailoutbox) == 1
    # A new code can be requested.
    request_change(alice_with_verified_email)
    assert (
        alice_with_verified_email.post(APPROVE, {"code": code_in(mailoutbox[1].body)})["Location"]
        == CONFIRM
    )


def test_a_change_code_is_valid_once(alice_with_verified_email, alice, mailoutbox):
    request_change(alice_with_verified_email)
    code = code_in(mailoutbox[0].body)
    alice_with_verified_email.post(APPROVE, {"code": code})
    assert alice_with_verified_email.post(APPROVE, {"code": code})["Location"] == EMAIL
    assert [mail.to for mail in mailoutbox] == [["alice@example.org"], ["new@example.org"]]


@pytest.mark.parametrize(("seconds", "is_valid"), [(9 * 60 + 30, True), (10 * 60 + 1, False)])
def test_a_change_code_is_valid_for_ten_minutes(
    alice_with_verified_email, mailoutbox, seconds, is_valid
):
    request_change(alice_with_verified_email)
    session = alice_with_verified_email.session
    session["mail_code"] = session["mail_code"] | {"at": session["mail_code"]["at"] - seconds}
    session.save()
    alice_with_verified_email.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    # After a valid code, a code is sent to the new email as well.
    assert len(mailoutbox) == (2 if is_valid else 1)


def test_only_the_newest_change_code_is_valid(alice_with_verified_email, mailoutbox):
    """Requesting the same change again resends the mail."""
    request_change(alice_with_verified_email)
    request_change(alice_with_verified_email)
    first, second = (code_in(mail.body) for mail in mailoutbox)
    assert alice_with_verified_email.post(APPROVE, {"code": first}).status_code == 200
    assert alice_with_verified_email.post(APPROVE, {"code": second})["Location"] == CONFIRM


def test_a_change_code_allows_only_the_change_in_its_mail(
    alice_with_verified_email, mailoutbox, with_mail
):
    """Also when no mail was sent because of the rate limit."""
    with_mail.ACCOUNT_RATE_LIMITS = {"mail_code": "1/h/user"}
    request_change(alice_with_verified_email, "new@example.org")
    code = code_in(mailoutbox[0].body)
    request_change(alice_with_verified_email, "mallory@example.net")
    assert len(mailoutbox) == 1
    alice_with_verified_email.post(APPROVE, {"code": code})
    assert "mallory@example.net" not in {recipient for mail in mailoutbox for recipient in mail.to}


def test_too_many_change_requests_get_a_message(alice_with_verified_email, mailoutbox):
    for _ in range(6):
        request_change(alice_with_verified_email)
    assert len(mailoutbox) == 6
    page = alice_with_verified_email.post(
        EMAIL, {"email": "new@example.org", "action_add": ""}, follow=True
    )
    assert len(mailoutbox) == 6
    assert "Too many codes" in page.text


def test_the_code_to_the_new_email_can_be_resent(alice_with_verified_email, alice, mailoutbox):
    request_change(alice_with_verified_email)
    alice_with_verified_email.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    # allauth resends after ten seconds at the earliest.
    cache.clear()
    page = alice_with_verified_email.get(CONFIRM)
    assert 'value="resend"' in page.text
    alice_with_verified_email.post(CONFIRM, {"action": "resend"})
    first, again = mailoutbox[1:]
    assert first.to == again.to == ["new@example.org"]
    alice_with_verified_email.post(CONFIRM, {"code": code_in(first.body)})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    alice_with_verified_email.post(CONFIRM, {"code": code_in(again.body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


def test_wrong_codes_for_the_new_email_change_nothing(alice_with_verified_email, alice, mailoutbox):
    request_change(alice_with_verified_email)
    alice_with_verified_email.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    for _ in range(3):
        alice_with_verified_email.post(CONFIRM, {"code": "WRONG1"})
    alice_with_verified_email.post(CONFIRM, {"code": code_in(mailoutbox[1].body)})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert EmailAddress.objects.get(user=alice).email == "alice@example.org"


def test_changing_the_email_requires_reauthentication_and_keeps_the_typed_email(
    alice_with_verified_email, alice, mailoutbox
):
    show_who(alice_with_verified_email, alice, ago=timedelta(minutes=11))
    asked = request_change(alice_with_verified_email)
    assert asked["Location"] == "/account/reauthenticate?next=%2Faccount%2Femail"
    assert mailoutbox == []
    back = alice_with_verified_email.post(asked["Location"], {"password": PASSWORD}, follow=True)
    assert back.request["PATH_INFO"] == EMAIL
    assert 'value="new@example.org"' in back.text


def test_a_stale_session_reauthenticates_before_the_code_is_accepted(
    alice_with_verified_email, alice, mailoutbox
):
    """The code is valid for longer than a reauthentication."""
    request_change(alice_with_verified_email)
    show_who(alice_with_verified_email, alice, ago=timedelta(minutes=12))
    code = {"code": code_in(mailoutbox[0].body)}
    response = alice_with_verified_email.post(APPROVE, code)
    if response["Location"].startswith("/account/reauthenticate"):
        back = alice_with_verified_email.post(response["Location"], {"password": PASSWORD})
        assert back["Location"] == APPROVE
        response = alice_with_verified_email.post(APPROVE, code)
    assert response["Location"] == CONFIRM
    assert mailoutbox[-1].to == ["new@example.org"]


def test_mallorys_session_cannot_approve_alices_change(
    alice_with_verified_email, mallory, with_mail, mailoutbox
):
    request_change(alice_with_verified_email)
    theirs = Client()
    theirs.force_login(mallory)
    show_who(theirs, mallory)
    response = theirs.post(APPROVE, {"code": code_in(mailoutbox[0].body)})
    assert response["Location"] == EMAIL
    assert len(mailoutbox) == 1


def test_an_unverified_email_needs_no_approval(signed_in, alice, with_mail, mailoutbox):
    """An unverified email may be mistyped, so its mailbox can't approve the change."""
    client = signed_in(alice)
    assert request_change(client)["Location"] != APPROVE
    assert [mail.to for mail in mailoutbox] == [["new@example.org"]]
    client.post(CONFIRM, {"code": code_in(mailoutbox[0].body)})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


# --- Changing the email, without a mail server -----------------------------------------------


def test_without_a_mail_server_the_printed_link_changes_the_email(
    signed_in, alice, verified_email, mailoutbox
):
    client = signed_in(alice)
    assert request_change(client)["Location"] == EMAIL
    (mail,) = mailoutbox
    assert mail.to == ["new@example.org"]
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    page = client.get(EMAIL)
    assert "is not confirmed yet" in page.text
    assert "printed in the terminal" in unescape(page.text)
    link = link_in(mail.body)
    client.get(link)
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    client.post(link)
    alice.refresh_from_db()
    assert alice.email == "new@example.org"
    assert [mail.to for mail in mailoutbox] == [["new@example.org"], ["alice@example.org"]]
    assert EmailAddress.objects.get(user=alice).email == "new@example.org"


def test_an_unverified_email_stays_until_the_new_one_is_verified(client, db, mailoutbox):
    """Without a mail server, most accounts are like this."""
    sign_up(client)
    mailoutbox.clear()
    request_change(client)
    nora = User.objects.get()
    assert nora.email == "nora@example.org"
    assert log_in(Client(), "nora@example.org")["Location"] == "/keys/"
    link = link_in(mailoutbox[0].body)
    client.post(link)
    nora.refresh_from_db()
    assert nora.email == "new@example.org"
    assert EmailAddress.objects.get(user=nora).email == "new@example.org"


def test_an_email_set_by_staff_stays_until_the_new_one_is_verified(signed_in, alice):
    """allauth creates its EmailAddress row when its owner first opens the page."""
    client = signed_in(alice)
    request_change(client)
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    client.post(EMAIL, {"email": "new@example.org", "action_remove": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    assert EmailAddress.objects.get(user=alice).email == "alice@example.org"


def test_a_requested_email_does_not_become_primary_by_removing_the_current_one(signed_in, alice):
    client = signed_in(alice)
    request_change(client)
    client.post(EMAIL, {"email": "alice@example.org", "action_remove": ""})
    client.post(EMAIL, {"email": "new@example.org", "action_primary": ""})
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"


def test_two_accounts_can_change_their_emails_concurrently(alice, mallory):
    for person, new in ((alice, "new@example.org"), (mallory, "newer@example.org")):
        client = Client()
        client.force_login(person)
        show_who(client, person)
        assert request_change(client, new)["Location"] == EMAIL


def test_a_link_sent_to_one_email_verifies_no_other(client, db, mailoutbox):
    """The creator of the account may own only the new mailbox, and never have owned the old one."""
    sign_up(client)
    request_change(client)
    mailoutbox.clear()
    other = Client()
    other.post(RESET, {"email": "new@example.org"})
    for mail in list(mailoutbox):
        if RESET in mail.body:
            form = other.get(link_in(mail.body), follow=True)
            new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
            other.post(form.request["PATH_INFO"], new)
    verified_email = EmailAddress.objects.filter(verified=True).values_list("email", flat=True)
    assert "nora@example.org" not in verified_email
    assert "" not in verified_email


def test_without_a_mail_server_changing_the_email_requires_reauthentication(
    signed_in, alice, verified_email, mailoutbox
):
    client = signed_in(alice)
    show_who(client, alice, ago=timedelta(minutes=11))
    assert request_change(client)["Location"].startswith("/account/reauthenticate")
    assert mailoutbox == []


def test_a_mistyped_email_can_be_withdrawn(signed_in, alice, verified_email):
    client = signed_in(alice)
    request_change(client, "mistyped@example.org")
    client.post(EMAIL, {"email": "mistyped@example.org", "action_remove": ""})
    assert [row.email for row in EmailAddress.objects.all()] == [alice.email]


# --- Setup of providers ----------------------------------------------------------------------

PROVIDERS = [("google", "Google"), ("github", "GitHub")]


def add_client(staff: Client, provider: str, **fields: str):
    body = {"provider": provider, "client_id": "the-client", "secret": "s3cret-of-the-client"}
    return staff.post("/admin/socialaccount/socialapp/add/", {**body, **fields})


def providers_shown(staff: Client) -> dict[str, bool]:
    """Return the names of the providers on the staff index, with whether they are set up."""
    page = unescape(staff.get("/admin/").text)
    shown = re.findall(r"<summary>\s*(\w+)\s*<span class=\"state( good)?\">", page)
    return {name: bool(is_good) for name, is_good in shown}


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_the_staff_index_shows_how_to_set_up_providers(staff, provider, name):
    page = unescape(staff.get("/admin/").text)
    assert providers_shown(staff)[name] is False
    callback = f"{our_settings.PUBLIC_URL}/account/logins/{provider}/login/callback/"
    assert f"<code>{callback}</code>" in page
    assert f"{name.upper()}_CLIENT_ID" in page
    assert f"{name.upper()}_CLIENT_SECRET" in page
    assert 'href="/admin/socialaccount/socialapp/add/"' in page


@pytest.mark.parametrize("host", ["testserver", "localhost:9999"])
@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_the_staff_index_shows_the_actual_callback_url(staff, provider, name, host):
    page = staff.get("/admin/", headers={"host": host}).text
    (callback,) = re.findall(rf"<code>([^<]*/{provider}/[^<]*)</code>", page)
    assert callback.startswith(our_settings.PUBLIC_URL)
    # The callback responds that no login was begun, since there is no client.
    assert staff.get(urlsplit(callback).path).status_code == 404
    add_client(staff, provider)
    response = staff.get(urlsplit(callback).path)
    assert response.status_code in {200, 401}


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_a_provider_is_sent_the_callback_url_to_register(staff, provider, name):
    add_client(staff, provider)
    (callback,) = re.findall(rf"<code>([^<]*/{provider}/[^<]*)</code>", staff.get("/admin/").text)
    public = urlsplit(our_settings.PUBLIC_URL).netloc
    began = Client().post(f"/account/logins/{provider}/login/", headers={"host": public})
    asked = parse_qs(urlsplit(began["Location"]).query)
    assert asked["redirect_uri"] == [callback]
    assert asked["client_id"] == ["the-client"]
    assert asked["code_challenge_method"] == ["S256"]


@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
def test_a_client_entered_by_staff_shows_the_log_in_button(staff, provider, name):
    assert f"Continue with {name}" not in Client().get("/login").text
    assert add_client(staff, provider).status_code == 302
    for url in ("/login", "/signup"):
        assert f"Continue with {name}" in Client().get(url).text, url
    page = unescape(staff.get("/admin/").text)
    assert providers_shown(staff)[name] is True
    assert "Set by the environment" not in page


def test_a_clients_secret_is_write_only(staff):
    add_client(staff, "github")
    app = SocialApp.objects.get()
    url = f"/admin/socialaccount/socialapp/{app.pk}/change/"
    for page in (staff.get(url), staff.get("/admin/socialaccount/socialapp/")):
        assert page.status_code == 200
        assert "s3cret" not in page.text
    kept = staff.post(url, {"provider": "github", "client_id": "another", "secret": ""})
    assert kept.status_code == 302
    app.refresh_from_db()
    assert (app.client_id, app.secret) == ("another", "s3cret-of-the-client")
    assert add_client(staff, "google", secret="").status_code == 200
    assert add_client(staff, "github").status_code == 200
    assert SocialApp.objects.count() == 1


def test_a_client_in_the_environment_takes_precedence(staff, settings):
    add_client(staff, "github")
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
    assert providers_shown(staff)["GitHub"] is True
    assert "Set by the environment" in page


def test_staff_without_the_permission_are_referred_to_administrators(signed_in, alice):
    alice.is_staff = True
    alice.save()
    alice.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client = signed_in(alice)
    page = client.get("/admin/").text
    assert "ask an administrator to enter them" in page
    assert "/admin/socialaccount/socialapp/add/" not in page
    assert add_client(client, "github").status_code == 403
    assert not SocialApp.objects.exists()


def test_the_setup_is_not_shown_to_other_users(signed_in, mallory):
    client = signed_in(mallory)
    assert client.get("/admin/", follow=True).status_code == 403
    assert add_client(client, "github").status_code in {302, 403}
    assert not SocialApp.objects.exists()
