"""Manifests of the live database, and checks whether a backup can be used on this platform."""

from collections import Counter
from typing import Final

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import CharField, F, Model, Value
from django.utils import timezone

from accounts import mfa
from accounts.models import User
from apikeys.hashing import keyid_in, keyid_of
from apikeys.models import APIKey
from backups.archive import BackupError, Manifest
from core import encryption
from oauth.models import AuthorizationCode, DeviceRequest
from outbox.models import Mail
from sites.models import SignInCode, SiteSession
from uploads.models import Upload

# Sessions, codes, and e-mails with codes. Backups do not contain them.
_EPHEMERAL: Final[list[type[Model]]] = [
    Session,
    UserSession,
    Mail,
    DeviceRequest,
    AuthorizationCode,
    SignInCode,
    SiteSession,
]

# Between and in place of pepper ids. Neither is a Base64 character.
_SEPARATOR: Final = ","
_UNKNOWN: Final = "?"


def ephemeral_tables() -> list[str]:
    """Return the tables of sessions, codes, pending emails and the cache."""
    # "cache" exists if CACHE_URL is not set.
    return [*(model._meta.db_table for model in _EPHEMERAL), "cache"]


def tables_without_rows() -> list[str]:
    """Return the tables whose rows are not backed up. No other table refers to them."""
    # The files of uploads are not in the database.
    return [*ephemeral_tables(), Upload._meta.db_table]


def describe(*, server: str) -> Manifest:
    """Return the manifest of the live database. server: the version of its server."""
    peppers: Counter[str] = Counter()
    needs: Counter[str] = Counter()
    kept = APIKey.objects.kept().order_by()
    # A backup before a migration: the column may be missing.
    tag_pepper = F("tag_pepper") if has_tag_peppers() else Value(None, CharField())
    for encoded, tag in kept.values_list("encoded", tag_pepper).iterator():
        pepper = hash_pepper(encoded)
        peppers[pepper] += 1
        needs[_SEPARATOR.join(sorted({pepper, tag or _UNKNOWN}))] += 1
    return Manifest(
        made_at=timezone.now().isoformat(),
        database=connection.vendor,
        server=server,
        migrations=sorted(
            ".".join(name) for name in MigrationLoader(connection).applied_migrations
        ),
        peppers=dict(peppers),
        needs=dict(needs),
        secret_key=encryption.key_id(settings.SECRET_KEY),
        encrypted={key or "": count for key, count in mfa.count_by_key().items()},
        accounts=User.objects.count(),
        keys=APIKey.objects.count(),
    )


def has_tag_peppers() -> bool:
    """Return whether the database has the column tag_pepper (apikeys.0012)."""
    with connection.cursor() as cursor:
        columns = connection.introspection.get_table_description(cursor, APIKey._meta.db_table)
    return any(column.name == "tag_pepper" for column in columns)


def check_compatible(manifest: Manifest) -> None:
    """Raise BackupError for a backup of another database engine, or of a newer version."""
    if manifest.database != connection.vendor:
        raise BackupError(
            f"This backup is of {manifest.database}, and DATABASE_URL names {connection.vendor}. "
            "A backup goes back into the kind of database that it came from."
        )
    available = {
        ".".join(name) for name in MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    }
    if newer := sorted(set(manifest.migrations) - available):
        raise BackupError(
            f"This backup is of a newer platform than this one: it has {', '.join(newer[:3])}"
            f"{' and others' if newer[3:] else ''}. Install that version, then restore."
        )


def hash_pepper(encoded: str) -> str:
    """Return the id of the pepper of a hash; "" for a damaged hash."""
    try:
        return keyid_in(encoded)
    except ValueError:
        return ""


def check_peppers(manifest: Manifest) -> None:
    """Raise BackupError if keys of the backup need a pepper that is not configured."""
    available = {
        keyid_of(pepper) for pepper in [settings.KEY_PEPPER, *settings.KEY_PEPPER_FALLBACKS]
    }
    # Format 1 has no `needs`.
    needs = manifest.needs or manifest.peppers
    missing: set[str] = set()
    count = 0
    for peppers, keys in needs.items():
        if lost := set(peppers.split(_SEPARATOR)) - available - {_UNKNOWN, ""}:
            missing |= lost
            count += keys
    if missing:
        raise BackupError(
            f"{count} of the {sum(needs.values())} keys in this backup would not "
            "work: their hashes or their tags were made with a pepper that is not here "
            f"({', '.join(sorted(missing))}). "
            "A backup has no secrets in it. Put the KEY_PEPPER of that time, which you keep "
            "elsewhere, into KEY_PEPPER_FALLBACKS (or into var/key_pepper_fallbacks), and restore "
            "again. If it is lost, WITHOUT_PEPPER=1 restores the rest: people make new keys."
        )


def check_secret_key(manifest: Manifest) -> None:
    """Raise BackupError if the backup needs a SECRET_KEY that is not configured.

    Backups of format 1 lack its id: restore tries to decrypt their secrets.
    """
    if not manifest.secret_key:
        return
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    available = {encryption.key_id(key) for key in keys}
    lost = {key: count for key, count in manifest.encrypted.items() if key and key not in available}
    missing = sorted({manifest.secret_key, *lost} - available)
    if missing:
        raise BackupError(secret_key_missing(sum(lost.values()), f" ({', '.join(missing)})"))


def secret_key_missing(count: int, key_ids: str = "") -> str:
    """Return the message for a backup with `count` MFA secrets that no SECRET_KEY here decrypts."""
    return (
        f"This backup was made with a SECRET_KEY that is not configured{key_ids}. {count} "
        "authenticator apps and sets of recovery codes in it can't be decrypted. Backups contain "
        "no secrets. Add the SECRET_KEY of that time to SECRET_KEY_FALLBACKS (or to "
        "var/secret_key_fallbacks), and restore again. If it is lost, WITHOUT_SECRET_KEY=1 "
        "restores the rest, and people set up two-factor authentication again."
    )
