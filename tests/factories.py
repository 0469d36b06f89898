"""Test data that several folders use: keys, passwords, and steps of the login."""

import hmac
import io
import json
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.cache.backends import db as cached
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from accounts.models import User
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey

PASSWORD = "correct horse battery staple"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)


def invented_key() -> str:
    """Return a key of the right format that no platform has issued."""
    return with_checksum(f"comfyui-{secrets.token_hex(28)}")


def with_checksum(body: str) -> str:
    """Return the first 64 characters of a key with their CRC32, which needs no secret."""
    return f"{body}{zlib.crc32(body.encode()):08x}"


def wrong_secret(key: APIKey) -> str:
    """Return a token of `key` with the right tag and checksum, and another secret."""
    body = f"comfyui-{key.public_id}{'0' * 36}"
    tag = hmac.digest(key_hasher().tag_keys[0], body.encode(), sha256)[:4].hex()
    return with_checksum(f"{body}{tag}")


def prove(user: User) -> User:
    """Confirm the e-mail of `user`, and return the user."""
    EmailAddress.objects.update_or_create(
        user=user, email=user.email, defaults={"primary": True, "verified": True}
    )
    return user


def browser(agent: str = FIREFOX, ip: str = "203.0.113.9") -> Client:
    return Client(headers={"user-agent": agent}, REMOTE_ADDR=ip)


def log_in(client, email="alice@example.org", password=PASSWORD, **more):
    return client.post("/login", {"login": email, "password": password}, **more)


def ask_for_code(client, email="alice@example.org", **more):
    return client.post("/login/code", {"email": email, **more})


def confirm_code(client, code, **more):
    return client.post("/login/code/confirm", {"code": code, **more})


def is_in(client) -> bool:
    return client.get("/keys/").status_code == 200


def who_is_in(client) -> str | None:
    return client.session.get("_auth_user_id")


def sign_up(client, email="nora@example.org", password=PASSWORD, **more):
    return client.post("/signup", {"email": email, "password1": password}, **more)


def add_app(user: User) -> str:
    """Add an authenticator app to `user`, who has no MFA yet; return its secret."""
    secret = generate_totp_secret()
    TOTP.activate(user, secret)
    return secret


def set_up_app(client) -> str:
    """Set up an app on the page; return its secret."""
    client.get("/account/factors/app/activate")
    secret = client.session["mfa.totp.secret"]
    assert client.post("/account/factors/app/activate", {"code": app_code(secret)})["Location"]
    return secret


def app_code(secret: str, *, at: float | None = None) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time() if at is None else at) // 30))


def wrong_app_code(secret: str) -> str:
    now = time.time()
    right = {app_code(secret, at=now + 30 * step) for step in range(-3, 4)}
    return next(code for n in range(9) if (code := f"{n}" * 6) not in right)


@contextmanager
def later(ahead: timedelta) -> Iterator[None]:
    """Advance the clocks of sessions, rate limits and the cache."""
    real_time, real_now = time.time, timezone.now
    with pytest.MonkeyPatch.context() as moved:
        moved.setattr(time, "time", lambda: real_time() + ahead.total_seconds())
        moved.setattr(timezone, "now", lambda: real_now() + ahead)
        moved.setattr(cached, "tz_now", lambda: real_now() + ahead)
        yield


@contextmanager
def failing_statements(text: str) -> Iterator[None]:
    """Raise OperationalError for each SQL statement of this thread that contains `text`."""

    def fail(execute: Any, sql: str, *args: Any) -> Any:
        if text in sql:
            raise OperationalError("The tests let this statement fail.")
        return execute(sql, *args)

    with connection.execute_wrapper(fail):
        yield


def generate_key(client: Client, name: str = "studio", **fields: Any) -> Any:
    """Submit the form that creates a key; return the response."""
    return client.post("/keys/generate", {"name": name, "nonce": uuid4(), **fields})


def admin_url(row: Model, page: str = "change") -> str:
    """Return the URL of a page about `row` in the admin."""
    return f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/{page}/"


def shown_messages(response: Any) -> list[tuple[int, str]]:
    """Return level and text of the messages of Django that a response shows."""
    return [(message.level, str(message)) for message in get_messages(response.wsgi_request)]


def listed_names(response: Any) -> set[str]:
    """Return the names of the rows in a list of the admin."""
    return {row.name for row in response.context["cl"].result_list}


def run_command(name: str, *options: str, verbosity: int = 1) -> str:
    """Run a management command, and return its output."""
    out = io.StringIO()
    call_command(name, *options, stdout=out, verbosity=verbosity)
    return out.getvalue()


def language_of(page) -> str:
    """Return the language of a page: that of its markup, and of the header."""
    language: str = re.search(r'<html lang="([^"]+)"', page.text)[1]
    assert page["Content-Language"] == language
    return language


def exported(client: Client) -> Any:
    """Return the data of the logged-in account, as it is downloaded."""
    return json.loads(client.get("/account/data").getvalue())


def all_text() -> dict[str, str]:
    """Return all text by table, with sessions and cache values decoded."""
    kept = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608 (names of our own tables)
            kept[table] = repr(cursor.fetchall())
    kept["django_session"] += repr([session.get_decoded() for session in Session.objects.all()])
    with connection.cursor() as cursor:
        cursor.execute('SELECT cache_key, value FROM "cache"')
        rows = [(key, repr(cache.get(key.split(":", 2)[2]))) for key, _value in cursor.fetchall()]
    kept["cache"] = repr(rows)
    return kept
