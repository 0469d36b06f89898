"""Every URL, by every kind of visitor: who has access, and that others change nothing.

A URL without a row in the table fails, and so does a row without a URL.
"""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit
from uuid import UUID

import pytest
from allauth.account.models import EmailAddress
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.db import connection, transaction
from django.http import HttpResponseBase
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from django.utils.csp import CSP

from accounts.models import User
from apikeys.models import APIKey, DailyUse
from audit.models import Action, Event
from oauth.models import DeviceRequest, Site
from outbox.models import Mail
from sites.models import ProtectedSite
from tests.conftest import show_who
from uploads.models import Upload

# The expected result: a status, or the target of a redirect, relative to the visited URL.
Answer = int | str
Answers = tuple[Answer, Answer, Answer]

VISITORS = ("anonymous", "mallory", "sam")

# These two must lead back to the requested page.
LOGIN = "/login"
GATE = "/admin/login/"
KEYS = "/admin/apikeys/apikey/"


def all_get(response: Answer) -> Answers:
    return (response, response, response)


def signed_in(response: Answer) -> Answers:
    return (LOGIN, response, response)


def staff(response: Answer) -> Answers:
    return (GATE, GATE, response)


@dataclass(frozen=True)
class Row:
    """The results of GET, POST and DELETE, and the most harmful POST data."""

    get: Answers
    post: Answers
    delete: Answers | None = None
    sends: dict[str, str] | None = None


NEW_PASSWORD = {"password1": "mallory was here 1", "password2": "mallory was here 1"}

API = {
    "health": Row(all_get(200), all_get(405), all_get(405)),
    "ready": Row(all_get(200), all_get(405), all_get(405)),
    # Metrics are off.
    "metrics": Row(all_get(404), all_get(405), all_get(405)),
    # A session is no key: these two refuse users who are logged in to the pages only.
    "customers": Row(all_get(401), all_get(401), all_get(401)),
    "customers/me": Row(all_get(401), all_get(401), all_get(401)),
    "customers/api-keys": Row(
        (401, 200, 200), (401, 201, 201), (401, 405, 405), sends={"name": "bred"}
    ),
    "customers/api-keys/<key_id>": Row(
        (401, 404, 404), (401, 405, 405), (401, 404, 404), sends={"name": "stolen"}
    ),
    "customers/api-keys/bulk-delete": Row(
        (401, 405, 405), (401, 400, 400), (401, 405, 405), sends={"ids": "all"}
    ),
    "customers/api-keys/<key_id>/roll": Row(
        (401, 405, 405), (401, 404, 404), (401, 405, 405), sends={"overlap_seconds": "0"}
    ),
    "customers/usage": Row((401, 200, 200), (401, 405, 405), (401, 405, 405)),
    "api/v1/keys/validate": Row(
        all_get(405), all_get(200), all_get(405), sends={"key": "comfyui-nonsense"}
    ),
    "api/v1/keys/validate/batch": Row(all_get(405), all_get(401), all_get(405)),
    # No visitor has a service secret, and GitHub's reports are off.
    "api/v1/leaks": Row(all_get(405), all_get(401), all_get(405)),
    "api/v1/leaks/github": Row(all_get(405), all_get(404), all_get(405)),
    ".well-known/api-key-format": Row(all_get(200), all_get(405), all_get(405)),
    "api/v1/auth": Row(all_get(401), all_get(401), all_get(401)),
    "^api/v1/auth/": Row(all_get(401), all_get(401), all_get(401)),
    # Endpoints without data here respond only to requests with a key.
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
            "api/<hosted_comfyui:path>",
        ],
        Row(all_get(401), all_get(401), all_get(401)),
    ),
    # The token in the URL is the permission, not a key or a session.
    "customers/storage/<uuid:upload_id>/<str:name>": Row(all_get(403), all_get(405), all_get(405)),
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
    # Another user's key is a 404, for staff too: they have the admin, which records the view.
    "keys/<uuid:key_id>/": Row(
        signed_in(404),
        signed_in(404),
        sends={"name": "stolen", "expiry": "keep", "scopes": "customers:read"},
    ),
    "keys/<uuid:key_id>/first-use": Row(signed_in(404), signed_in(405)),
    "keys/<uuid:key_id>/delete": Row(signed_in(404), signed_in(404)),
    # Without a selected key one is led back to the list.
    "keys/delete": Row(signed_in("/keys/"), signed_in("/keys/")),
    "keys/<uuid:key_id>/roll": Row(signed_in(404), signed_in(404), sends={"overlap": "0"}),
    "usage/": Row(signed_in(200), signed_in(405)),
    "usage.csv": Row(signed_in(200), signed_in(405)),
    "connect": Row(all_get(200), all_get(200), sends={"key": "comfyui-nonsense"}),
    # Whatever key is passed there is not alice's. Its holder may revoke it.
    "leaks": Row(all_get(200), all_get(400), sends={"key": "comfyui-nonsense"}),
    # No contact is configured.
    ".well-known/security.txt": Row(all_get(404), all_get(405)),
    ".well-known/change-password": Row(all_get("/account/password/change"), all_get(405)),
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
    "theme": Row(all_get(405), all_get("/keys/"), sends={"theme": "dark"}),
    # No accent colour is configured.
    "theme.css": Row(all_get(404), all_get(405)),
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
    # Passkeys, sessions and data of others are not accessible; tests/accounts has one's own.
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
    # Only for accounts without a password: otherwise it would replace one without asking for it.
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
    # No provider is set up here, so these URLs are 404.
    "account/logins/google/login/": Row(all_get(404), all_get(404)),
    "account/logins/google/login/callback/": Row(all_get(404), all_get(404)),
    "account/logins/github/login/": Row(all_get(404), all_get(404)),
    "account/logins/github/login/callback/": Row(all_get(404), all_get(404)),
}

