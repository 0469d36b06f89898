"""Anonymous requests create no session rows, except when they begin a login."""

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module

import pytest
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from accounts import expired_sessions, services
from accounts.models import User
from accounts.sessions import stored_key
from core import batches
from tests.conftest import PASSWORD

Session = expired_sessions.model()
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore

# Values for route arguments.
_ARGUMENTS = {
    "int": "1",
    "uuid": "01234567-89ab-cdef-0123-456789abcdef",
    "path": "x",
    "string": "x",
    "slug": "x",
    "hostedcomfyui": "queue",
    "authority": "comfy.example.org",
}


def paths(resolver: URLResolver, before: str = "/") -> Iterator[str]:
    """Yield a path for each route below `resolver`."""
    for entry in resolver.url_patterns:
        path = before + _path(entry)
        if isinstance(entry, URLResolver):
            yield from paths(entry, path)
        else:
            yield path


def _path(entry: URLPattern | URLResolver) -> str:
    route = str(entry.pattern)
    for name, converter in entry.pattern.converters.items():
        kind = type(converter).__name__.removesuffix("Converter").lower()
        route = re.sub(rf"<(\w+:)?{name}>", _ARGUMENTS[kind], route)
    # A regular expression: groups get some text, and optional parts are left out.
    route = re.sub(r"\(\?P<\w+>(\w+)\|[^)]*\)", r"\1", route)
    route = re.sub(r"\(\?P<\w+>[^)]*\)", "x", route)
    return re.sub(r"/\?$|[\^$]", "", route)


WAYS = {
    "as it is": {},
    "as a script": {"X-Requested-With": "XMLHttpRequest", "Accept": "application/json"},
    "with a cookie of no session": {"Cookie": f"{settings.SESSION_COOKIE_NAME}={'x' * 32}"},
}
QUERY = "?next=/keys/&process=connect&code=x&state=y&error=access_denied&user_code=BCDF-GHJK&new=1"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("query", ["", QUERY], ids=["alone", "with a query"])
def test_no_page_creates_an_anonymous_session(way, query, providers):
    wrote = []
    # One for all, since each loads the middleware anew. What it was sent, the next page never sees.
    client = Client(raise_request_exception=False)
    for path in paths(get_resolver()):
        client.cookies.clear()
        for method in (client.get, client.head, client.options):
            method(path + query, headers=WAYS[way])
        if Session.objects.exists():
            wrote.append(path)
            Session.objects.all().delete()
    assert len(list(paths(get_resolver()))) > 100, "all routes were asked for"
    assert wrote == []


# Forms that begin a login by code, a sign-up or a social login, which are limited and need a
# session.
BEGINS = {
    "account_request_login_code",
    "account_signup",
    "google_login",
    "github_login",
}
FILLED_IN = {
    "email": "nora@example.org",
    "login": "nora@example.org",
    "password": "x",
    "password1": PASSWORD,
    "language": "ja",
    "code": "BCDF-GHJK",
    "credential": "{}",
    "action_add": "1",
    "name": "x",
    "next": "/keys/",
    "public_device": "on",
}


@pytest.mark.parametrize("fields", [{}, FILLED_IN], ids=["empty", "filled in"])
def test_only_forms_that_begin_a_log_in_create_an_anonymous_session(fields, providers):
    wrote = set()
    client = Client(raise_request_exception=False)
    for path in paths(get_resolver()):
        cache.clear()
        client.cookies.clear()
        client.post(path, fields)
        if Session.objects.exists():
            wrote.add(path)
            Session.objects.all().delete()
    assert wrote <= {reverse(name) for name in BEGINS}


def test_a_message_to_an_anonymous_client_is_shown_once(db, client):
    response = client.get(reverse("socialaccount_signup"), follow=True)
    assert "The login was interrupted" in response.content.decode()
    assert "The login was interrupted" not in client.get(reverse("account_login")).content.decode()


