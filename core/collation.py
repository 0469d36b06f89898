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
from django.db.models.functions import Collate
from django.dispatch import receiver
from django.utils.translation import get_language

_SQLITE: Final = "alphabetical"
# The root collation of the Common Locale Data Repository, for all languages without their own.
_ROOT: Final = "und"


def in_alphabetical_order(field: str) -> Collate:
    """Return an expression that orders the text in `field`.

    On PostgreSQL by the ICU collation of the current language (`de-x-icu`, `zh-Hans-x-icu`), which
    initdb creates from ICU's locales, or the root collation; by that of the database ("default") if
    the server was built without ICU. On SQLite letters with marks follow those without, and scripts
    follow each other by code points.
    """
    if connection.vendor == "sqlite":
        return Collate(field, _SQLITE)
    known, language = _icu_collations(), (get_language() or _ROOT).lower()
    return Collate(field, known.get(language) or known.get(_ROOT) or "default")


@functools.cache
def _icu_collations() -> dict[str, str]:
    """Return PostgreSQL's ICU collations by the language in lower case."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT collname FROM pg_collation WHERE collprovider = 'i' AND collname LIKE '%-x-icu'"
        )
        names = [name for (name,) in cursor.fetchall()]
    return {name.removesuffix("-x-icu").lower(): name for name in names}


@receiver(connection_created)
def _create_sqlite_collation(*, connection: Any, **_: object) -> None:
    if connection.vendor == "sqlite":
        opened: sqlite3.Connection = connection.connection
        opened.create_collation(_SQLITE, _compare)


def _compare(left: str, right: str) -> int:
    one, other = _sort_key(left), _sort_key(right)
    return (one > other) - (one < other)


@functools.lru_cache(maxsize=4096)
def _sort_key(text: str) -> tuple[str, str]:
    """Return the letters without accents, which decide first, and the whole text."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(filter(lambda c: not unicodedata.combining(c), decomposed)), text
