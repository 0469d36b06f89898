"""The numbers of the admin's front page, each from a bounded query and with a link to its rows.

Staff get the numbers of what they may view. If a store does not answer, its numbers are unknown,
and the page works.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.conf import settings
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db import Error
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django_stubs_ext import StrPromise

from accounts.models import User
from apikeys import usage_reports
from apikeys.cache import invalidation
from apikeys.cache.versions import BUCKETS
from apikeys.models import APIKey
from audit.models import Action, Event
from core.admin_mixins import AtLeast, bounded_count
from core.charts import Chart
from outbox.models import Mail

logger = logging.getLogger(__name__)

# The days of the chart and of exposed keys, and those in which a row counts as new.
DAYS: Final = 30
NEW_DAYS: Final = 7
# The permission of administrators, for what no list shows.
ADMINISTRATOR: Final = "accounts.manage_staff"


@dataclass(frozen=True, slots=True)
class Value:
    """What a figure shows: a number as text, a note, and whether an operator should look at it."""

    text: str
    note: str = ""
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its label, and the list of the rows that it counts.

    value: None if the store did not answer.
    """

    label: StrPromise
    value: Value | None
    url: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The calls of all keys by day (UTC), and their sums."""

    chart: Chart
    calls: int
    refusals: int


def figures(request: HttpRequest) -> list[Figure]:
    """Return the numbers that the staff member may see."""
    return [
        Figure(source.label, _or_none(source.compute), source.url())
        for source in _SOURCES
        if request.user.has_perm(source.permission)
    ]


def usage() -> Usage | None:
    """Return the calls of the last DAYS days, or None if the store did not answer."""
    chart = _or_none(lambda: usage_reports.site_chart(days=DAYS))
    if chart is None:
        return None
    return Usage(
        chart,
        calls=sum(bar.value for bar in chart.bars),
        refusals=sum(bar.second for bar in chart.bars),
    )


def _or_none[T](compute: Callable[[], T]) -> T | None:
    try:
        return compute()
    except (Error, OSError):
        logger.warning("A number of the front page is unknown.", exc_info=True)
        return None


# --- Figures ---


def _accounts() -> Value:
    joined = bounded_count(User.objects.filter(date_joined__gte=_since_new()))
    return Value(_number(bounded_count(User.objects.all())), _new(joined))


def _live_keys() -> Value:
    live = APIKey.objects.live()
    created = bounded_count(live.filter(created_at__gte=_since_new()))
    return Value(_number(bounded_count(live)), _new(created))


def _exposed_keys() -> Value:
    found = Event.objects.filter(action=Action.KEY_LEAKED, at__gte=_start_of(_first_day()))
    count = bounded_count(found)
    note = gettext("in the last %(days)d days") % {"days": DAYS}
    return Value(_number(count), note, is_alarming=count > 0)


def _failing_mails() -> Value:
    if not settings.HAS_MAIL_SERVER:
        return Value("–", gettext("There is no mail server."))
    failing = bounded_count(Mail.objects.failing())
    waiting = bounded_count(Mail.objects.all())
    note = gettext("of %(count)s waiting") % {"count": _number(waiting)}
    return Value(_number(failing), note, is_alarming=failing > 0)


def _dirty_buckets() -> Value:
    table = invalidation.version_table()
    if table is None:
        return Value("–", gettext("The validation cache is off."))
    count = len(table.dirty())
    note = gettext("of %(count)s on this host") % {"count": _number(BUCKETS)}
    return Value(_number(count), note, is_alarming=count > 0)


def _list_url(name: str, **query: str) -> str:
    return reverse(f"admin:{name}_changelist", query=query or None)


@dataclass(frozen=True, slots=True)
class _Source:
    """A figure before its number is computed, with the permission to see it."""

    label: StrPromise
    permission: str
    compute: Callable[[], Value]
    url: Callable[[], str]


_SOURCES: Final = [
    _Source(
        label=_("Accounts"),
        permission="accounts.view_user",
        compute=_accounts,
        url=lambda: _list_url("accounts_user"),
    ),
    _Source(
        label=_("Live keys"),
        permission="apikeys.view_apikey",
        compute=_live_keys,
        url=lambda: _list_url("apikeys_apikey", state="live"),
    ),
    _Source(
        label=_("Exposed keys"),
        permission="audit.view_event",
        compute=_exposed_keys,
        url=lambda: _list_url(
            "audit_event", action__exact=Action.KEY_LEAKED, at__gte=str(_start_of(_first_day()))
        ),
    ),
    _Source(
        label=_("Failing email"),
        permission="outbox.view_mail",
        compute=_failing_mails,
        url=lambda: _list_url("outbox_mail", state="failing"),
    ),
    _Source(
        label=_("Dirty cache buckets"),
        permission=ADMINISTRATOR,
        compute=_dirty_buckets,
        url=lambda: "",
    ),
]


# --- Dates and texts ---


def _first_day() -> date:
    return timezone.now().date() - timedelta(days=DAYS - 1)


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _since_new() -> datetime:
    return timezone.now() - timedelta(days=NEW_DAYS)


def _number(count: int) -> str:
    """Return `count` with separators, and a plus sign if counting stopped at the bound."""
    return f"{intcomma(int(count))}{'+' if isinstance(count, AtLeast) else ''}"


def _new(count: int) -> str:
    text = gettext("%(count)s new in the last %(days)d days")
    return text % {"count": _number(count), "days": NEW_DAYS}
