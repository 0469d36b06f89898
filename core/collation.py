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
from django.db.models import F, Func, Value
from django.db.models.functions import Collate
from django.dispatch import receiver
from django.utils.translation import get_language

_SQLITE: Final = "alphabetical"


def in_alphabetical_order(field: str) -> Func:
    """Return an expression that orders the text in `field`.

    On PostgreSQL by the ICU collation of the current language (`de-x-icu`, `zh-Hans-x-icu`), or the
    root collation (`und-x-icu`); initdb creates them. On SQLite by `alphabetical_key`, and
    nearly so if PostgreSQL was built without ICU (docs/adr/0038).
    """
    if connection.vendor == "sqlite":
        return Collate(field, _SQLITE)
    known, language = _icu_collations(), (get_language() or "").lower()
    if collation := known.get(f"{language}-x-icu") or known.get("und-x-icu"):
        return Collate(field, collation)
    letters, bases = _translation()
    plain = F(f"{field}__search_form")
    return Collate(Func(plain, Value(letters), Value(bases), function="translate"), "C")


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
def alphabetical_key(text: str) -> tuple[str, str, str]:
    """Return a key for `sorted`: the letters without accents, which decide first, and the text.

    It gives the order of SQLite, and of rows that are sorted in Python. Scripts follow each other
    by code points; so do Han characters, which Unicode lists by radical and stroke.
    """
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    # Of letters with marks, this one alone is a letter of the Russian alphabet by itself.
    letters = decomposed.replace("и\u0306", "й").translate(_BASE_LETTERS)
    base = "".join(filter(lambda c: not unicodedata.combining(c), letters))
    return base, decomposed, text


def _base_letters() -> dict[int, str]:
    """Return what `alphabetical_key` sorts a letter as, if Unicode does not decompose it.

    Kana as in JIS X 4061: katakana as hiragana, small kana as the others.
    """
    letters = dict(zip("ıøłđðħŧŋ", "iolddhtn", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"}
    # The block of katakana has the order of the block of hiragana, 0x60 code points later.
    letters |= {chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)}
    small = dict(zip("ぁぃぅぇぉっゃゅょゎゕゖ", "あいうえおつやゆよわかけ", strict=True))
    letters |= small | {chr(ord(kana) + 0x60): full for kana, full in small.items()}
    return {ord(letter): base for letter, base in letters.items()}


_BASE_LETTERS: Final = _base_letters()


@functools.cache
def _translation() -> tuple[str, str]:
    """Return letters, and the single letters that they are sorted as, in the same order."""
    kana = {chr(code) for code in range(0x3041, 0x30FB)}
    letters = sorted(kana | set(map(chr, _BASE_LETTERS)))
    bases = {letter: alphabetical_key(letter)[0] for letter in letters}
    single = [letter for letter, base in bases.items() if len(base) == 1]
    return "".join(single), "".join(bases[letter] for letter in single)
