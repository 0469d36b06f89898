"""Every address, by every kind of visitor: who gets in, and that the others change nothing.

An address without a row in the table fails, and so does a row without an address.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.http import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from django.utils.csp import CSP

from apikeys.models import APIKey, DailyUse
from audit.models import Action, Event
from oauth.models import DeviceRequest, Site
from outbox.models import Mail
from tests.conftest import PASSWORD

# What a visitor gets: a status, or where a redirect leads, relative to the address visited.
Answer = int | str
Answers = tuple[Answer, Answer, Answer]

VISITORS = ("anonymous", "mallory", "sam")

# These two must bring the visitor back to where they wanted to go.
LOGIN = "/login"
GATE = "/admin/login/"
KEYS = "/admin/apikeys/apikey/"


def all_get(answer: Answer) -> Answers:
    return (answer, answer, answer)


def signed_in(answer: Answer) -> Answers:
    return (LOGIN, answer, answer)


def staff(answer: Answer) -> Answers:
    return (GATE, GATE, answer)


@dataclass(frozen=True)
class Row:
    """What GET, POST and DELETE come to, and the most harmful thing one could post."""

    get: Answers
    post: Answers
    delete: Answers | None = None
    sends: dict[str, str] | None = None


NEW_PASSWORD = {"password1": "mallory was here 1", "password2": "mallory was here 1"}

API = {
    "health": Row(all_get(200), all_get(405), all_get(405)),
    "ready": Row(all_get(200), all_get(405), all_get(405)),
    # A session is no key: these two tell nothing to whoever is signed in to the pages alone.
    "customers": Row(all_get(401), all_get(401), all_get(401)),
    "customers/me": Row(all_get(401), all_get(401), all_get(401)),
    "customers/api-keys": Row(
        (401, 200, 200), (401, 201, 201), (401, 405, 405), sends={"name": "bred"}
    ),
    "customers/api-keys/<key_id>": Row(
        (401, 405, 405), (401, 405, 405), (401, 404, 404), sends={"name": "stolen"}
    ),
    "customers/api-keys/<key_id>/roll": Row(
        (401, 405, 405), (401, 404, 404), (401, 405, 405), sends={"overlap_seconds": "0"}
    ),
    "api/v1/keys/validate": Row(
        all_get(405), all_get(200), all_get(405), sends={"key": "comfyui-nonsense"}
    ),
    "api/v1/keys/validate/batch": Row(all_get(405), all_get(404), all_get(405)),
    # Nobody here has a service's secret, and GitHub's reports are off.
    "api/v1/leaks": Row(all_get(405), all_get(404), all_get(405)),
    "api/v1/leaks/github": Row(all_get(405), all_get(404), all_get(405)),
    ".well-known/api-key-format": Row(all_get(200), all_get(405), all_get(405)),
    "api/v1/auth": Row(all_get(401), all_get(401), all_get(401)),
    # What is not kept here is told only to whoever has a key.
    **dict.fromkeys(
        [
            "customers/balance",
            "customers/events",
            "customers/credit",
            "customers/billing",
            "customers/storage",
            "^proxy/",
            "api/workspaces/current",
            "api/workspace/members",
            "api/billing/status",
            "api/billing/balance",
            "api/billing/capabilities",
            "api/billing/plans",
            "api/features",
        ],
        Row(all_get(401), all_get(401), all_get(401)),
    ),
    "^admin/verify-api-key/?$": Row(
        all_get(405), all_get(404), all_get(405), sends={"api_key": "comfyui-nonsense"}
    ),
    "releases": Row(all_get(200), all_get(405), all_get(405)),
    "^api/schema/?$": Row(all_get(200), all_get(405), all_get(405)),
    "^api/docs/?$": Row(all_get(200), all_get(405), all_get(405)),
}

PAGES = {
    "": Row(all_get("/keys/"), all_get("/keys/")),
    "keys": Row(all_get("/keys/"), all_get("/keys/")),
    "keys/": Row(signed_in(200), signed_in(405)),
    "keys/generate": Row(
        signed_in("/keys/"),
        signed_in(200),
        sends={"name": "bred", "nonce": "7b4c1f0e-6f5d-4f0a-9b6e-2f5f0f6f8a11"},
    ),
    # Another's key is not there, for staff too: they have the admin, which writes down who it was.
    "keys/<uuid:key_id>/delete": Row(signed_in(404), signed_in(404)),
    "keys/<uuid:key_id>/roll": Row(signed_in(404), signed_in(404), sends={"overlap": "0"}),
    "usage/": Row(signed_in(200), signed_in(405)),
    "connect": Row(all_get(200), all_get(200), sends={"key": "comfyui-nonsense"}),
    # What is found there is no key of alice's: whoever has one of those may end it, as its holder.
    "leaks": Row(all_get(200), all_get(400), sends={"key": "comfyui-nonsense"}),
    # Nobody is named whom to tell.
    ".well-known/security.txt": Row(all_get(404), all_get(405)),
    "profile/api-keys": Row(all_get("/keys/"), all_get("/keys/")),
    "login": Row(
        (200, "/keys/", "/keys/"),
        (200, "/keys/", "/keys/"),
        sends={"login": "alice@example.org", "password": "a guess of mallory's"},
    ),
    "signup": Row(
        (200, "/keys/", "/keys/"),
        (200, "/keys/", "/keys/"),
        sends={"email": "Alice@example.org", **NEW_PASSWORD},
    ),
    "login/code": Row(
        (200, "/keys/", "/keys/"),
        ("code/confirm", "/keys/", "/keys/"),
        sends={"email": "alice@example.org"},
    ),
    "login/code/confirm": Row(
        ("/login/code", "/keys/", "/keys/"),
        ("/login/code", "/keys/", "/keys/"),
        sends={"code": "a guess"},
    ),
    "login/passkey": Row(
        ("/login", "/keys/", "/keys/"), ("/login", "/keys/", "/keys/"), sends={"credential": "{{}}"}
    ),
    "login/factor": Row(
        ("/login", "/keys/", "/keys/"), ("/login", "/keys/", "/keys/"), sends={"code": "a guess"}
    ),
    "language": Row(all_get(405), all_get("/"), sends={"language": "ja"}),
    "logout": Row(("/login", 200, 200), ("/login", "/login", "/login")),
    "account/": Row(
        signed_in(200), signed_in("/account/"), sends={"name": "Renamed", "notices": "all"}
    ),
    "account/inactive": Row(all_get(200), all_get(405)),
    "account/email": Row(
        signed_in(200),
        signed_in("/account/email"),
        sends={"email": "alice@example.org", "action_add": "1"},
    ),
    "account/email/approve": Row(
        signed_in("/account/email"), signed_in("/account/email"), sends={"code": "a guess"}
    ),
    "account/confirm-email": Row(all_get(200), all_get(405)),
    r"^account/confirm-email/(?P<key>[-:\w]+)$": Row(all_get(200), all_get(404)),
    "account/reauthenticate": Row(signed_in(200), signed_in(200), sends={"password": "a guess"}),
    "account/reauthenticate/factor": Row(
        signed_in("/account/reauthenticate"),
        signed_in("/account/reauthenticate"),
        sends={"code": "a guess"},
    ),
    "account/reauthenticate/passkey": Row(
        signed_in("/account/reauthenticate"),
        signed_in("/account/reauthenticate"),
        sends={"credential": "{{}}"},
    ),
    "account/reauthenticate/mail": Row(
        signed_in("/account/reauthenticate"),
        signed_in("/account/reauthenticate"),
        sends={"code": "a guess"},
    ),
    # Nobody else's passkey, session or data is there; one's own are in tests/accounts.
    "account/factors": Row(signed_in(200), signed_in(405)),
    "account/factors/app/activate": Row(signed_in(200), signed_in(200), sends={"code": "a guess"}),
    "account/factors/app/deactivate": Row(signed_in(404), signed_in(404)),
    "account/factors/recovery-codes": Row(signed_in(404), signed_in(405)),
    "account/factors/recovery-codes/generate": Row(signed_in(200), signed_in(200)),
    "account/factors/passkeys": Row(signed_in(200), signed_in(405)),
    "account/factors/passkeys/add": Row(
        signed_in(200), signed_in(200), sends={"credential": "{{}}"}
    ),
    "account/factors/passkeys/<int:pk>/remove": Row(signed_in(404), signed_in(404)),
    "account/factors/passkeys/<int:pk>/rename": Row(
        signed_in(404), signed_in(404), sends={"name": "stolen"}
    ),
    "account/sessions": Row(signed_in(200), signed_in("/account/sessions")),
    "account/sessions/<int:session_id>/end": Row((LOGIN, 405, 405), signed_in(404)),
    "account/activity": Row(signed_in(200), signed_in(405)),
    "account/data": Row(signed_in(200), signed_in(405)),
    "account/delete": Row(signed_in(200), (LOGIN, 400, 400), sends={"email": "alice@example.org"}),
    "account/password/change": Row(
        signed_in(200), signed_in(200), sends={"oldpassword": "a guess", **NEW_PASSWORD}
    ),
    # For people without a password alone: otherwise it would change one without asking for it.
    "account/password/set": Row(
        signed_in("/account/password/change"),
        signed_in("/account/password/change"),
        sends=NEW_PASSWORD,
    ),
    "account/password/reset": Row(
        all_get(200),
        all_get("/account/password/reset/sent"),
        sends={"email": "alice@example.org"},
    ),
    "account/password/reset/sent": Row(all_get(200), all_get(405)),
    "account/password/reset/done": Row(all_get(200), all_get(405)),
    r"^account/password/reset/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[-\w]+)$": Row(
        all_get(200), all_get(200), sends=NEW_PASSWORD
    ),
    "account/logins": Row(signed_in(200), signed_in(200), sends={"account": "{socialaccount}"}),
    "account/logins/signup": Row(
        all_get("/login"), all_get("/login"), sends={"email": "alice@example.org"}
    ),
    "account/logins/cancelled": Row(all_get(200), all_get(405)),
    "account/logins/error": Row(all_get(401), all_get(405)),
    # Neither provider is set up here: to the world, there is nothing at these addresses.
    "account/logins/google/login/": Row(all_get(404), all_get(404)),
    "account/logins/google/login/callback/": Row(all_get(404), all_get(404)),
    "account/logins/github/login/": Row(all_get(404), all_get(404)),
    "account/logins/github/login/callback/": Row(all_get(404), all_get(404)),
}

OAUTH = {
    # A code that no machine shows; the ones that do are in tests/oauth.
    "device": Row(signed_in(200), signed_in(400), sends={"user_code": "BCDF-GHJK"}),
    "device/done/<uuid:device_id>": Row(signed_in(404), (LOGIN, 405, 405)),
    # Nobody is sent anywhere for a question that says not even who asks.
    "oauth/authorize": Row(all_get(400), all_get(400), sends={"decision": "allow"}),
    # Programs have no session, and one opens nothing here.
    "oauth/device/code": Row(
        all_get(405), all_get(200), all_get(405), sends={"client_id": "comfy-key"}
    ),
    "oauth/token": Row(all_get(405), all_get(400), all_get(405), sends={"grant_type": "password"}),
    "oauth/revoke": Row(all_get(405), all_get(200), all_get(405), sends={"token": "comfyui-x"}),
    "oauth/introspect": Row(all_get(405), all_get(404), all_get(405), sends={"token": "comfyui-x"}),
    ".well-known/oauth-authorization-server": Row(all_get(200), all_get(405), all_get(405)),
}

ADMIN = {
    "admin/": Row(staff(200), staff(200)),
    "admin/login/": Row(
        ("/login and back to ['/admin/']", 403, "/admin/"),
        # Guessing goes through /login, which limits it.
        ("/login and back to ['/admin/']", 403, "/admin/"),
        sends={"username": "alice@example.org", "password": "a guess"},
    ),
    "admin/logout/": Row(("/admin/", "/admin/", 405), ("/admin/", "/admin/", 200)),
    "admin/password_change/": Row(
        staff(200),
        staff(200),
        sends={
            "old_password": "a guess",
            "new_password1": "mallory was here 1",
            "new_password2": "mallory was here 1",
        },
    ),
    "admin/password_change/done/": Row(staff(200), staff(405)),
    "admin/autocomplete/": Row(staff(403), staff(405)),
    "admin/jsi18n/": Row(staff(200), staff(405)),
    "admin/r/<path:content_type_id>/<path:object_id>/": Row(staff(404), staff(404)),
    r"admin/^(?P<app_label>auth|socialaccount|accounts|account|apikeys|audit|oauth|outbox)/$": Row(
        staff(200), staff(200)
    ),
    "admin/(?P<url>.*)$": Row(staff(404), staff(404)),
    "admin/auth/group/": Row(staff(200), staff(200)),
    "admin/auth/group/add/": Row(staff(200), staff("/admin/auth/group/"), sends={"name": "new"}),
    "admin/auth/group/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/auth/group/<path:object_id>/delete/": Row(
        staff(200), staff("/admin/auth/group/"), sends={"post": "yes"}
    ),
    "admin/auth/group/<path:object_id>/change/": Row(
        staff(200), staff("/admin/auth/group/"), sends={"name": "renamed"}
    ),
    "admin/auth/group/<path:object_id>/": Row(staff("change/"), staff("change/")),
    "admin/accounts/user/": Row(
        staff(200),
        staff("/admin/accounts/user/"),
        sends={"action": "delete_selected", "_selected_action": "{user}", "post": "yes"},
    ),
    "admin/accounts/user/add/": Row(
        staff(200),
        staff(200),
        sends={"email": "alice@example.org", "usable_password": "true", **NEW_PASSWORD},
    ),
    "admin/accounts/user/<id>/password/": Row(
        staff(200), staff("../change/"), sends={"usable_password": "true", **NEW_PASSWORD}
    ),
    "admin/accounts/user/<path:object_id>/history/": Row(staff(200), staff(200)),
    # Disabled, never deleted.
    "admin/accounts/user/<path:object_id>/delete/": Row(
        staff(403), staff(403), sends={"post": "yes"}
    ),
    "admin/accounts/user/<path:object_id>/change/": Row(
        staff(200),
        staff("/admin/accounts/user/"),
        sends={"email": "stolen@example.org", "name": "Stolen"},
    ),
    "admin/accounts/user/<path:object_id>/": Row(staff("change/"), staff("change/")),
    # Which of the staff may, is in tests/staff/test_roles.py.
    "admin/accounts/user/<uuid:user_id>/overview/": Row(staff(200), staff(405)),
    "admin/accounts/user/<uuid:user_id>/disable/": Row(staff(200), staff("../overview/")),
    "admin/accounts/user/<uuid:user_id>/enable/": Row(staff(200), staff("../overview/")),
    "admin/accounts/user/<uuid:user_id>/end-sessions/": Row(staff(200), staff("../overview/")),
    "admin/lookup/": Row(staff(200), staff(200), sends={"token": "comfyui-nonsense"}),
    "admin/apikeys/apikey/": Row(
        staff(200),
        staff("/admin/apikeys/apikey/"),
        sends={"action": "revoke_selected", "_selected_action": "{key}", "confirmed": "1"},
    ),
    "admin/apikeys/apikey/add/": Row(
        staff(403), staff(403), sends={"name": "made", "owner": "{user}"}
    ),
    "admin/apikeys/apikey/<uuid:key_id>/revoke/": Row(staff(200), staff("../change/")),
    "admin/apikeys/apikey/<uuid:key_id>/suspend/": Row(staff(200), staff("../change/")),
    "admin/apikeys/apikey/<uuid:key_id>/restore/": Row(staff(200), staff("../change/")),
    "admin/apikeys/apikey/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/apikeys/apikey/<path:object_id>/delete/": Row(
        staff(403), staff(403), sends={"post": "yes"}
    ),
    "admin/apikeys/apikey/<path:object_id>/change/": Row(
        staff(200), staff(403), sends={"name": "renamed"}
    ),
    "admin/apikeys/apikey/<path:object_id>/": Row(staff("change/"), staff("change/")),
    "admin/audit/event/": Row(
        staff(200),
        staff(200),
        sends={"action": "delete_selected", "_selected_action": "{event}", "post": "yes"},
    ),
    "admin/audit/event/export/<slug:form>": Row(staff(200), staff(200)),
    "admin/audit/event/add/": Row(staff(403), staff(403), sends={"action": "key.issued"}),
    "admin/audit/event/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/audit/event/<path:object_id>/delete/": Row(
        staff(403), staff(403), sends={"post": "yes"}
    ),
    "admin/audit/event/<path:object_id>/change/": Row(
        staff(200), staff(403), sends={"public_id": "000000000000"}
    ),
    "admin/audit/event/<path:object_id>/": Row(staff("change/"), staff("change/")),
    **{
        f"admin/outbox/mail/{rest}": row
        for rest, row in {
            "": Row(
                staff(200),
                staff(200),
                sends={"action": "delete_selected", "_selected_action": "{mail}", "post": "yes"},
            ),
            "add/": Row(staff(403), staff(403), sends={"to": "mallory@example.org"}),
            "<path:object_id>/history/": Row(staff(200), staff(200)),
            "<path:object_id>/delete/": Row(staff(403), staff(403), sends={"post": "yes"}),
            "<path:object_id>/change/": Row(
                staff(200), staff(403), sends={"to": "mallory@example.org"}
            ),
            "<path:object_id>/": Row(staff("change/"), staff("change/")),
        }.items()
    },
    "admin/oauth/site/": Row(
        staff(200),
        staff("/admin/oauth/site/"),
        sends={"action": "delete_selected", "_selected_action": "{site}", "post": "yes"},
    ),
    "admin/oauth/site/add/": Row(
        staff(200), staff("/admin/oauth/site/"), sends={"origin": "https://evil.example.net"}
    ),
    "admin/oauth/site/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/oauth/site/<path:object_id>/delete/": Row(
        staff(200), staff("/admin/oauth/site/"), sends={"post": "yes"}
    ),
    "admin/oauth/site/<path:object_id>/change/": Row(
        staff(200), staff("/admin/oauth/site/"), sends={"origin": "https://evil.example.net"}
    ),
    "admin/oauth/site/<path:object_id>/": Row(staff("change/"), staff("change/")),
    # The client of a provider. Its secret goes in and does not come out (tests/accounts).
    "admin/socialaccount/socialapp/": Row(
        staff(200),
        staff("/admin/socialaccount/socialapp/"),
        sends={"action": "delete_selected", "_selected_action": "{socialapp}", "post": "yes"},
    ),
    "admin/socialaccount/socialapp/add/": Row(
        staff(200),
        staff("/admin/socialaccount/socialapp/"),
        sends={"provider": "google", "client_id": "mallory's", "secret": "s"},
    ),
    "admin/socialaccount/socialapp/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/socialaccount/socialapp/<path:object_id>/delete/": Row(
        staff(200), staff("/admin/socialaccount/socialapp/"), sends={"post": "yes"}
    ),
    "admin/socialaccount/socialapp/<path:object_id>/change/": Row(
        staff(200),
        staff("/admin/socialaccount/socialapp/"),
        sends={"provider": "github", "client_id": "mallory's"},
    ),
    "admin/socialaccount/socialapp/<path:object_id>/": Row(staff("change/"), staff("change/")),
    "admin/account/emailaddress/": Row(
        staff(200),
        staff("/admin/account/emailaddress/"),
        sends={"action": "delete_selected", "_selected_action": "{emailaddress}", "post": "yes"},
    ),
    "admin/account/emailaddress/add/": Row(
        staff(200),
        staff("/admin/account/emailaddress/"),
        sends={"user": "{user}", "email": "second@example.org", "verified": "on"},
    ),
    "admin/account/emailaddress/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/account/emailaddress/<path:object_id>/delete/": Row(
        staff(200), staff("/admin/account/emailaddress/"), sends={"post": "yes"}
    ),
    "admin/account/emailaddress/<path:object_id>/change/": Row(
        staff(200),
        staff("/admin/account/emailaddress/"),
        sends={"user": "{user}", "email": "alice@example.org", "verified": "on"},
    ),
    "admin/account/emailaddress/<path:object_id>/": Row(staff("change/"), staff("change/")),
}

TABLE = {**API, **PAGES, **OAUTH, **ADMIN}


def routes(resolver: URLResolver, above: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        route = above + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield route
        else:
            yield from routes(pattern, route)


# --- What is alice's -------------------------------------------------------------------------


@pytest.fixture
def alices(alice, issue) -> dict[str, str]:
    """One of everything that addresses name, alice's own; their ids."""
    key, _token = issue("studio")
    DailyUse.objects.create(key=key, day=timezone.now().date(), calls=3)
    address = EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    login = SocialAccount.objects.create(user=alice, provider="github", uid="1")
    # Of a provider that isn't installed: with one that is, its addresses would begin to work.
    app = SocialApp.objects.create(provider="absent", name="absent", client_id="i", secret="s")
    token = SocialToken.objects.create(account=login, token="t")
    factor = Authenticator.objects.create(
        user=alice, type=Authenticator.Type.WEBAUTHN, data={"name": "hers", "credential": {}}
    )
    session = UserSession.objects.create(user=alice, session_key="hers", ip="203.0.113.9")
    ids = {
        "user": alice.pk,
        "key": key.pk,
        "apikey": key.pk,
        "event": Event.objects.get(key_id=key.pk).pk,
        "group": Group.objects.create(name="group").pk,
        "emailaddress": address.pk,
        "socialaccount": login.pk,
        "socialapp": app.pk,
        "socialtoken": token.pk,
        "authenticator": factor.pk,
        "usersession": session.pk,
        "site": Site.objects.create(origin="https://comfy.example.org").pk,
        "device": DeviceRequest.objects.create(
            owner=alice, device_digest="d", user_digest="u", expires_at=timezone.now()
        ).pk,
        "mail": Mail.objects.create(to=alice.email, subject="s", sender="p@example.org").pk,
        "content_type": ContentType.objects.get_for_model(APIKey).pk,
        # The key of allauth's second step, which counts only in the session that took the first.
        "reset": f"{user_pk_to_url_str(alice)}-set-password",
    }
    return {name: str(value) for name, value in ids.items()}


