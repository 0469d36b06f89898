"""What the rooms' staff pages have in common."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

# Imported for the lookups that it registers.
from config import lookups as lookups

# No list counts, or leads, past so many rows: whoever looks for one among more has to say which.
BOUND = 10_000

# A key that is pasted whole. Beyond its visible part, nothing of it goes into a query.
_WHOLE_KEY = re.compile(r"(comfyui-[0-9a-f]{12})[0-9a-f]+", re.IGNORECASE)


def shown_digits(words: str) -> str:
    """What is kept of a key as it is shown (`comfyui-87d01e28d3f4…`), or of its digits alone."""
    return words.lower().removeprefix("comfyui-")


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that nobody makes, changes or removes by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class OrMore(int):
    """A number of which it is known that there are more: `10000+`."""

    def __str__(self) -> str:
        return f"{int(self)}+"


class BoundedPaginator(Paginator[Any]):
    """Pages through the first rows of a list. Counting a million of them is reading a million."""

    @cached_property
    def count(self) -> int:
        # In no order: whichever rows are found first will do.
        rows: Any = self.object_list
        counted: int = rows.order_by()[: BOUND + 1].count()
        return OrMore(BOUND) if counted > BOUND else counted


class LongList(admin.ModelAdmin[Any]):
    """A list that may grow to millions of rows, and opens as quickly as a short one.

    Whatever it offers, an index answers (tests/apikeys/test_at_scale.py).
    """

    paginator = BoundedPaginator
    show_full_result_count = False
    # Counts of every filter, each by reading the whole table.
    show_facets = admin.ShowFacets.NEVER
    # Not joined: a database that joins before it cuts out the page may read all of the other table.
    list_select_related = []
    related: ClassVar[list[str]] = []
    # What can be searched by its beginning, and how a word is written there.
    finds: ClassVar[Mapping[str, Callable[[str], str]]] = {}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.prefetch_related(*self.related)

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return list(self.finds)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Rows of which something begins with all that is asked, or with every word of it."""
        words = _WHOLE_KEY.sub(r"\1", search_term).replace("…", " ").split()
        if not words or not self.finds:
            return queryset, False
        ways = list(self.beginning(" ".join(words)))
        if len(words) > 1:
            rows = self._rows()
            for word in words:
                rows = rows.filter(pk__in=_any_of(self.beginning(word)))
            ways.append(rows.values("pk"))
        return queryset.filter(pk__in=_any_of(ways)), False

    def beginning(self, words: str) -> Iterator[QuerySet[Any, Any]]:
        """The keys of the rows that are found by `words`, one query for each index."""
        for path, written in self.finds.items():
            yield self._rows().filter(**{f"{path}__begins": written(words)}).values("pk")

    def _rows(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.order_by()
        return rows


def _any_of(ways: Iterable[QuerySet[Any, Any]]) -> QuerySet[Any, Any]:
    """Not by OR: across tables, no database has an index for that."""
    first, *others = ways
    return first.union(*others, all=True) if others else first
