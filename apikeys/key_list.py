"""The list of a user's keys: search, filters with counts, order and pages.

The parameters of the list are in its URL, and in the field `back` of forms and links that lead away
from it, so that after each action the user is on the same part of the list.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.core.paginator import Page, Paginator
from django.db.models import Count, Exists, F, OuterRef, Q
from django.db.models.expressions import OrderBy
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from apikeys import tokens
from apikeys.models import APIKey, KeyState, live_condition
from apikeys.usage_reports import sparklines
from core.collation import in_alphabetical_order

PER_PAGE: Final = 20
NEWEST_FIRST: Final = "-created"
# So few keys are seen at a glance: they need no search.
_FEW: Final = 8
# One key needs no filters.
_SEVERAL: Final = 2
# Within this share of KEYS_PER_ACCOUNT the page shows how many keys are left.
_NEAR_LIMIT: Final = 0.8

# The filters besides the one that finds all keys.
_FILTERS: Final = [state for state in KeyState if state is not KeyState.ALL]

# By the column's name: the field, its label, and the first order: the newest, the earliest expiry.
_COLUMNS: Final = {
    "name": ("folded_name", _("Name"), "name"),
    "created": ("created_at", _("Created"), "-created"),
    "used": ("last_used_at", _("Last used"), "-used"),
    "expires": ("expires_at", _("Expires"), "expires"),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The search, filter, order and page of a list.

    Each value is one that the list has: no other URL can be made of it.
    """

    q: str = ""
    state: KeyState = KeyState.ALL
    sort: str = NEWEST_FIRST
    page: int = 1

    @classmethod
    def parse(cls, data: QueryDict) -> Self:
        """Return the parameters in a query string. Unknown values become the defaults."""
        # PostgreSQL has no text with NUL. A pasted key is masked, so that no page repeats it.
        words = tokens.redact(data.get("q", "")).replace("\0", "").strip().rstrip("…")
        sort = data.get("sort", "")
        state, page = KeyState.ALL, 1
        with suppress(ValueError):
            state = KeyState(data.get("state", ""))
        with suppress(ValueError):
            page = max(int(data.get("page", "")), 1)
        return cls(
            q=words,
            state=state,
            sort=sort if sort.removeprefix("-") in _COLUMNS else NEWEST_FIRST,
            page=page,
        )

    @classmethod
    def of(cls, request: HttpRequest) -> Self:
        """Return the parameters in the field `back` of a request, or in the list's own URL."""
        data = request.POST if request.method == "POST" else request.GET
        return cls.parse(QueryDict(data["back"]) if "back" in data else request.GET)

    @property
    def query(self) -> str:
        """Return the query string without defaults, which is also the value of `back`."""
        given = {"q": self.q}
        if self.state is not KeyState.ALL:
            given["state"] = self.state.value
        if self.sort != NEWEST_FIRST:
            given["sort"] = self.sort
        if self.page > 1:
            given["page"] = str(self.page)
        return urlencode({name: value for name, value in given.items() if value})

    @property
    def back_query(self) -> str:
        """Return `?back=…` for links that lead away from the list; "" without any parameters."""
        return f"?{urlencode({'back': self.query})}" if self.query else ""

    def url(self, **more: str) -> str:
        """Return the URL of this part of the list, with the parameters `more`."""
        query = "&".join(filter(None, [self.query, urlencode(more)]))
        return reverse("keys") + (f"?{query}" if query else "")

    @property
    def new_url(self) -> str:
        """Return the URL of this part of the list with the dialog for a new key open."""
        return self.url(new="1")


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column by which the list can be sorted."""

    label: str
    url: str
    # The value of aria-sort; "" if the list is sorted by another column.
    order: str


@dataclass(frozen=True, slots=True)
class Filter:
    label: str
    count: int
    url: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Row:
    key: APIKey
    # Whether this row is below the key that replaces its key.
    is_replaced: bool
    # Calls on each of the last 30 days, oldest first; empty if no key was ever used.
    daily_calls: list[int]


class KeyList:
    """A part of the list of a user's keys, as the template shows it.

    Costs six queries at most, however many keys there are.
    """

    def __init__(self, owner: User, parameters: Parameters) -> None:
        own = APIKey.objects.listed().filter(owner=owner)
        self._by_state = own.count_by_state()
        self._counts = own.aggregate(
            replaced=Count("pk", filter=Q(successor__isnull=False)),
            ever_used=Count("pk", filter=Q(last_used_at__isnull=False)),
            # The keys that KEYS_PER_ACCOUNT limits.
            limited=Count("pk", filter=live_condition() & Q(successor=None)),
        )
        found = own.matching(parameters.q) if parameters.q else own
        found = found.in_state(parameters.state)
        # A replaced key is below its successor, unless that one is not found. The first condition
        # saves the subquery for all other keys.
        is_below = Q(successor__isnull=False) & Q(Exists(found.filter(pk=OuterRef("successor_id"))))
        has_replaced = bool(self._counts["replaced"])
        top = (found.exclude(is_below) if has_replaced else found).order_by(
            *_order_by(parameters.sort)
        )
        self.page: Page[APIKey] = Paginator(top, PER_PAGE).get_page(parameters.page)
        self.parameters = replace(parameters, page=self.page.number)
        replaced = found.filter(is_below).order_by("-created_at") if has_replaced else []
        listed = _in_rows(self.page, replaced)
        has_use = self._counts["ever_used"] and listed
        calls = sparklines([key.pk for key, _is_replaced in listed]) if has_use else {}
        self.rows = [Row(key, is_replaced, calls.get(key.pk, [])) for key, is_replaced in listed]

    @property
    def has_use(self) -> bool:
        """Return whether any key was ever used."""
        return bool(self._counts["ever_used"])

    @property
    def total(self) -> int:
        return self._by_state[KeyState.ALL]

    @property
    def limit(self) -> int:
        limit: int = settings.KEYS_PER_ACCOUNT
        return limit

    @property
    def limited(self) -> int:
        """Return how many of KEYS_PER_ACCOUNT there are."""
        limited: int = self._counts["limited"]
        return limited

    @property
    def is_near_limit(self) -> bool:
        return self.limited >= self.limit * _NEAR_LIMIT

    @property
    def is_narrowed(self) -> bool:
        return bool(self.parameters.q) or self.parameters.state is not KeyState.ALL

    @property
    def has_search(self) -> bool:
        return self.is_narrowed or self.total > _FEW

    @property
    def waiting(self) -> APIKey | None:
        """Return the newest live key if no key was ever used: ComfyUI is not connected yet."""
        if self._counts["ever_used"] or self.is_narrowed or self.total > _FEW:
            return None
        live = (row.key for row in self.rows if row.key.suspended_at is None)
        return next((key for key in live if not key.is_expired), None)

    @property
    def headings(self) -> dict[str, Heading]:
        """Return the heads of columns by name; each URL keeps the search and the filter."""
        heads = {}
        for name, (_field, label, first) in _COLUMNS.items():
            current = self.parameters.sort
            is_current = current.removeprefix("-") == name
            is_descending = current.startswith("-")
            reverse_order = name if is_descending else f"-{name}"
            target = replace(self.parameters, sort=reverse_order if is_current else first, page=1)
            order = ("descending" if is_descending else "ascending") if is_current else ""
            heads[name] = Heading(str(label), target.url(), order)
        return heads

    @property
    def filters(self) -> list[Filter]:
        """Return the filters that find keys; none if all of them are shown in any case."""
        shown = [self._filter(state) for state in _FILTERS]
        shown = [one for one in shown if one.count or one.is_active]
        if self.parameters.state is KeyState.ALL and (self.total < _SEVERAL or not shown):
            return []
        return [self._filter(KeyState.ALL), *shown]

    def _filter(self, state: KeyState) -> Filter:
        url = replace(self.parameters, state=state, page=1).url()
        is_active = state is self.parameters.state
        return Filter(str(state.label), self._by_state[state], url, is_active)


def _order_by(sort: str) -> list[OrderBy]:
    name, is_descending = sort.removeprefix("-"), sort.startswith("-")
    field = _COLUMNS[name][0]
    column = in_alphabetical_order(field) if name == "name" else F(field)
    # A key without an expiry expires after all others; one that was never used was last used
    # before all others.
    is_null_last = is_descending != (name == "expires")
    nulls = {"nulls_last" if is_null_last else "nulls_first": True}
    ordered = OrderBy(column, descending=is_descending, **nulls)
    # Keys with equal values have an order, too: otherwise pages could repeat one.
    return [ordered, F("created_at").desc(), F("pk").desc()]


def _in_rows(page: Page[APIKey], replaced: Iterable[APIKey]) -> list[tuple[APIKey, bool]]:
    """Return the keys of the page, each followed by those that it has replaced.

    With each key comes whether it is a replaced one.
    """
    predecessors: dict[UUID | None, list[APIKey]] = defaultdict(list)
    for key in replaced:
        predecessors[key.successor_id].append(key)
    rows = []
    for key in page:
        rows.append((key, False))
        # A key may be replaced again before the one that it has replaced expires.
        waiting = predecessors[key.pk]
        while waiting:
            older = waiting.pop()
            rows.append((older, True))
            waiting += predecessors[older.pk]
    return rows