def everything_of(alice) -> list[list[dict[str, Any]]]:
    """All rows that are alice's, in full, and the ones that decide who signs in as her."""
    return [
        list(rows.order_by("pk").values())
        for rows in (
            type(alice).objects.filter(pk=alice.pk),
            APIKey.objects.filter(owner=alice),
            DailyUse.objects.filter(key__owner=alice),
            # That somebody tried, or looked, is written down beside what she did.
            Event.objects.filter(account=alice).exclude(
                action__in=[Action.SIGN_IN_REFUSED, Action.STAFF_VIEWED]
            ),
            EmailAddress.objects.filter(user=alice),
            SocialAccount.objects.filter(user=alice),
            SocialToken.objects.filter(account__user=alice),
            SocialApp.objects.all(),
            Authenticator.objects.filter(user=alice),
            UserSession.objects.filter(user=alice),
            Mail.objects.filter(to=alice.email),
            DeviceRequest.objects.filter(owner=alice),
            Site.objects.all(),
            Group.objects.all(),
        )
    ]


def address_of(route: str, ids: dict[str, str]) -> str:
    """An address that `route` matches, naming what is alice's."""
    model = re.match(r"admin/\w+/(\w+)/", route)
    values = {
        "<key_id>": ids["key"],
        "<uuid:key_id>": ids["key"],
        "<uuid:user_id>": ids["user"],
        "<uuid:device_id>": ids["device"],
        "<path:content_type_id>": ids["content_type"],
        "<id>": ids["user"],
        "<int:pk>": ids["authenticator"],
        "<int:session_id>": ids["usersession"],
        "<slug:form>": "csv",
        "<path:object_id>": ids.get(model[1] if model else "key", ids["key"]),
        r"(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[-\w]+)$": ids["reset"],
        r"(?P<key>[-:\w]+)$": "not:a:key",
        "^(?P<app_label>auth|socialaccount|accounts|account|apikeys|audit|oauth|outbox)/$": (
            "apikeys/"
        ),
        "(?P<url>.*)$": "nothing",
        "/?$": "",
        "^": "",
    }
    for placeholder, value in values.items():
        route = route.replace(placeholder, value)
    return f"/{route}"


