"""How long a key lives, as its owner chooses: some days, up to a day, or until it is deleted."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

NEVER: Final = "never"
ON_DATE: Final = "date"
DAYS: Final = {"7": timedelta(days=7), "30": timedelta(days=30), "90": timedelta(days=90)}
MAX_DAYS: Final = 36_500

CHOICES: Final = [
    (NEVER, _("Never")),
    ("7", _("After 7 days")),
    ("30", _("After 30 days")),
    ("90", _("After 90 days")),
    (ON_DATE, _("At the end of a day")),
]


def chosen(choice: str, day: date | None) -> datetime | None:
    """When a key ends whose owner chose so now; None for never.

    choice: one of CHOICES; `day` is for ON_DATE, and its last second (UTC) counts.
    Raises ValidationError with words for the person.
    """
    if choice == NEVER:
        return None
    if choice != ON_DATE:
        return timezone.now() + DAYS[choice]
    if day is None:
        raise ValidationError(_("Choose the day at whose end the key expires."), code="required")
    return must_be_ahead(datetime.combine(day, time(23, 59, 59), UTC))


def in_days(days: int) -> datetime:
    return timezone.now() + timedelta(days=days)


def must_be_ahead(moment: datetime) -> datetime:
    """`moment`, which a key can live to. Raises ValidationError for one that is over."""
    if moment <= timezone.now():
        raise ValidationError(
            _("A key can't expire in the past. Choose a later time (UTC)."), code="past"
        )
    return moment
