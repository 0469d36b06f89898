"""Session engine: Django's database sessions, stored under a digest of their id.

The cookie holds the id, 32 random characters. `django_session` and allauth's `UserSession` hold its
digest, so that a stolen table or backup can't be used to log in.
"""

import hashlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any, Final

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.utils import timezone

from accounts import signals

if TYPE_CHECKING:
    from django.contrib.sessions.base_session import AbstractBaseSession

# The columns take 40 characters: 33 remain for the digest, 198 bits of SHA-256. The id has 165
# random bits, so the digest needs no salt.
_PREFIX: Final = "sha256$"
_LENGTH: Final = 40


class StoredKey(str):
    """The key of a session's row, as opposed to the id in a cookie, which is a plain `str`.

    Only the type makes a stored key: text from a cookie is always digested, so a stored key in a
    cookie matches no row.
    """

    __slots__ = ()


def stored_key(session_id: str | None) -> StoredKey:
    """Return the key under which a session is stored; without an id, a key that no row has."""
    if isinstance(session_id, StoredKey):
        return session_id
    digest = hashlib.sha256((session_id or "").encode(errors="surrogatepass")).digest()
    return StoredKey((_PREFIX + urlsafe_b64encode(digest).decode())[:_LENGTH])


def read_stored_key(column: str) -> StoredKey:
    """Return the stored key of a row. Rows written before keys were digests hold the id.

    column: text from the database, never from a request.
    """
    return StoredKey(column) if column.startswith(_PREFIX) else stored_key(column)


class SessionStore(db.SessionStore):
    """A database session, loaded by its id or by a StoredKey."""

    @classmethod
    def by_row(cls, session: SessionBase) -> "SessionStore":
        """Return `session` under its stored key, for code that stores `session.session_key`."""
        if session.session_key is None:
            session.save()
        return cls(stored_key(session.session_key))

    def load(self) -> dict[str, Any]:
        row = self.model.objects.filter(
            session_key=stored_key(self.session_key), expire_date__gt=timezone.now()
        ).first()
        if row is None:
            # As in Django's stores, an id chosen by the client is not used (session fixation).
            self._session_key = None
            return {}
        data: dict[str, Any] = self.decode(row.session_data)
        return data

    def exists(self, session_key: str) -> bool:
        return super().exists(stored_key(session_key))

    def delete(self, session_key: str | None = None) -> None:
        session_key = session_key or self.session_key
        if session_key is not None:
            key = stored_key(session_key)
            super().delete(key)
            if not self._is_renamed:
                signals.session_ended.send(SessionStore, key=key)

    # Whether `cycle_key` deletes the row of the former id.
    _is_renamed = False

    def cycle_key(self) -> None:
        former = self.session_key
        self._is_renamed = True
        try:
            super().cycle_key()
        finally:
            self._is_renamed = False
        if former is not None:
            signals.session_renamed.send(
                SessionStore, former=stored_key(former), key=stored_key(self.session_key)
            )

    def create_model_instance(self, data: dict[str, Any]) -> "AbstractBaseSession":
        row = super().create_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    # Django's database store implements the asynchronous methods with undigested ids in the
    # queries. Those of the base class call the methods above.
    aload = SessionBase.aload
    aexists = SessionBase.aexists
    adelete = SessionBase.adelete
    asave = SessionBase.asave
    acreate = SessionBase.acreate
