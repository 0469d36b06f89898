"""Rotation of SECRET_KEY for stored sessions: count them by key, and re-encrypt them.

A session needs two keys. It is signed and encrypted under the SECRET_KEY of the process that saved
it last. It contains a digest of its owner's password hash, made with the SECRET_KEY of the login:
Django ends a session with a digest of a key that is no longer configured.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import batched
from typing import Any, Final

from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core import signing
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from accounts.models import User
from accounts.sessions import SessionStore
from core import encryption

_BATCH: Final = 500

type _Users = Mapping[str, User]


def count_by_key() -> Counter[str | None]:
    """Count sessions by the id of their SECRET_KEY; None: no configured key decrypts them.

    A session that needs two keys counts for the former one.
    """
    return Counter(_key_of(row, users) for rows, users in _batches() for row in rows)


def reencrypt() -> int:
    """Re-encrypt all sessions under the current SECRET_KEY. Return the number of changes.

    Skips sessions that are saved in the meantime. Expiry dates do not change.
    """
    return sum(_reencrypt(row, users) for rows, users in _batches() for row in rows)


def _batches() -> Iterator[tuple[list[AbstractBaseSession], _Users]]:
    stored = SessionStore.get_model_class()._default_manager
    live = stored.filter(expire_date__gt=timezone.now()).order_by("pk")
    # By id, since not every database keeps a cursor open while rows are written.
    for ids in batched(live.values_list("pk", flat=True), _BATCH):
        rows = list(stored.filter(pk__in=ids))
        owners = {str(data[SESSION_KEY]) for data in map(_load, rows) if SESSION_KEY in data}
        users = User.objects.filter(pk__in=owners)
        yield rows, {str(user.pk): user for user in users}


def _load(row: AbstractBaseSession) -> dict[str, Any]:
    """Return the data of a session; {} if no configured key decrypts it, as in Django."""
    data: dict[str, Any] = SessionStore().decode(row.session_data)
    return data


def _key_of(row: AbstractBaseSession, users: _Users) -> str | None:
    data = _load(row)
    signature_key = _signature_key(row)
    if signature_key is None or not data:
        return None
    owner = users.get(data.get(SESSION_KEY, ""))
    needed = {signature_key, *_digest_keys(data, owner)}
    current = encryption.key_id(encryption.secret_keys()[0])
    return next((key for key in needed if key != current), current)


def _signature_key(row: AbstractBaseSession) -> str | None:
    """Return the id of the key of the signature, which is also that of the encryption; or None."""
    for key in encryption.secret_keys():
        signer = signing.TimestampSigner(key=key, salt=SessionStore().key_salt, fallback_keys=[])
        try:
            signer.unsign(row.session_data)
        except signing.BadSignature:
            continue
        return encryption.key_id(key)
    return None


def _digest_keys(data: Mapping[str, Any], owner: User | None) -> list[str]:
    """Return the ids of the keys, usually one, that make the password digest in a session.

    Empty for a session that no key keeps alive: its account was deleted, or has another password.
    """
    if owner is None:
        return []
    digests = [owner.get_session_auth_hash(), *owner.get_session_auth_fallback_hash()]
    return [
        encryption.key_id(key)
        for key, digest in zip(encryption.secret_keys(), digests, strict=True)
        if constant_time_compare(digest, str(data.get(HASH_SESSION_KEY, "")))
    ]


def _reencrypt(row: AbstractBaseSession, users: _Users) -> bool:
    current = encryption.key_id(encryption.secret_keys()[0])
    if _key_of(row, users) in {current, None}:
        return False
    data = _load(row)
    owner = users.get(data.get(SESSION_KEY, ""))
    if owner is not None and _digest_keys(data, owner):
        data[HASH_SESSION_KEY] = owner.get_session_auth_hash()
    unchanged = type(row)._default_manager.filter(pk=row.pk, session_data=row.session_data)
    return bool(unchanged.update(session_data=SessionStore().encode(data)))
