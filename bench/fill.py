"""Fill a migrated PostgreSQL database with accounts, keys, events and use, by SQL.

    DATABASE_URL=… VAR_DIR=… python -m bench.fill

FILL_ACCOUNTS   accounts, each with a verified email (default 200000)
FILL_KEYS       keys, the same number for each account (default 1000000)
FILL_EVENTS     audit events, over five years (default 2000000)
FILL_HOURS      rows of use by hour, over 90 days, and a tenth as many by day (default 5000000)
FILL_BUSY_KEYS  keys of one more account, each used in every hour of 90 days (default 500), with two
                hundred times as many events

A database that has some of the rows gets the missing ones, so that a table can grow in steps. No
token matches the hash of a key. The time of each step is printed.
"""

import os
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from bench.server_pool import log_progress

BUSY: Final = "busy@example.org"
STAFF: Final = "sam@example.org"
_DAYS: Final = 90


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@dataclass(frozen=True)
class Scale:
    """How many rows of each kind there are to be."""

    accounts: int = field(default_factory=lambda: _number("FILL_ACCOUNTS", 200_000))
    keys: int = field(default_factory=lambda: _number("FILL_KEYS", 1_000_000))
    events: int = field(default_factory=lambda: _number("FILL_EVENTS", 2_000_000))
    hours: int = field(default_factory=lambda: _number("FILL_HOURS", 5_000_000))
    busy_keys: int = field(default_factory=lambda: _number("FILL_BUSY_KEYS", 500))


# Each statement makes the rows from `first` to `last`. Accounts, keys and events are copies of a
# row that the models wrote, so that the statements need not name all columns.
_ACCOUNTS: Final = """
    INSERT INTO accounts_user
    SELECT made.* FROM accounts_user AS one, generate_series(%(first)s::int, %(last)s::int) AS i,
    jsonb_populate_record(one, jsonb_build_object(
        'id', md5('account ' || i)::uuid,
        'email', 'person' || lpad(i::text, 7, '0') || '@example.org',
        'name', 'Ada' || lpad(i::text, 7, '0') || ' Lovelace',
        'is_active', i %% 200 <> 0,
        'date_joined', now() - i * interval '5 years' / %(of)s
    )) AS made
    WHERE one.email = 'busy@example.org'"""
_EMAILS: Final = """
    INSERT INTO account_emailaddress (email, verified, "primary", user_id)
    SELECT 'person' || lpad(i::text, 7, '0') || '@example.org', i %% 100 <> 0, true,
        md5('account ' || i)::uuid
    FROM generate_series(%(first)s::int, %(last)s::int) AS i"""
_KEYS: Final = """
    INSERT INTO apikeys_apikey
    SELECT made.* FROM apikeys_apikey AS one, generate_series(%(first)s::int, %(last)s::int) AS i,
    jsonb_populate_record(one, jsonb_build_object(
        'id', md5('key ' || i)::uuid,
        'owner_id', md5('account ' || i %% %(accounts)s)::uuid,
        'name', 'Studio' || lpad(i::text, 8, '0') || ' LAN',
        'folded_name', 'studio' || lpad(i::text, 8, '0') || ' lan',
        'public_id', left(md5('public ' || i), 12),
        'nonce', md5('nonce ' || i)::uuid,
        'created_at', now() - i * interval '5 years' / %(of)s,
        'last_used_at', CASE WHEN i %% 3 = 0 THEN now() - i %% 1000 * interval '1 hour' END,
        'expires_at', CASE i %% 100 WHEN 1 THEN now() - interval '9 days'
            WHEN 11 THEN now() + i %% 1000 * interval '1 hour' END,
        'suspended_at', CASE WHEN i %% 100 = 4 THEN now() END,
        'revoked_at', CASE WHEN i %% 10 = 2 THEN now() - i * interval '1 year' / %(of)s END,
        'revoked_reason', CASE WHEN i %% 10 = 2 THEN 'owner' ELSE '' END
    )) AS made
    WHERE one.public_id = 'ffff00000000'
    -- Two public ids in ten million may be the same.
    ON CONFLICT DO NOTHING"""
