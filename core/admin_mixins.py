"""Parts of the admin that several apps share: read-only rows, and lists of millions of rows."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _

from core import db_lookups as db_lookups  # registers the lookups that searches use
from core.replica import may_lag

# Maximum number of rows that a list counts and pages through.
MAX_ROWS = 10_000
# Maximum number of rows of a search for a prefix that more than MAX_ROWS rows have.
MAX_COMMON = 1_000
# Maximum number of words: each is a query for each index.
MAX_WORDS = 8
# Keys of request.META: the search must return all rows; a message says that it did not.
_UNBOUNDED, _NOTIFIED = "staff.search_is_unbounded", "staff.search_has_notified"

# A whole API key. Only its public part goes into a query.
_WHOLE_KEY = re.compile(r"(comfyui-[0-9a-f]{12})[0-9a-f]+", re.IGNORECASE)


def search_unbounded(request: HttpRequest) -> None:
    """Make searches of `request` return all rows, for an export."""
    request.META[_UNBOUNDED] = True


def public_id_prefix(text: str) -> str:
    """Return the digits of a key as it is shown (`comfyui-87d01e28d3f4…`), or of digits alone."""
    return text.lower().removeprefix("comfyui-")


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that staff cannot add, change or delete."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class AtLeast(int):
    """A count that stopped at a bound, shown as `10000+`."""

    def __str__(self) -> str:
        return f"{int(self)}+"


def bounded_count(rows: QuerySet[Any]) -> int:
    """Return the number of `rows`, or AtLeast(MAX_ROWS): counting a million reads a million."""
    # Unordered, so that the database may count any MAX_ROWS rows.
    counted = rows.order_by()[: MAX_ROWS + 1].count()
    return AtLeast(MAX_ROWS) if counted > MAX_ROWS else counted


class BoundedPaginator(Paginator[Any]):
    """Pages through the first MAX_ROWS rows."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return bounded_count(rows)


class LargeTableAdmin(admin.ModelAdmin[Any]):
    """A list of millions of rows that opens as quickly as a short one.

    An index serves every filter, order and search (tests/apikeys/test_at_scale.py).
    """

    paginator = BoundedPaginator
    show_full_result_count = False
    # Facets count the whole table for each filter.
    show_facets = admin.ShowFacets.NEVER
    # No joins: a database that joins before it applies LIMIT may read the whole other table.
    list_select_related = []
    related: ClassVar[list[str]] = []
    # Fields with a prefix search, each with the function that normalizes a word for it.
    prefix_searches: ClassVar[Mapping[str, Callable[[str], str]]] = {}

    @method_decorator(may_lag)
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, extra_context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.prefetch_related(*self.related)

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return list(self.prefix_searches)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Return the rows with a field that starts with the whole term, or with each of its words.

        For a prefix that too many rows have, return some of them, with a message for the user.
        """
        words = _WHOLE_KEY.sub(r"\1", search_term).replace("…", " ").split()
        if not words or not self.prefix_searches:
            return queryset, False
        if request.META.get(_UNBOUNDED):
            return queryset.filter(pk__in=self._all_matches(words)), False
        if len(words) > MAX_WORDS:
            too_many = _("Search for at most %(most)d words at once.") % {"most": MAX_WORDS}
            self.message_user(request, too_many, messages.WARNING)
            return queryset.none(), False
        found, is_all = self._some_matches(words)
        if not is_all and not request.META.get(_NOTIFIED):
            # Django calls this method twice for an action.
            request.META[_NOTIFIED] = True
            message = _(
                "More than %(bound)d rows start with this. Only some of them are listed, and not "
                "the newest. Enter more characters or a second word, or open the account's page, "
                "which links to all its rows."
            )
            self.message_user(request, message % {"bound": MAX_ROWS}, messages.WARNING)
        return queryset.filter(pk__in=found), False

    def _all_matches(self, words: list[str]) -> QuerySet[Any, Any]:
        queries = list(self.prefix_matches(" ".join(words)))
        if len(words) > 1:
            rows = self._rows()
            for word in words:
                rows = rows.filter(pk__in=_union(self.prefix_matches(word)))
            queries.append(rows.values("pk"))
        return _union(queries)

    def _some_matches(self, words: list[str]) -> tuple[QuerySet[Any, Any] | list[Any], bool]:
        """Return primary keys of matches, and whether they are all. Reads a few MAX_ROWS rows."""
        common = [word for word in words if self._is_common(word)]
        if not common:
            return self._all_matches(words), True
        found, is_all = self._first_matches(list(self.prefix_matches(" ".join(words))))
        if rare := [word for word in words if word not in common]:
            rows = self._rows()
            for word in rare:
                rows = rows.filter(pk__in=_union(self.prefix_matches(word)))
            matches, has_all = self._first_matches([rows.values("pk")])
            # Test these rows one by one: the index of a common word has a million.
            rows = self._rows().filter(pk__in=matches)
            for word in common:
                rows = rows.filter(self._prefix_condition(word))
            return [*found, *rows.values_list("pk", flat=True)], is_all and has_all
        return found, is_all and len(words) == 1

    def _is_common(self, word: str) -> bool:
        return any(query[MAX_ROWS : MAX_ROWS + 1].exists() for query in self.prefix_matches(word))

    def _first_matches(self, queries: list[QuerySet[Any, Any]]) -> tuple[list[Any], bool]:
        """Return up to MAX_COMMON primary keys of each query, and whether these are all.

        They are fetched: for a subquery with LIMIT, PostgreSQL may read the whole table.
        """
        each = [list(query.values_list("pk", flat=True)[: MAX_COMMON + 1]) for query in queries]
        is_all = all(len(found) <= MAX_COMMON for found in each)
        return [pk for found in each for pk in found[:MAX_COMMON]], is_all

    def _prefix_condition(self, word: str) -> Q:
        condition = Q()
        for field, normalize in self.prefix_searches.items():
            condition |= Q(**{f"{field}__begins": normalize(word)})
        return condition

    def prefix_matches(self, text: str) -> Iterator[QuerySet[Any, Any]]:
        """Yield, for each index, a query of the primary keys of rows that start with `text`."""
        for field, normalize in self.prefix_searches.items():
            yield self._rows().filter(**{f"{field}__begins": normalize(text)}).values("pk")

    def _rows(self) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.order_by()
        return rows


def _union(queries: Iterable[QuerySet[Any, Any]]) -> QuerySet[Any, Any]:
    """Return a UNION ALL: no database uses an index for OR across tables."""
    first, *others = queries
    return first.union(*others, all=True) if others else first
