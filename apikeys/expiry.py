"""The expiry of a key: after some days, at the end of a day, or never."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

NEVER: Final = "never"
ON_DATE: Final = "date"
DAYS: Final = {"7": timedelta(days=7), "30": timedelta(days=30), "90": timedelta(days=90)}
MAX_DAYS: Final = 36_500
MAX_LIFETIME: Final = timedelta(days=MAX_DAYS)

CHOICES: Final = [
    (NEVER, _("Never")),
    ("7", _("After 7 days")),
    ("30", _("After 30 days")),
    ("90", _("After 90 days")),
    (ON_DATE, _("At the end of a day")),
]


def from_choice(choice: str, day: date | None) -> datetime | None:
    """Return when a key with this choice expires; None for never.

    choice: one of CHOICES. day: for ON_DATE; the key expires at its last second (UTC).
    Raise ValidationError with a message for users.
    """
    if choice == NEVER:
        return None
    if choice != ON_DATE:
        return timezone.now() + DAYS[choice]
    if day is None:
        raise ValidationError(_("Choose the day at whose end the key expires."), code="required")
    return validated(end_of(day))


def end_of(day: date) -> datetime:
    """Return the last second of `day` in UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def read_day(text: object) -> datetime | None:
    """Return the end of the day in `text`, an ISO 8601 date, or None for other texts."""
    try:
        return end_of(date.fromisoformat(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def in_days(days: int) -> datetime:
    return timezone.now() + timedelta(days=days)


def renew(created_at: datetime, expires_at: datetime | None) -> datetime | None:
    """Return when a key expires that starts now with the lifetime `created_at` to `expires_at`."""
    return (
        None if expires_at is None else timezone.now() + min(expires_at - created_at, MAX_LIFETIME)
    )


def earliest(*moments: datetime | None) -> datetime | None:
    """Return the earliest of `moments`; None stands for never."""
    return min((moment for moment in moments if moment is not None), default=None)


def validate_expires_at(expires_at: datetime | None) -> None:
    """Raise ValidationError for an expiry that a key can't have. None stands for never."""
    if expires_at is not None:
        validated(expires_at)


def validated(moment: datetime) -> datetime:
    """Return `moment` if it is in the future and at most MAX_DAYS from now.

    Raise ValidationError with a message for users.
    """
    now = timezone.now()
    if moment <= now:
        raise ValidationError(
            _("A key can't expire in the past. Choose a later time (UTC)."), code="past"
        )
    if moment > now + MAX_LIFETIME:
        raise ValidationError(
            _("A key can live for %(days)d days at most. Choose an earlier time, or no expiry.")
            % {"days": MAX_DAYS},
            code="far",
        )
    return moment
