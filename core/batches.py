"""Read, find and delete rows in batches, so that no statement and no lock takes long.

A step of a cleanup is a generator: each `next` deletes one batch in a transaction of its own. The
caller may stop after any batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any, Final

from django.db import transaction
from django.db.models import CASCADE, Model, Q, QuerySet

# Rows per transaction.
BATCH: Final = 1_000
# Rows that a statement reads where no index finds those to delete.
WINDOW: Final = 10_000

type Batches = Iterator[int]


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of old rows. name: in the plural, as in `daily uses`.

    batches: deletes rows, and yields how many after each batch, which may be none. With True it
        only counts them.
    """

    name: str
    batches: Callable[[bool], Batches]


def read(
    rows: QuerySet[Any], *fields: str, order: Sequence[str], newest_first: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the values of `fields` of each row, reading 2 * BATCH rows at a time.

    order: fields that are together unique and never null, for which there is an index.
    No cursor of the server: PgBouncer would send its next read to another connection.
    """
    after = "lt" if newest_first else "gt"
    names = [*fields, *(name for name in order if name not in fields)]
    every = rows.order_by(*(f"-{name}" if newest_first else name for name in order)).values(*names)
    rest = every
    while found := list(rest[: 2 * BATCH]):
        for row in found:
            yield {name: row[name] for name in fields}
        if len(found) < 2 * BATCH:
            return
        last, condition = found[-1], Q()
        for number, name in enumerate(order):
            same = {before: last[before] for before in order[:number]}
            condition |= Q(**same, **{f"{name}__{after}": last[name]})
        # The first condition is what an index can use.
        rest = every.filter(**{f"{order[0]}__{after}e": last[order[0]]}).filter(condition)


def scan(rows: QuerySet[Any], condition: Q) -> Iterator[Sequence[Any]]:
    """Yield the primary keys of rows that match `condition`, in order, at most BATCH at a time.

    For conditions without an index: each statement reads at most WINDOW rows. A window without a
    match yields an empty sequence.
    """
    every = rows.order_by("pk").values_list("pk", flat=True)
    rest = every
    while True:
        # The primary key at the end of the window, by its index.
        ends = list(rest[WINDOW - 1 : WINDOW])
        window = rest.filter(pk__lte=ends[0]) if ends else rest
        yield from list(batched(window.filter(condition), BATCH)) or [()]
        if not ends:
            return
        rest = every.filter(pk__gt=ends[0])


def oldest(rows: QuerySet[Any], field: str, *, before: datetime) -> Iterator[Sequence[Any]]:
    """Yield the primary keys of rows with `field` before a time, oldest first, BATCH at a time.

    For a field that has an index.
    """
    old = rows.filter(**{f"{field}__lt": before}).order_by(field, "pk")
    rest = old
    while found := list(rest.values_list("pk", field)[:BATCH]):
        yield [pk for pk, _value in found]
        last_pk, last = found[-1]
        after = Q(**{f"{field}__gt": last}) | Q(**{field: last}, pk__gt=last_pk)
        # The first condition is what an index can use.
        rest = old.filter(**{f"{field}__gte": last}).filter(after)


def delete(rows: QuerySet[Any], batches: Iterator[Sequence[Any]], *, dry_run: bool) -> Batches:
    """Delete batches of `rows`, given by their primary keys, and yield the number of each.

    rows: selected again in the transaction, as some may have changed since they were found.
    """
    for batch in batches:
        yield len(batch) if dry_run else _delete(rows, batch)


def _delete(rows: QuerySet[Any], batch: Sequence[Any]) -> int:
    if not batch:
        return 0
    with transaction.atomic():
        return rows.filter(pk__in=batch).delete()[0]


def delete_some(rows: QuerySet[Any], limit: int) -> None:
    """Delete the first `limit` of `rows`: called for each new row, it keeps a table small."""
    if batch := list(rows.values_list("pk", flat=True)[:limit]):
        rows.model._default_manager.filter(pk__in=batch).delete()


def delete_related(model: type[Model], ids: Sequence[Any]) -> Batches:
    """Delete what is deleted by cascade with rows of `model`, in batches, before these rows.

    A row may have too many of them for one transaction.
    """
    for relation in model._meta.related_objects:
        if relation.on_delete is not CASCADE:
            continue
        related: QuerySet[Any] = relation.related_model._base_manager.filter(
            **{f"{relation.field.name}__in": ids}
        )
        while found := list(related.order_by("pk").values_list("pk", flat=True)[:BATCH]):
            yield _delete(related, found)