def body_of(row: Row, ids: dict[str, str]) -> dict[str, str]:
    return {name: value.format(**ids) for name, value in (row.sends or {}).items()}


def visit(
    client: Client, method: str, route: str, ids: dict[str, str], row: Row
) -> HttpResponseBase:
    body = body_of(row, ids)
    address = address_of(route, ids)
    if method == "GET":
        return client.get(address)
    if route in API:
        return client.generic(method, address, json.dumps(body), "application/json")
    return client.generic(method, address, urlencode(body), "application/x-www-form-urlencoded")


@pytest.fixture
def browser_of(mallory, sam) -> Callable[[str], Client]:
    """A visitor's browser. CSRF is not asked for, so that what holds is the permission alone.

    They gave their password twice, just now: nothing stops at allauth's asking for it again.
    """
    people = {"mallory": mallory, "sam": sam}

    def open_browser(visitor: str) -> Client:
        client = Client(raise_request_exception=False)
        if user := people.get(visitor):
            for address in ("/login", "/account/reauthenticate"):
                given = client.post(address, {"login": user.email, "password": PASSWORD})
                assert given.status_code == 302
        return client

    return open_browser


# --- The table -------------------------------------------------------------------------------


def test_every_address_has_a_row_and_every_row_an_address():
    there_are = set(routes(get_resolver()))
    assert there_are - set(TABLE) == set(), "add a row: who may come here?"
    assert set(TABLE) - there_are == set(), "remove the row: there is no such address"


