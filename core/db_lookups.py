"""Lookups for prefix searches that use an index, on SQLite and PostgreSQL."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, Lookup, Transform
from django.db.models.sql.compiler import SQLCompiler

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
