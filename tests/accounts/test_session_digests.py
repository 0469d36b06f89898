"""Session tables hold no text that is a valid session id."""

import asyncio
import re
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from allauth.usersessions.models import UserSession
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings as our_settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from accounts.sessions import SessionStore, StoredKey, stored_key
from tests.accounts.test_signing_in import NEW_PASSWORD, change_password
from tests.conftest import PASSWORD
from tests.factories import is_in, log_in

ROOT = Path(__file__).parents[2]


def with_cookie(value: str) -> Client:
    client = Client()
    client.cookies[our_settings.SESSION_COOKIE_NAME] = value
    return client


def columns() -> list[str]:
    """Return every text in rows about sessions, read without the models."""
    with connection.cursor() as cursor:
        found = []
        for table in ("django_session", "usersessions_usersession"):
            cursor.execute(f"SELECT * FROM {table}")  # noqa: S608 (names from above)
            found += [str(value) for row in cursor.fetchall() for value in row]
    return found


def test_text_from_the_tables_is_not_a_valid_session_id(here):
    kept = columns()
    assert here.session.session_key not in " ".join(kept)
    keys = [text for text in kept if text.startswith("sha256$")]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    for text in kept:
        thief = with_cookie(text)
        assert not is_in(thief)
        assert not is_in(with_cookie(text.removeprefix("sha256$")))
    assert is_in(here)


def test_a_cookie_with_text_from_the_tables_gets_a_new_session_id(here):
    (row,) = Session.objects.all()
    thief = with_cookie(row.session_key)
    thief.post("/login", {"login": "nobody@example.org", "password": "no"})
    assert Session.objects.filter(session_key=stored_key(str(row.session_key))).count() == 0
    assert is_in(here)


def test_a_stored_key_is_recognized_only_by_its_type():
    key = stored_key("x" * 32)
    assert stored_key(key) == key
    assert stored_key(str(key)) != key
    assert len(key) == 40
    assert stored_key(None) == stored_key("")
    # Any text in a cookie.
    for odd in ("\ud800", "é" * 300, "\x00"):
        assert isinstance(stored_key(odd), StoredKey)


def test_alice_sees_her_sessions_and_ends_one(here, alice):
    phone = Client()
    log_in(phone)
    assert here.get("/account/sessions").text.count("This device") == 1
    (other,) = UserSession.objects.exclude(session_key=stored_key(here.session.session_key))
    assert here.post(f"/account/sessions/{other.pk}/end").status_code == 302
    assert not is_in(phone)
    assert is_in(here)
    assert Session.objects.count() == 1


def test_alice_logs_out_everywhere_else(here, alice):
    phone = Client()
    log_in(phone)
    assert here.post("/account/sessions").status_code == 302
    assert not is_in(phone)
    assert is_in(here)


def test_a_new_password_keeps_this_session_and_ends_the_others(here, alice):
    phone = Client()
    log_in(phone)
    change_password(here, PASSWORD, NEW_PASSWORD)
    assert is_in(here)
    assert not is_in(phone)
    assert here.get("/account/sessions").text.count("This device") == 1
    (listed,) = UserSession.objects.all()
    assert listed.session_key == stored_key(here.session.session_key)


def test_allauths_own_methods_find_the_session(here):
    (listed,) = UserSession.objects.all()
    assert listed.exists()
    assert not listed.purge()
    listed.end()
    assert not is_in(here)
    assert not Session.objects.exists()


def test_a_query_for_some_columns_needs_no_key(here):
    (listed,) = UserSession.objects.only("ip")
    assert listed.ip == here.defaults["REMOTE_ADDR"]
    (listed,) = UserSession.objects.defer("ip")
    assert listed.exists()


def test_asynchronous_callers_store_digests_too(transactional_db):
    async def visit() -> tuple[str, bool, object]:
        session = SessionStore()
        await session.aset("seen", 1)
        await session.asave()
        key = session.session_key
        again = SessionStore(key)
        found = await again.aget("seen")
        there = await again.aexists(key)
        await again.adelete()
        await sync_to_async(connections.close_all)()
        return key, there, found

    key, there, found = asyncio.run(visit())
    assert (there, found) == (True, 1)
    assert not Session.objects.exists()
    assert isinstance(key, str)


def test_an_expired_session_is_not_loaded(here):
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    store = SessionStore(here.session.session_key)
    assert SESSION_KEY not in store
    assert store.session_key is None


def test_sessions_of_older_versions_stay_valid(here):
    """The migration replaces stored ids by their digests."""
    session_id = here.session.session_key
    Session.objects.update(session_key=session_id)
    UserSession.objects.update(session_key=session_id)
    Session.objects.create(
        session_key="e" * 32, session_data="", expire_date=timezone.now() - timedelta(days=1)
    )
    migration = import_module("accounts.migrations.0006_session_digests")
    for _ in range(2):
        migration.digest_ids(apps, SimpleNamespace(connection=connection))
        assert {row.session_key for row in Session.objects.all()} == {stored_key(session_id)}
        assert is_in(here)
        assert here.get("/account/sessions").text.count("This device") == 1


def test_no_query_compares_a_column_with_a_session_id():
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for app in ("accounts", "apikeys", "audit", "backups", "oauth", "outbox", "sites", "staff")
        for path in (ROOT / app).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"session_key(__\w+)?\s*[!=]?==?\s*\[?(self\.)?request\.session\.", line)
    ]
    assert found == []