def test_the_table_sends_each_visit_to_the_route_it_is_about(alices):
    for route in TABLE:
        match = get_resolver().resolve(address_of(route, alices))
        # What is said of the beginning is left out of the middle.
        assert match.route.replace("^", "") == route.replace("^", ""), route


@pytest.mark.parametrize("visitor", VISITORS)
@pytest.mark.parametrize("route", TABLE)
def test_each_address_answers_each_visitor_as_listed(route, visitor, browser_of, alice, alices):
    row, client = TABLE[route], browser_of(visitor)
    before = everything_of(alice)
    for method, answers in (("GET", row.get), ("POST", row.post), ("DELETE", row.delete)):
        if answers is None:
            continue
        response = visit(client, method, route, alices, row)
        expected = answers[VISITORS.index(visitor)]
        assert summary(response, address_of(route, alices)) == (
            expected if isinstance(expected, int) else arrival(expected, route, alices)
        ), f"{method} by {visitor}"
        if visitor != "sam" or method == "GET":
            assert everything_of(alice) == before, f"{method} by {visitor} changed what is alice's"


def summary(response: HttpResponseBase, address: str) -> Answer:
    """A status, or where a redirect leads: `/login?next=…` in full, others without the query."""
    if not 300 <= response.status_code < 400:
        return response.status_code
    location = urlsplit(urljoin(address, response["Location"]))
    back = parse_qs(location.query).get("next", [])
    if location.netloc:
        return response["Location"]
    return f"{location.path} and back to {back}" if back else location.path