_EVENTS: Final = """
    INSERT INTO audit_event
        (at, action, account_id, actor_id, key_id, public_id, via, address, detail)
    SELECT now() - i * interval '5 years' / %(of)s,
        CASE WHEN i %% 20 = 0 THEN 'key.revoked' WHEN i %% 3 = 0 THEN 'key.issued'
            ELSE 'account.signed_in' END,
        md5('account ' || i %% %(accounts)s)::uuid, md5('account ' || i %% %(accounts)s)::uuid,
        CASE WHEN i %% 3 = 0 THEN md5('key ' || i %% %(keys)s)::uuid END,
        CASE WHEN i %% 3 = 0 THEN left(md5('public ' || i %% %(keys)s), 12) ELSE '' END,
        CASE i %% 100 WHEN 0 THEN 'command' WHEN 1 THEN 'admin' WHEN 2 THEN 'api' ELSE 'page' END,
        ('198.18.' || i / 256 %% 256 || '.' || i %% 256)::inet,
        '{"agent": "Firefox on Linux", "name": "Studio"}'
    FROM generate_series(%(first)s::int, %(last)s::int) AS i"""
# The keys of all accounts in turn, from this hour on into the past.
_HOURS: Final = """
    INSERT INTO apikeys_hourlyuse (key_id, hour, calls)
    SELECT md5('key ' || i %% %(keys)s)::uuid,
        date_trunc('hour', now()) - i / %(keys)s * interval '1 hour', i %% 1000 + 1
    FROM generate_series(%(first)s::int, %(last)s::int) AS i
    WHERE md5('key ' || i %% %(keys)s)::uuid IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT DO NOTHING"""
_DAILY: Final = """
    INSERT INTO apikeys_dailyuse (key_id, day, calls)
    SELECT md5('key ' || i %% %(keys)s)::uuid, (now() AT TIME ZONE 'UTC')::date - i / %(keys)s,
        i %% 9000 + 1
    FROM generate_series(%(first)s::int, %(last)s::int) AS i
    WHERE md5('key ' || i %% %(keys)s)::uuid IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT DO NOTHING"""
_NETWORKS: Final = """
    INSERT INTO apikeys_keynetwork (key_id, network, first_used_at, last_used_at)
    SELECT md5('key ' || i)::uuid, '198.18.' || i %% 256 || '.0/24', now(), now()
    FROM generate_series(%(first)s::int, %(last)s::int) AS i
    WHERE md5('key ' || i)::uuid IN (SELECT id FROM apikeys_apikey)
    ON CONFLICT DO NOTHING"""
# Use, refusals and events of the keys of the busy account.
_BUSY: Final = [
    """INSERT INTO apikeys_hourlyuse (key_id, hour, calls)
    SELECT key.id, date_trunc('hour', now()) - i * interval '1 hour', i %% 50 + 1
    FROM apikeys_apikey AS key, generate_series(0, %(days)s * 24 - 1) AS i
    WHERE owner_id = %(owner)s ON CONFLICT DO NOTHING""",
    """INSERT INTO apikeys_dailyuse (key_id, day, calls)
    SELECT key.id, (now() AT TIME ZONE 'UTC')::date - i, 600
    FROM apikeys_apikey AS key, generate_series(0, %(days)s - 1) AS i
    WHERE owner_id = %(owner)s ON CONFLICT DO NOTHING""",
    """INSERT INTO apikeys_hourlyrefusal (key_id, hour, code, calls)
    SELECT key.id, date_trunc('hour', now()) - i * interval '10 hours', 'EXPIRED', 3
    FROM apikeys_apikey AS key, generate_series(0, %(days)s * 2) AS i
    WHERE owner_id = %(owner)s ON CONFLICT DO NOTHING""",
    """INSERT INTO audit_event
        (at, action, account_id, actor_id, key_id, public_id, via, address, detail)
    SELECT now() - i * interval '1 hour', 'key.new_network', key.owner_id, key.owner_id, key.id,
        key.public_id, 'api', '198.18.0.1', '{"network": "198.18.0.0/24"}'
    FROM apikeys_apikey AS key, generate_series(1, 200) AS i
    WHERE owner_id = %(owner)s AND NOT EXISTS
        (SELECT 1 FROM audit_event WHERE account_id = %(owner)s AND action = 'key.new_network')""",
    """INSERT INTO apikeys_dailytotal (day, calls, refusals)
    SELECT (now() AT TIME ZONE 'UTC')::date - i, 1000000, 1000
    FROM generate_series(0, 400) AS i ON CONFLICT DO NOTHING""",
]
TABLES: Final = (
    "accounts_user",
    "account_emailaddress",
    "apikeys_apikey",
    "apikeys_keynetwork",
    "audit_event",
    "apikeys_hourlyuse",
    "apikeys_dailyuse",
)
# Rows of one statement.
_BATCH: Final = 500_000


