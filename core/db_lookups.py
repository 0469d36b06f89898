"""Lookups of SQLite and PostgreSQL: prefix searches that use an index, searches without accents."""

import functools
import sqlite3
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import CharField, Lookup, Transform
from django.db.models.sql.compiler import SQLCompiler
from django.dispatch import receiver

from core.collation import root_collation
from core.text import FIRST_ACCENT, search_form

type SQL = tuple[str, tuple[Any, ...]]

# The highest code point: no prefix sorts after it.
_LAST = "\U0010ffff"


@CharField.register_lookup
class Begins(Lookup[str]):
    """Prefix match. Django's `startswith` cannot use an index on SQLite.

    On PostgreSQL the index needs `varchar_pattern_ops` or the collation "C".
    """

    lookup_name = "begins"
    prepare_rhs = False

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> SQL:
        lhs, lhs_params, rhs, (prefix,) = self._sides(compiler, connection)
        # SQLite's LIKE ignores case, so it cannot use a case-sensitive index: a range can.
        return (
            f"({lhs} >= {rhs} AND {lhs} < {rhs})",
            (*lhs_params, prefix, *lhs_params, prefix + _LAST),
        )

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> SQL:
        lhs, lhs_params, rhs, (prefix,) = self._sides(compiler, connection)
        pattern = connection.ops.prep_for_like_query(prefix) + "%"
        return f"{lhs} LIKE {rhs}", (*lhs_params, pattern)

    def _sides(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> Any:
        return (
            *self.process_lhs(compiler, connection),
            *self.process_rhs(compiler, connection),
        )


@CharField.register_lookup
class Caseless(Transform):
    """Lowercase text (on SQLite: A to Z only), in an order that serves prefix searches."""

    lookup_name = "caseless"
    function = "LOWER"
    bilateral = True

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        template = '%(function)s(%(expressions)s) COLLATE "C"'
        return self.as_sql(compiler, connection, template=template, **context)


@CharField.register_lookup
class SearchForm(Transform):
    """Text without case and accents, as `core.text.search_form` makes it. No index serves it."""

    lookup_name = "search_form"
    function = "SEARCH_FORM"

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        # PostgreSQL has no case folding before version 18: lower case, and the two frequent letters
        # that it leaves alone.
        folded = (
            "replace(replace(lower(normalize(%(expressions)s, NFKD)"
            f"{root_collation()}), 'ß', 'ss'), 'ς', 'σ')"
        )
        accents = f"regexp_replace(normalize({folded}, NFKD), '{_accents()}', '', 'g')"
        return self.as_sql(compiler, connection, template=f"normalize({accents}, NFKC)", **context)


@functools.cache
def _accents() -> str:
    """Return a regular expression of PostgreSQL for the characters that search_form removes."""
    return "[" + "".join(_ranges()) + "]"


def _ranges() -> Iterator[str]:
    start: int | None = None
    for code in range(sys.maxunicode + 2):
        is_accent = code <= sys.maxunicode and unicodedata.combining(chr(code)) >= FIRST_ACCENT
        if is_accent and start is None:
            start = code
        elif not is_accent and start is not None:
            yield f"\\U{start:08x}-\\U{code - 1:08x}"
            start = None


@receiver(connection_created)
def _create_sqlite_function(*, connection: Any, **_: object) -> None:
    if connection.vendor == "sqlite":
        opened: sqlite3.Connection = connection.connection
        opened.create_function(SearchForm.function, 1, search_form, deterministic=True)