def arrival(expected: str, route: str, ids: dict[str, str]) -> str:
    address = address_of(route, ids)
    where = urljoin(address, expected)
    gated = expected == GATE or (expected == LOGIN and route not in ENDS_AT_LOGIN)
    return f"{where} and back to {[BACK_TO.get(route, address)]}" if gated else where


# From these, /login is where one ends up, and not on the way.
ENDS_AT_LOGIN = {"logout", "login/passkey", "login/factor", "account/logins/signup"}
BACK_TO = {"admin/login/": "/admin/"}


@pytest.mark.parametrize("visitor", ["anonymous", "mallory"])
def test_no_other_method_changes_what_is_alices(visitor, browser_of, alice, alices):
    client, before = browser_of(visitor), everything_of(alice)
    for route, row in TABLE.items():
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            visit(client, method, route, alices, row)
            assert everything_of(alice) == before, (method, route)


def test_the_table_would_notice_a_change(alice, alices):
    """What is compared sees each thing that one could do to alice: its silence means something."""
    key = APIKey.objects.get(owner=alice)
    for change in (
        lambda: APIKey.objects.filter(pk=key.pk).update(
            revoked_at=timezone.now(), revoked_reason="staff"
        ),
        lambda: APIKey.objects.filter(pk=key.pk).update(name="renamed"),
        lambda: type(alice).objects.filter(pk=alice.pk).update(is_active=False),
        lambda: EmailAddress.objects.filter(user=alice).update(verified=True),
        lambda: SocialAccount.objects.filter(user=alice).update(uid="mallory's"),
    ):
        before = everything_of(alice)
        change()
        assert everything_of(alice) != before


