"""Template filters for mails."""

from datetime import datetime

from django import template
from django.utils import formats, timezone

register = template.Library()


@register.filter
def moment(value: datetime | None) -> str:
    """Return date and time in the active language and time zone, with the name of the zone."""
    if not value:
        # Filters fail silently, as Django's own do.
        return ""
    local = timezone.localtime(value)
    return f"{formats.date_format(local, 'DATETIME_FORMAT')} {local.tzname()}"


@register.filter
def day(value: datetime | None) -> str:
    """Return the date in the active language and time zone."""
    return formats.date_format(timezone.localtime(value), "DATE_FORMAT") if value else ""