OAUTH = {
    # A code that no device shows; valid ones are tested in tests/oauth.
    "device": Row(signed_in(200), signed_in(400), sends={"user_code": "BCDF-GHJK"}),
    "device/done/<uuid:device_id>": Row(signed_in(404), (LOGIN, 405, 405)),
    # A request without a client id is not redirected.
    "oauth/authorize": Row(all_get(400), all_get(400), sends={"decision": "allow"}),
    "sites/": Row(signed_in(200), signed_in(405)),
    # Requests without parameters are invalid.
    "sites/sign-in": Row(all_get(400), all_get(405)),
    "sites/failed": Row(all_get(400), all_get(405)),
    # Of a site that is not listed. tests/sites has listed ones.
    "sites/at/<authority:authority>/callback": Row(all_get(404), all_get(405)),
    "sites/at/<authority:authority>/users": Row(all_get(404), all_get(405)),
    # API clients have no session, and a session is ignored here.
    "oauth/device/code": Row(
        all_get(405), all_get(200), all_get(405), sends={"client_id": "comfy-key"}
    ),
    "oauth/token": Row(all_get(405), all_get(400), all_get(405), sends={"grant_type": "password"}),
    "oauth/revoke": Row(all_get(405), all_get(200), all_get(405), sends={"token": "comfyui-x"}),
    "oauth/introspect": Row(all_get(405), all_get(401), all_get(405), sends={"token": "comfyui-x"}),
    ".well-known/oauth-authorization-server": Row(all_get(200), all_get(405), all_get(405)),
}

# Django builds this pattern from the registered apps, in the order of their registration.
APP_LABELS = (
    r"^(?P<app_label>socialaccount|accounts|auth|account|apikeys|audit|oauth|outbox"
    r"|comfyui_sites)/$"
)