# --- The API never redirects, and speaks JSON ------------------------------------------------

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
API_ADDRESSES = [
    "/health",
    "/ready",
    "/customers",
    "/customers/me",
    "/customers/api-keys",
    "/customers/api-keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11",
    "/customers/api-keys/not-a-uuid",
    "/customers/api-keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/roll",
    "/api/v1/keys/validate",
    "/api/v1/keys/validate/batch",
    "/api/v1/leaks",
    "/api/v1/leaks/github",
    "/.well-known/api-key-format",
    "/api/v1/auth",
    "/admin/verify-api-key",
    "/customers/balance",
    "/customers/events",
    "/customers/credit",
    "/customers/billing",
    "/customers/storage",
    "/proxy/openai/v1/images",
    "/releases",
    "/api/workspaces/current",
    "/api/workspace/members",
    "/api/billing/status",
    "/api/billing/balance",
    "/api/billing/capabilities",
    "/api/billing/plans",
    "/api/features",
    "/api/schema",
    "/api/docs",
    # What is not there answers no other way.
    "/customers/nothing",
    "/api/nothing",
    "/api/v1",
]


def test_each_route_of_the_api_is_among_the_addresses_tried():
    tried = {get_resolver().resolve(address).route for address in API_ADDRESSES if _there(address)}
    assert tried == set(API)


