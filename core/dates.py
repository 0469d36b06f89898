"""Dates and times for users, in the current time zone and in the formats of their language."""

from datetime import date, datetime, timedelta

from django.utils import formats, timezone
from django.utils.translation import gettext as _


def day(value: date) -> str:
    """Return `December 1`, with the year if it is not this year's."""
    is_this_year = value.year == timezone.localdate().year
    return formats.date_format(value, "MONTH_DAY_FORMAT" if is_this_year else "DATE_FORMAT")


def relative_day(value: date) -> str:
    """Return `Today`, `Yesterday`, or the day."""
    today = timezone.localdate()
    if value == today:
        return _("Today")
    return _("Yesterday") if value == today - timedelta(days=1) else day(value)


def moment(value: datetime) -> str:
    """Return `December 1, 05:43`."""
    local = timezone.localtime(value)
    return _("%(day)s, %(time)s") % {"day": day(local.date()), "time": f"{local:%H:%M}"}
