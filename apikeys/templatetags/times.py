"""Template filters for relative times in one unit: "3 weeks ago" rather than "3 weeks, 2 days ago".

Django's `naturaltime` shows two units from one day on, and joins them with "ago" in a way that is
wrong in German ("1 Tage her") and Arabic. These filters have strings of their own from one day on,
and use the calendar of `timesince`.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.utils import timezone
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import ngettext_lazy, npgettext_lazy

register = template.Library()

_DAY: Final = timedelta(days=1)
# By the unit, as `timesince` and `timeuntil` take them; lazy plurals are no str to mypy.
_AGO: Final[dict[str, Any]] = {
    "year": ngettext_lazy("%(num)d year ago", "%(num)d years ago", "num"),
    "month": ngettext_lazy("%(num)d month ago", "%(num)d months ago", "num"),
    "week": ngettext_lazy("%(num)d week ago", "%(num)d weeks ago", "num"),
    "day": ngettext_lazy("%(num)d day ago", "%(num)d days ago", "num"),
}
_UNTIL: Final[dict[str, Any]] = {
    "year": npgettext_lazy("Expires in …", "%(num)d year", "%(num)d years", "num"),
    "month": npgettext_lazy("Expires in …", "%(num)d month", "%(num)d months", "num"),
    "week": npgettext_lazy("Expires in …", "%(num)d week", "%(num)d weeks", "num"),
    "day": npgettext_lazy("Expires in …", "%(num)d day", "%(num)d days", "num"),
    "hour": npgettext_lazy("Expires in …", "%(num)d hour", "%(num)d hours", "num"),
    "minute": npgettext_lazy("Expires in …", "%(num)d minute", "%(num)d minutes", "num"),
}


@register.filter
def ago(moment: datetime) -> str:
    """Return how long ago `moment` was: "now", "12 seconds ago", "3 weeks ago"."""
    now = timezone.now()
    if now - moment < _DAY:
        return str(naturaltime(moment))
    return timesince(moment, now, time_strings=_AGO, depth=1)


@register.filter
def until(moment: datetime) -> str:
    """Return the time until `moment` for a sentence such as "Expires in 2 days".

    Days are rounded: a key that lives for two days expires in 2 days at first, not in 1 day.
    """
    now = timezone.now()
    rounded = moment + _DAY / 2 if moment - now >= _DAY else moment
    return timeuntil(rounded, now, time_strings=_UNTIL, depth=1)
