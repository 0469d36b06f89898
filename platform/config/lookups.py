"""Finding text by how it begins, with an index, on each database."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, Lookup, Transform
from django.db.models.sql.compiler import SQLCompiler

type SQL = tuple[str, tuple[Any, ...]]

# Nothing comes after it, however text is encoded.
_LAST = "\U0010ffff"


@CharField.register_lookup
class Begins(Lookup[str]):
    """Whether text begins so. Django's `startswith` reads every row on SQLite.

    On PostgreSQL the index has to be one of `varchar_pattern_ops` or of the collation "C".
    """

    lookup_name = "begins"
    prepare_rhs = False

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> SQL:
        text, texts, begins, (beginning,) = self._sides(compiler, connection)
        # A range, because SQLite's LIKE tells no case apart, and its indexes do.
        return (
            f"({text} >= {begins} AND {text} < {begins})",
            (*texts, beginning, *texts, beginning + _LAST),
        )

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> SQL:
        text, texts, begins, (beginning,) = self._sides(compiler, connection)
        pattern = connection.ops.prep_for_like_query(beginning) + "%"
        return f"{text} LIKE {begins}", (*texts, pattern)

    def _sides(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> Any:
        return (
            *self.process_lhs(compiler, connection),
            *self.process_rhs(compiler, connection),
        )


@CharField.register_lookup
class Caseless(Transform):
    """Text regardless of case (on SQLite: of A to Z), in an order that tells how it begins."""

    lookup_name = "caseless"
    function = "LOWER"
    bilateral = True

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> Any:
        template = '%(function)s(%(expressions)s) COLLATE "C"'
        return self.as_sql(compiler, connection, template=template, **context)
