"""Alphabetical order of names in any script, on SQLite and PostgreSQL.

Databases order text by its bytes or by the locale of the server: "Ä" after "z", or by the rules of
one language for all.
"""

import functools
import sqlite3
import unicodedata
from typing import Any, Final

from django.db import connection
from django.db.backends.signals import connection_created
from django.db.models import F, Func
from django.db.models.functions import Collate
from django.dispatch import receiver
from django.utils.translation import get_language

_SQLITE: Final = "alphabetical"


def in_alphabetical_order(field: str) -> Func:
    """Return an expression that orders the text in `field`.

    On PostgreSQL by the ICU collation of the current language (`de-x-icu`, `zh-Hans-x-icu`), or the
    root collation (`und-x-icu`); initdb creates them. If the server was built without ICU, and on
    SQLite, letters with marks follow those without, and scripts follow each other by code points.
    """
    if connection.vendor == "sqlite":
        return Collate(field, _SQLITE)
    known, language = _icu_collations(), (get_language() or "").lower()
    if collation := known.get(f"{language}-x-icu") or known.get("und-x-icu"):
        return Collate(field, collation)
    # Marks become characters of their own, after the letters.
    return Func(F(field), template='normalize(%(expressions)s, NFKD) COLLATE "C"')


def root_collation() -> str:
    """Return a COLLATE clause for PostgreSQL that knows the letters of all scripts, or ""."""
    name = _icu_collations().get("und-x-icu")
    return f' COLLATE "{name}"' if name else ""


@functools.cache
def _icu_collations() -> dict[str, str]:
    """Return PostgreSQL's ICU collations by their names in lower case; none without ICU."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT collname FROM pg_collation WHERE collname LIKE '%-x-icu'")
        return {name.lower(): name for (name,) in cursor.fetchall()}


@receiver(connection_created)
def _create_sqlite_collation(*, connection: Any, **_: object) -> None:
    if connection.vendor == "sqlite":
        opened: sqlite3.Connection = connection.connection
        opened.create_collation(_SQLITE, _compare)


def _compare(left: str, right: str) -> int:
    one, other = alphabetical_key(left), alphabetical_key(right)
    return (one > other) - (one < other)


@functools.lru_cache(maxsize=4096)
def alphabetical_key(text: str) -> tuple[str, str]:
    """Return a key for `sorted`: the letters without accents, which decide first, and the text.

    It gives the order of SQLite, and of rows that are sorted in Python.
    """
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(filter(lambda c: not unicodedata.combining(c), decomposed)), text