ADMIN = {
    "admin/": Row(staff(200), staff(200)),
    "admin/login/": Row(
        ("/login and back to ['/admin/']", 403, "/admin/"),
        # Passwords are guessed at /login, which is rate limited.
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
    f"admin/{APP_LABELS}": Row(staff(200), staff(200)),
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
    # Accounts are disabled, never deleted.
    "admin/accounts/user/<path:object_id>/delete/": Row(
        staff(403), staff(403), sends={"post": "yes"}
    ),
    "admin/accounts/user/<path:object_id>/change/": Row(
        staff(200),
        staff("/admin/accounts/user/"),
        sends={"email": "stolen@example.org", "name": "Stolen"},
    ),
    "admin/accounts/user/<path:object_id>/": Row(staff("change/"), staff("change/")),
    # tests/staff/test_roles.py has the roles.
    "admin/accounts/user/<uuid:user_id>/overview/": Row(staff(200), staff(405)),
    "admin/accounts/user/<uuid:user_id>/disable/": Row(staff(200), staff("../overview/")),
    "admin/accounts/user/<uuid:user_id>/enable/": Row(staff(200), staff("../overview/")),
    "admin/accounts/user/<uuid:user_id>/end-sessions/": Row(staff(200), staff("../overview/")),
    "admin/lookup/": Row(staff(200), staff(200), sends={"token": "comfyui-nonsense"}),
    "admin/apikeys/apikey/": Row(
        staff(200),
        staff("/admin/apikeys/apikey/"),
        sends={"action": "suspend_selected", "_selected_action": "{key}", "confirmed": "1"},
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
    "admin/audit/event/export/<slug:file_format>": Row(staff(200), staff(200)),
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
    "admin/comfyui_sites/protectedsite/": Row(
        staff(200),
        staff("/admin/comfyui_sites/protectedsite/"),
        sends={"action": "delete_selected", "_selected_action": "{site}", "post": "yes"},
    ),
    "admin/comfyui_sites/protectedsite/add/": Row(
        staff(200),
        staff("/admin/comfyui_sites/protectedsite/"),
        sends={"origin": "https://evil.example.net", "access": "everyone"},
    ),
    "admin/comfyui_sites/protectedsite/<path:object_id>/history/": Row(staff(200), staff(200)),
    "admin/comfyui_sites/protectedsite/<path:object_id>/delete/": Row(
        staff(200), staff("/admin/comfyui_sites/protectedsite/"), sends={"post": "yes"}
    ),
    "admin/comfyui_sites/protectedsite/<path:object_id>/change/": Row(
        staff(200),
        staff("/admin/comfyui_sites/protectedsite/"),
        sends={"origin": "https://evil.example.net", "access": "everyone"},
    ),
    "admin/comfyui_sites/protectedsite/<path:object_id>/": Row(staff("change/"), staff("change/")),
    # The OAuth client of a provider. Its secret is write-only (tests/accounts).
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


# --- Alice's data ----------------------------------------------------------------------------


@pytest.fixture
def alices_objects(alice, issue) -> dict[str, str]:
    """Return the ids of alice's objects, one for each URL argument."""
    key, _token = issue("studio")
    DailyUse.objects.create(key=key, day=timezone.now().date(), calls=3)
    row = EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    login = SocialAccount.objects.create(user=alice, provider="github", uid="1")
    # Of a provider that isn't installed: with one that is, its URLs would begin to work.
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
        "emailaddress": row.pk,
        "socialaccount": login.pk,
        "socialapp": app.pk,
        "socialtoken": token.pk,
        "authenticator": factor.pk,
        "usersession": session.pk,
        "site": Site.objects.create(origin="https://comfy.example.org").pk,
        "protectedsite": ProtectedSite.objects.create(origin="https://comfy.example.org").pk,
        "device": DeviceRequest.objects.create(
            owner=alice, device_digest="d", user_digest="u", expires_at=timezone.now()
        ).pk,
        "upload": Upload.objects.create(
            owner=alice, key=key, file_name="cat.png", expires_at=timezone.now() + timedelta(days=1)
        ).pk,
        "mail": Mail.objects.create(to=alice.email, subject="s", sender="p@example.org").pk,
        "content_type": ContentType.objects.get_for_model(APIKey).pk,
        # The key of allauth's second step, which is valid only in the session of the first.
        "reset": f"{user_pk_to_url_str(alice)}-set-password",
    }
    return {name: str(value) for name, value in ids.items()}


def all_data_of(alice) -> list[list[tuple[Any, ...]]]:
    """Return all rows of alice, and those that decide who can log in as her."""
    found = []
    with connection.cursor() as cursor:
        for statement, parameters in _statements(alice.pk, alice.email):
            cursor.execute(statement, parameters)
            found.append(cursor.fetchall())
    return found


@functools.cache
def _statements(user_id: UUID, email: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the statements of `all_data_of`, which are made once and run after each request."""
    return [
        rows.order_by("pk").query.sql_with_params()
        for rows in (
            User.objects.filter(pk=user_id),
            APIKey.objects.filter(owner=user_id),
            DailyUse.objects.filter(key__owner=user_id),
            # Audit events of attempts and views are recorded beside her own.
            Event.objects.filter(account=user_id).exclude(
                action__in=[Action.SIGN_IN_REFUSED, Action.STAFF_VIEWED]
            ),
            EmailAddress.objects.filter(user=user_id),
            SocialAccount.objects.filter(user=user_id),
            SocialToken.objects.filter(account__user=user_id),
            SocialApp.objects.all(),
            Authenticator.objects.filter(user=user_id),
            UserSession.objects.filter(user=user_id),
            Mail.objects.filter(to=email),
            DeviceRequest.objects.filter(owner=user_id),
            Upload.objects.filter(owner=user_id),
            Site.objects.all(),
            ProtectedSite.objects.all(),
            Group.objects.all(),
        )
    ]


def url_of(route: str, ids: dict[str, str]) -> str:
    """Return a URL for `route` with the ids of alice's objects."""
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
        "<slug:file_format>": "csv",
        "<uuid:upload_id>": ids["upload"],
        "<str:name>": "file.png",
        "<hosted_comfyui:path>": "prompt",
        "<authority:authority>": "comfy.example.net",
        "<path:object_id>": ids.get(model[1] if model else "key", ids["key"]),
        r"(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[-\w]+)$": ids["reset"],
        r"(?P<key>[-:\w]+)$": "not:a:key",
        APP_LABELS: "apikeys/",
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
    url = url_of(route, ids)
    if method == "GET":
        return client.get(url)
    if route in API:
        return client.generic(method, url, json.dumps(body), "application/json")
    return client.generic(method, url, urlencode(body), "application/x-www-form-urlencoded")


@pytest.fixture
def browser_of(mallory, sam) -> Callable[[str], Client]:
    """Return a visitor's browser without CSRF checks, so that only permissions are tested.

    Its session is fresh, so that reauthentication does not interfere.
    """
    people = {"mallory": mallory, "sam": sam}

    def open_browser(visitor: str) -> Client:
        client = Client(raise_request_exception=False)
        if user := people.get(visitor):
            client.force_login(user)
            show_who(client, user, reauthenticated=True)
        return client

    return open_browser


# --- The table -------------------------------------------------------------------------------


def test_every_url_has_a_row_and_every_row_a_url():
    there_are = set(routes(get_resolver()))
    assert there_are - set(TABLE) == set(), "add a row: who may come here?"
    assert set(TABLE) - there_are == set(), "remove the row: there is no such address"


def test_every_row_is_routed_to_its_view(alices_objects):
    for route in TABLE:
        match = get_resolver().resolve(url_of(route, alices_objects))
        # The middle of a long list is omitted.
        assert match.route.replace("^", "") == route.replace("^", ""), route


def test_every_url_responds_to_every_visitor_as_listed(browser_of, alice, alices_objects):
    """And every page has the security headers, and a logout form if its visitor is logged in."""
    before = all_data_of(alice)
    browsers = {visitor: browser_of(visitor) for visitor in VISITORS}
    cookies = {visitor: SimpleCookie(client.cookies) for visitor, client in browsers.items()}
    pages: Counter[str] = Counter()
    for route in TABLE:
        # Roll back sam's changes and logouts before the next URL.
        with transaction.atomic():
            # In this order: sam comes last, since sam may change alice's data.
            for visitor, client in browsers.items():
                client.cookies = SimpleCookie(cookies[visitor])
                for method, response in responses_to(client, visitor, route, alices_objects):
                    label = f"{method} /{route} by {visitor}"
                    if response.get("Content-Type", "").startswith("text/html"):
                        pages[visitor] += 1
                        assert_has_security_headers(response, label)
                    if method == "GET" and response.status_code == 200:
                        pages[f"{visitor} with a menu"] += has_log_out_form(response, label)
                    if visitor == "sam" and method == "GET":
                        assert all_data_of(alice) == before, f"{label} changed alice's data"
                if visitor != "sam":
                    assert all_data_of(alice) == before, f"/{route} by {visitor} changed them"
            transaction.set_rollback(True)
        cache.clear()
    assert min(pages[visitor] for visitor in VISITORS) > len(TABLE) / 2
    assert pages["anonymous with a menu"] == 0
    assert pages["mallory with a menu"] + pages["sam with a menu"] > 40


def responses_to(
    client: Client, visitor: str, route: str, ids: dict[str, str]
) -> Iterator[tuple[str, HttpResponseBase]]:
    """Yield each listed method and its response, which is as listed."""
    row = TABLE[route]
    for method, responses in (("GET", row.get), ("POST", row.post), ("DELETE", row.delete)):
        if responses is None:
            continue
        response = visit(client, method, route, ids, row)
        expected = responses[VISITORS.index(visitor)]
        assert summary(response, url_of(route, ids)) == (
            expected if isinstance(expected, int) else redirect_of(expected, route, ids)
        ), f"{method} /{route} by {visitor}"
        yield method, response


def has_log_out_form(response: HttpResponseBase, label: str) -> bool:
    """Return whether this is a page with a menu, which must have a logout form."""
    text = response.content.decode() if not response.streaming else ""
    # The navigation of our pages, and that of the admin.
    if not re.search(r'<nav [^>]*class="sections"|<nav [^>]*id="nav-sidebar"', text):
        return False
    assert re.search(r'<form[^>]* method="post"[^>]* action="[^"]*logout/?"', text) or (
        'action="/admin/logout/"' in text
    ), label
    return True


def summary(response: HttpResponseBase, url: str) -> Answer:
    """Return a status, or a redirect target: `/login?next=…` in full, others without the query."""
    if not 300 <= response.status_code < 400:
        return response.status_code
    location = urlsplit(urljoin(url, response["Location"]))
    back = parse_qs(location.query).get("next", [])
    if location.netloc:
        return response["Location"]
    return f"{location.path} and back to {back}" if back else location.path


def redirect_of(expected: str, route: str, ids: dict[str, str]) -> str:
    url = url_of(route, ids)
    where = urljoin(url, expected)
    gated = expected == GATE or (expected == LOGIN and route not in ENDS_AT_LOGIN)
    return f"{where} and back to {[BACK_TO.get(route, url)]}" if gated else where


# From these URLs, /login is the final target.
ENDS_AT_LOGIN = {"logout", "login/passkey", "login/factor", "account/logins/signup"}
BACK_TO = {"admin/login/": "/admin/"}


@pytest.mark.parametrize("visitor", ["anonymous", "mallory"])
def test_other_methods_change_nothing_of_alices(visitor, browser_of, alice, alices_objects):
    client, before = browser_of(visitor), all_data_of(alice)
    for route, row in TABLE.items():
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            visit(client, method, route, alices_objects, row)
        assert all_data_of(alice) == before, route


def test_the_table_detects_a_change(alice, alices_objects):
    """The comparison detects every kind of change to alice's data."""
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
        before = all_data_of(alice)
        change()
        assert all_data_of(alice) != before


# --- API errors ------------------------------------------------------------------------------

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
API_URLS = [
    "/health",
    "/ready",
    "/metrics",
    "/customers",
    "/customers/me",
    "/customers/api-keys",
    "/customers/api-keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11",
    "/customers/api-keys/bulk-delete",
    "/customers/api-keys/not-a-uuid",
    "/customers/api-keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/roll",
    "/customers/usage",
    "/api/v1/keys/validate",
    "/api/v1/keys/validate/batch",
    "/api/v1/leaks",
    "/api/v1/leaks/github",
    "/.well-known/api-key-format",
    "/api/v1/auth",
    "/api/v1/auth/prompt",
    "/admin/verify-api-key",
    "/customers/balance",
    "/customers/events",
    "/customers/credit",
    "/customers/billing",
    "/customers/storage",
    "/customers/storage/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/file.png",
    "/proxy/openai/v1/images",
    "/releases",
    "/api/workspaces/current",
    "/api/workspace/members",
    "/api/billing/status",
    "/api/billing/balance",
    "/api/billing/capabilities",
    "/api/billing/plans",
    "/api/features",
    "/api/prompt",
    "/api/schema",
    "/api/docs",
    # A missing object has the same response.
    "/customers/nothing",
    "/api/nothing",
    "/api/v1",
]


def test_every_api_route_is_in_the_table():
    tried = {get_resolver().resolve(url).route for url in API_URLS if _there(url)}
    assert tried == set(API)


def _there(url: str) -> bool:
    return not url.endswith(("nothing", "/v1"))


@pytest.mark.parametrize("url", API_URLS)
def test_the_api_never_redirects_and_its_errors_are_json(url, browser_of):
    for visitor in VISITORS:
        client = browser_of(visitor)
        for path, method in itertools.product((url, f"{url}/"), METHODS):
            response = client.generic(method, path)
            label = f"{method} {path} by {visitor}: {response.status_code}"
            assert not 300 <= response.status_code < 400, label
            assert response.status_code != 500, label
            assert_says_error(response, method, label)


@pytest.mark.parametrize("url", API_URLS)
def test_the_apis_errors_are_json_whatever_the_client_accepts(url, client):
    accepts = ("text/html", "image/png", "nonsense")
    for accept, method in itertools.product(accepts, ("GET", "POST", "PUT")):
        response = client.generic(method, url, headers={"accept": accept})
        assert_says_error(response, method, f"{method} {url}: {response.status_code}")


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
@pytest.mark.parametrize("url", ["/customers/api-keys", "/api/v1/keys/validate"])
def test_an_invalid_body_is_a_json_error(url, content_type, body, signed_in, mallory):
    response = signed_in(mallory).generic("POST", url, body, content_type)
    assert response.status_code in {400, 415}
    assert_says_error(response, "POST", url)


@pytest.mark.parametrize("url", ["/customers", "/api/nothing"])
def test_a_wrong_host_is_a_json_error_for_api_clients(url, client):
    response = client.get(url, headers={"host": "evil.example"})
    assert response.status_code == 400
    assert_says_error(response, "GET", url)


def test_a_missing_csrf_token_is_a_json_error_for_api_clients(mallory):
    client = Client(enforce_csrf_checks=True)
    client.force_login(mallory)
    response = client.post("/customers/api-keys", {"name": "x"}, content_type="application/json")
    assert response.status_code == 403
    assert_says_error(response, "POST", "/customers/api-keys")
    assert not APIKey.objects.filter(owner=mallory).exists()


def assert_says_error(response: HttpResponseBase, method: str, label: str) -> None:
    if response.status_code < 400:
        return
    assert response["Content-Type"] == "application/json", label
    if method != "HEAD":
        body = json.loads(response.content)
        assert set(body) == {"error", "message"}, label
        assert re.fullmatch(r"[A-Z][A-Z_]+", body["error"]), label
        assert body["message"], label


@pytest.mark.parametrize(
    "url",
    [
        "/keys/?q={}",
        "/keys/?page={}",
        "/usage/?day={}",
        "/usage/?period={}",
        f"{KEYS}?q={{}}",
        f"{KEYS}?state={{}}",
    ],
)
def test_no_text_in_a_url_breaks_a_page(url, browser_of, issue):
    """PostgreSQL text can't contain NUL, for example."""
    issue("studio")
    sam = browser_of("sam")
    for words in ("%00", "a%00b", "%ff", "%ed%a0%80", "%25", "'\"", "\\", "9" * 30):
        response = sam.get(url.format(words), follow=True)
        assert response.status_code == 200, words


# --- Security headers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        ("/nothing", {}, 404),
        ("/keys/0d6a52dc-6ad1-4b7b-8a8a-2b6f3c7f5c11/delete", {}, 404),
        ("/admin/login/", {}, 403),
        ("/login", {"host": "evil.example"}, 400),
        ("/admin/", {"host": "evil.example"}, 400),
    ],
)
def test_error_pages_have_security_headers(url, headers, status, signed_in, mallory):
    response = signed_in(mallory).get(url, headers=headers)
    assert response.status_code == status
    assert_has_security_headers(response, url)


def test_the_csrf_error_page_has_security_headers(mallory):
    client = Client(enforce_csrf_checks=True)
    client.force_login(mallory)
    response = client.post("/account/", {"name": "Changed"})
    assert response.status_code == 403
    assert_has_security_headers(response, "/account/")
    mallory.refresh_from_db()
    assert mallory.name == "Mallory"


def test_the_500_page_has_security_headers(browser_of, monkeypatch):
    client = browser_of("mallory")

    def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("apikeys.views.render", break_down)
    response = client.get("/keys/")
    assert response.status_code == 500
    assert_has_security_headers(response, "/keys/")


def assert_has_security_headers(response: HttpResponseBase, label: str) -> None:
    assert response.get("X-Frame-Options") == "DENY", label
    assert response.get("X-Content-Type-Options") == "nosniff", label
    assert response.get("Referrer-Policy") == "same-origin", label
    policy = directives(response)
    # The scripts of Swagger UI and of the admin assign strings to innerHTML.
    is_theirs = re.search(r"api/docs|admin/", label) and "trusted-types" not in policy
    assert {**policy, "script-src": {CSP.NONCE}} == {
        name: set(sources)
        for name, sources in settings.SECURE_CSP.items()
        if not (is_theirs and "trusted-types" in name)
    }, label
    assert policy["default-src"] == {"'none'"}
    # None if the page has no script.
    assert all(source.startswith("'nonce-") for source in policy.get("script-src", ())), label
    assert policy["frame-ancestors"] == {"'none'"}


def directives(response: HttpResponseBase) -> dict[str, set[str]]:
    policy = response.get("Content-Security-Policy", "")
    return {
        name: set(sources)
        for name, *sources in (directive.split() for directive in policy.split(";") if directive)
    }