def test_log_ins_with_a_provider_are_rate_limited(providers, client):
    statuses = [client.post(reverse("google_login")).status_code for _ in range(32)]
    assert statuses[0] == 302
    assert statuses[-1] == 429
    assert Session.objects.count() <= 30


# --- Expiry of anonymous sessions ------------------------------------------------------------


def lifetime() -> timedelta:
    return Session.objects.get().expire_date - timezone.now()


@pytest.mark.parametrize("public_device", ["", "on"])
def test_an_unfinished_log_in_expires_after_an_hour(public_device, alice, client):
    fields = {"email": alice.email, "public_device": public_device}
    client.post(reverse("account_request_login_code"), fields)
    assert lifetime() <= settings.ANONYMOUS_SESSION_LIFETIME


@pytest.mark.parametrize("public_device", ["", "on"])
def test_a_finished_log_in_lasts_as_long_as_any_session(public_device, alice, client, mailoutbox):
    client.post(
        reverse("account_request_login_code"),
        {"email": alice.email, "public_device": public_device},
    )
    code = re.search(r"^[A-Z0-9]{2,8}(-[A-Z0-9]{2,8})*$", mailoutbox[-1].body, re.MULTILINE)
    assert code
    client.post(reverse("account_confirm_login_code"), {"code": code[0]})
    assert client.get(reverse("account")).status_code == 200
    assert lifetime() > settings.SESSION_LIFETIME - timedelta(minutes=1)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    assert bool(cookie["max-age"]) is not bool(public_device)


# --- Deletion of expired sessions ------------------------------------------------------------


def session_of(user: User, *, ends_in: timedelta) -> str:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session["began_at"] = time.time()
    session.set_expiry(timezone.now() + ends_in)
    session.create()
    assert session.session_key
    return str(session.session_key)


def test_only_expired_sessions_are_deleted(alice, monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 3)
    for _ in range(7):
        session_of(alice, ends_in=timedelta(seconds=-1))
    kept = session_of(alice, ends_in=timedelta(days=1))
    assert expired_sessions.sweep() == 7
    assert Session.objects.count() == 1
    assert SessionStore().exists(kept)


@pytest.mark.parametrize("how", ["unseen", "begun long ago"])
def test_an_expired_session_is_deleted_with_its_list_entry(how, alice):
    keys = [session_of(alice, ends_in=timedelta(days=20)) for _ in range(2)]
    for key in keys:
        UserSession.objects.create(
            user=alice, session_key=stored_key(key), ip="192.0.2.7", user_agent="x"
        )
    long_ago = timezone.now() - timedelta(days=31)
    over = UserSession.objects.filter(session_key=stored_key(keys[0]))
    over.update(**{"last_seen_at" if how == "unseen" else "created_at": long_ago})
    assert expired_sessions.sweep() == 1
    assert [SessionStore().exists(key) for key in keys] == [False, True]
    assert UserSession.objects.get().session_key == stored_key(keys[1])


def test_one_process_sweeps_for_the_cluster(alice):
    session_of(alice, ends_in=timedelta(seconds=-1))
    assert expired_sessions.sweep_if_due() == 1
    session_of(alice, ends_in=timedelta(seconds=-1))
    assert expired_sessions.sweep_if_due() == 0


# --- Account deletion ------------------------------------------------------------------------


def test_deleting_an_account_searches_few_sessions_outside_its_transaction(
    transactional_db, alice, mallory, client, monkeypatch
):
    begun = Client()
    begun.post(reverse("account_request_login_code"), {"email": alice.email})
    for _ in range(20):
        session_of(mallory, ends_in=timedelta(days=20))
    decoded = []
    decode = Session.get_decoded

    def watched(session):
        decoded.append(connection.in_atomic_block)
        return decode(session)

    monkeypatch.setattr(Session, "get_decoded", watched)
    services.delete_account(alice)
    assert decoded == [False], "the one that was begun"
    assert Session.objects.count() == 20