def _there(address: str) -> bool:
    return not address.endswith(("nothing", "/v1"))


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize("address", API_ADDRESSES)
@pytest.mark.parametrize("visitor", VISITORS)
def test_the_api_never_redirects_and_its_errors_are_json(address, slash, visitor, browser_of):
    client = browser_of(visitor)
    for method in METHODS:
        response = client.generic(method, address + slash)
        told = f"{method} {address}{slash}: {response.status_code}"
        assert not 300 <= response.status_code < 400, told
        assert response.status_code != 500, told
        assert_says_error(response, method, told)


@pytest.mark.parametrize("address", API_ADDRESSES)
@pytest.mark.parametrize("accept", ["text/html", "image/png", "nonsense"])
def test_the_apis_errors_are_json_whatever_the_client_accepts(address, accept, client):
    for method in ("GET", "POST", "PUT"):
        response = client.generic(method, address, headers={"accept": accept})
        assert_says_error(response, method, f"{method} {address}: {response.status_code}")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b"\xff"),
        ("application/json", b'{"key": 1}'),
        ("application/json", b"{" * 100_000),
        ("text/plain", b"comfyui-"),
        ("multipart/form-data", b"no boundary"),
        ("nonsense", b"x"),
    ],
)
@pytest.mark.parametrize("address", ["/customers/api-keys", "/api/v1/keys/validate"])
def test_a_body_that_means_nothing_is_a_json_error(address, content_type, body, signed_in, mallory):
    response = signed_in(mallory).generic("POST", address, body, content_type)
    assert response.status_code in {400, 415}
    assert_says_error(response, "POST", address)