def fill(scale: Scale) -> None:
    """Add the missing rows, and vacuum and analyze each table."""
    from django.db import connection

    with connection.cursor() as cursor:
        # Rows are consistent, and nobody waits for them: neither foreign keys are checked nor
        # commits written at once.
        cursor.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        cursor.execute("SET statement_timeout = 0")
    owner = _first_rows(scale)
    for statement in _BUSY:
        _run(statement, {"days": _DAYS, "owner": owner})
    steps: list[tuple[str, str, int]] = [
        ("accounts_user", _ACCOUNTS, scale.accounts),
        ("account_emailaddress", _EMAILS, scale.accounts),
        ("apikeys_apikey", _KEYS, scale.keys),
        ("apikeys_keynetwork", _NETWORKS, scale.keys),
        ("audit_event", _EVENTS, scale.events),
        ("apikeys_hourlyuse", _HOURS, scale.hours),
        ("apikeys_dailyuse", _DAILY, scale.hours // 10),
    ]
    for table, statement, number in steps:
        began = time.monotonic()
        for first in range(_made(table), number, _BATCH):
            numbers = {"first": first, "last": min(first + _BATCH, number) - 1, "of": number}
            _run(statement, {**numbers, "accounts": scale.accounts, "keys": scale.keys})
        _note_made(table, number)
        _run(f"VACUUM (ANALYZE) {table}")
        log_progress(f"{table}: {number:,} rows in {time.monotonic() - began:.0f} s")
    _run("VACUUM (ANALYZE)")
    _run("CHECKPOINT")


def _run(statement: str, parameters: Any = None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def _made(table: str) -> int:
    """Return how many rows earlier runs have made."""
    from django.db import connection

    _run("CREATE TABLE IF NOT EXISTS bench_fill (name text PRIMARY KEY, made integer)")
    with connection.cursor() as cursor:
        cursor.execute("SELECT made FROM bench_fill WHERE name = %s", [table])
        row = cursor.fetchone()
    return row[0] if row else 0


def _note_made(table: str, number: int) -> None:
    _run(
        "INSERT INTO bench_fill VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET made = excluded.made",
        [table, number],
    )


def _first_rows(scale: Scale) -> str:
    """Create the staff account, and the busy account with its keys. Return the latter's id."""
    from allauth.account.models import EmailAddress
    from django.utils import timezone

    from accounts.models import User
    from accounts.services import make_staff
    from apikeys.models import APIKey

    if found := User.objects.filter(email=BUSY).first():
        return str(found.pk)
    make_staff(STAFF, secrets.token_urlsafe())
    owner = User.objects.create(email=BUSY, name="Busy")
    EmailAddress.objects.create(user=owner, email=BUSY, verified=True, primary=True)
    APIKey.objects.bulk_create(
        APIKey(
            owner=owner,
            name=f"render {number}",
            folded_name=f"render {number}",
            public_id=f"ffff{number:08x}",
            # As long as a hash is: the size of the table depends on it.
            encoded="never matches" * 10,
            created_at=timezone.now(),
            last_used_at=timezone.now(),
        )
        for number in range(scale.busy_keys)
    )
    return str(owner.pk)


def main() -> int:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    fill(Scale())
    return 0


if __name__ == "__main__":
    sys.exit(main())
