"""What a backup tells of the database it is of, and whether this platform could live on one."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model
from django.utils import timezone

from accounts.models import User
from apikeys.hashing import keyid_in, keyid_of
from apikeys.models import APIKey
from backups.archive import Manifest, Refused
from oauth.models import AuthorizationCode, DeviceRequest
from outbox.models import Mail

# What must not come back to life, and has no business in a file that lies about: sessions, codes,
# and mail with codes in it.
_FLEETING: Final[list[type[Model]]] = [Session, UserSession, Mail, DeviceRequest, AuthorizationCode]


def fleeting_tables() -> list[str]:
    """Tables whose rows are in no backup. Nothing refers to them."""
    # Of limits and of what was seen lately; made where CACHE_URL names no other place.
    return [*(model._meta.db_table for model in _FLEETING), "cache"]


def describe(*, server: str) -> Manifest:
    """The manifest of the database as it is now."""
    kept = APIKey.objects.kept().order_by()
    peppers = Counter(map(keyid_in, kept.values_list("encoded", flat=True).iterator()))
    return Manifest(
        made_at=timezone.now().isoformat(),
        database=connection.vendor,
        server=server,
        migrations=sorted(
            ".".join(name) for name in MigrationLoader(connection).applied_migrations
        ),
        peppers=dict(peppers),
        accounts=User.objects.count(),
        keys=APIKey.objects.count(),
    )


def refuse_foreign(manifest: Manifest) -> None:
    """Raises Refused for a backup of another kind of database, or of a newer platform."""
    if manifest.database != connection.vendor:
        raise Refused(
            f"This backup is of {manifest.database}, and DATABASE_URL names {connection.vendor}. "
            "A backup goes back into the kind of database that it came from."
        )
    known = {
        ".".join(name) for name in MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    }
    if newer := sorted(set(manifest.migrations) - known):
        raise Refused(
            f"This backup is of a newer platform than this one: it has {', '.join(newer[:3])}"
            f"{' and others' if newer[3:] else ''}. Install that version, then restore."
        )


def refuse_without_peppers(peppers: Mapping[str, int]) -> None:
    """Raises Refused where keys of the backup could not be told from wrong ones."""
    at_hand = {keyid_of(pepper) for pepper in [settings.KEY_PEPPER, *settings.KEY_PEPPER_FALLBACKS]}
    missing = {keyid: count for keyid, count in peppers.items() if keyid not in at_hand}
    if missing:
        raise Refused(
            f"{sum(missing.values())} of the {sum(peppers.values())} keys in this backup would not "
            f"work: their hashes were made with a pepper that is not here ({', '.join(missing)}). "
            "A backup has no secrets in it. Put the KEY_PEPPER of that time, which you keep "
            "elsewhere, into KEY_PEPPER_FALLBACKS (or into var/key_pepper_fallbacks), and restore "
            "again. If it is lost, WITHOUT_PEPPER=1 restores the rest: people make new keys."
        )
