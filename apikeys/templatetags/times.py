"""Template filters for relative times in one unit: "3 weeks ago" rather than "3 weeks, 2 days ago".

Django's `naturaltime` shows two units from one day on. These filters use its strings, which some
languages inflect, and the calendar of `timesince`.
"""

from datetime import datetime, timedelta
from typing import Final

from django import template
from django.contrib.humanize.templatetags.humanize import NaturalTimeFormatter, naturaltime
from django.utils import timezone
from django.utils.timesince import timesince, timeuntil

register = template.Library()

_DAY: Final = timedelta(days=1)


@register.filter
def ago(moment: datetime) -> str:
    """Return how long ago `moment` was: "now", "12 seconds ago", "3 weeks ago"."""
    now = timezone.now()
    if now - moment < _DAY:
        return str(naturaltime(moment))
    strings = NaturalTimeFormatter.past_substrings
    delta = timesince(moment, now, time_strings=strings, depth=1)
    return str(NaturalTimeFormatter.time_strings["past-day"] % {"delta": delta})


@register.filter
def until(moment: datetime) -> str:
    """Return the time until `moment` for a sentence such as "Expires in 2 days".

    Days are rounded: a key that lives for two days expires in 2 days at first, not in 1 day.
    """
    now = timezone.now()
    rounded = moment + _DAY / 2 if moment - now >= _DAY else moment
    return timeuntil(rounded, now, time_strings=NaturalTimeFormatter.future_substrings, depth=1)
