"""Dates and times for users, in the current time zone and in the formats of their language.

Also template filters: `{% load dates %}{{ key.created_at|when }}`.
"""

from datetime import date, datetime, timedelta

from django import template
from django.utils import formats, timezone
from django.utils.translation import gettext as _

register = template.Library()


def day(value: date) -> str:
    """Return `December 1`, with the year if it is not this year's."""
    if value.year != timezone.localdate().year:
        return formats.date_format(value, "DATE_FORMAT")
    # E is the form of a month's name beside a day: «24 ноября». Django's format for Russian has F.
    return formats.date_format(value, formats.get_format("MONTH_DAY_FORMAT").replace("F", "E"))


def relative_day(value: date) -> str:
    """Return `Today`, `Yesterday`, or the day."""
    today = timezone.localdate()
    if value == today:
        return _("Today")
    return _("Yesterday") if value == today - timedelta(days=1) else day(value)


@register.filter
def moment(value: datetime) -> str:
    """Return `December 1, 05:43`, for a sentence."""
    local = timezone.localtime(value)
    return _with_time(day(local.date()), local)


@register.filter
def when(value: datetime) -> str:
    """Return `Today, 05:43`, `Yesterday, 05:43` or `December 1, 05:43`, for a field of its own."""
    local = timezone.localtime(value)
    return _with_time(relative_day(local.date()), local)


def _with_time(words: str, local: datetime) -> str:
    return _("%(day)s, %(time)s") % {"day": words, "time": f"{local:%H:%M}"}