@pytest.mark.parametrize("address", ["/customers", "/api/nothing"])
def test_a_wrong_host_is_a_json_error_to_clients(address, client):
    response = client.get(address, headers={"host": "evil.example"})
    assert response.status_code == 400
    assert_says_error(response, "GET", address)


def test_a_page_without_its_csrf_token_is_a_json_error_to_clients(mallory):
    client = Client(enforce_csrf_checks=True)
    client.force_login(mallory)
    response = client.post("/customers/api-keys", {"name": "x"}, content_type="application/json")
    assert response.status_code == 403
    assert_says_error(response, "POST", "/customers/api-keys")
    assert not APIKey.objects.filter(owner=mallory).exists()


def assert_says_error(response: HttpResponseBase, method: str, told: str) -> None:
    if response.status_code < 400:
        return
    assert response["Content-Type"] == "application/json", told
    if method != "HEAD":
        body = json.loads(response.content)
        assert set(body) == {"error", "message"}, told
        assert re.fullmatch(r"[A-Z][A-Z_]+", body["error"]), told
        assert body["message"], told


@pytest.mark.parametrize(
    "address",
    ["/keys/?q={}", "/keys/?page={}", "/usage/?day={}", f"{KEYS}?q={{}}", f"{KEYS}?state={{}}"],
)
@pytest.mark.parametrize(
    "words", ["%00", "a%00b", "%ff", "%ed%a0%80", "%25", "'\"", "\\", "9" * 30]
)
def test_no_words_in_an_address_break_a_page(address, words, browser_of, issue):
    """A NUL is none of PostgreSQL's characters, for one."""
    issue("studio")
    response = browser_of("sam").get(address.format(words), follow=True)
    assert response.status_code == 200


# --- What browsers are told ------------------------------------------------------------------


@pytest.mark.parametrize("visitor", VISITORS)
def test_every_page_tells_the_browser_what_it_may_do(visitor, browser_of, alices):
    client, pages = browser_of(visitor), 0
    for route, row in TABLE.items():
        for method in ("GET", "POST"):
            if route == "logout" and method == "POST":
                continue
            response = visit(client, method, route, alices, row)
            if response.get("Content-Type", "").startswith("text/html"):
                pages += 1
                assert_guarded(response, f"{method} {route}")
    assert pages > len(TABLE) / 2


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("/nothing", {}, 404),
        ("/keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/delete", {}, 404),
        ("/admin/login/", {}, 403),
        ("/login", {"host": "evil.example"}, 400),
        ("/admin/", {"host": "evil.example"}, 400),
    ],
)
def test_pages_of_errors_are_guarded_as_well(address, headers, status, signed_in, mallory):
    response = signed_in(mallory).get(address, headers=headers)
    assert response.status_code == status
    assert_guarded(response, address)


def test_the_page_that_tells_of_a_missing_csrf_token_is_guarded(mallory):
    client = Client(enforce_csrf_checks=True)
    client.force_login(mallory)
    response = client.post("/account/", {"name": "Changed"})
    assert response.status_code == 403
    assert_guarded(response, "/account/")
    mallory.refresh_from_db()
    assert mallory.name == "Mallory"


def test_the_page_of_an_error_of_ours_is_guarded(browser_of, monkeypatch):
    client = browser_of("mallory")

    def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("apikeys.views.render", break_down)
    response = client.get("/keys/")
    assert response.status_code == 500
    assert_guarded(response, "/keys/")


def assert_guarded(response: HttpResponseBase, told: str) -> None:
    assert response.get("X-Frame-Options") == "DENY", told
    assert response.get("X-Content-Type-Options") == "nosniff", told
    assert response.get("Referrer-Policy") == "same-origin", told
    policy = directives(response)
    # The scripts of Swagger UI and of the admin make markup of text.
    is_theirs = re.search(r"api/docs|admin/", told) and "trusted-types" not in policy
    assert {**policy, "script-src": {CSP.NONCE}} == {
        name: set(sources)
        for name, sources in settings.SECURE_CSP.items()
        if not (is_theirs and "trusted-types" in name)
    }, told
    assert policy["default-src"] == {"'none'"}
    # None, where there is no tag to run.
    assert all(source.startswith("'nonce-") for source in policy.get("script-src", ())), told
    assert policy["frame-ancestors"] == {"'none'"}


def directives(response: HttpResponseBase) -> dict[str, set[str]]:
    policy = response.get("Content-Security-Policy", "")
    return {
        name: set(sources)
        for name, *sources in (directive.split() for directive in policy.split(";") if directive)
    }
