"""The expiry of a key: after some days, at the end of a day, or never.

The operator sets the default (KEY_LIFETIME_DEFAULT) and the maximum (KEY_LIFETIME_MAX), both of
which are None for never.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext

NEVER: Final = "never"
ON_DATE: Final = "date"
MAX_DAYS: Final = 36_500
MAX_LIFETIME: Final = timedelta(days=MAX_DAYS)
# The choices of forms, besides the operator's default and maximum.
_DAYS: Final = (30, 90, 365)
_LAST_SECOND: Final = time(23, 59, 59)


def choices() -> list[tuple[str, str]]:
    """Return the choices of a form: numbers of days, ON_DATE, and NEVER if that is allowed."""
    longest = settings.KEY_LIFETIME_MAX
    own = {lifetime.days for lifetime in (settings.KEY_LIFETIME_DEFAULT, longest) if lifetime}
    days = sorted({*_DAYS, *own})
    return [
        *(
            (str(number), ngettext("%(days)d day", "%(days)d days", number) % {"days": number})
            for number in days
            if longest is None or number <= longest.days
        ),
        (ON_DATE, str(_("On a date"))),
        *([(NEVER, str(pgettext("of an expiry", "Never")))] if longest is None else []),
    ]


def default_choice(*, at_most: int | None = None) -> str:
    """Return the preset choice. at_most: its highest number of days, for keys of other sites."""
    default = settings.KEY_LIFETIME_DEFAULT
    days = [number for number in (default and default.days, at_most) if number is not None]
    return str(min(days)) if days else NEVER


def from_choice(choice: str, day: date | None) -> datetime | None:
    """Return when a key with this choice expires; None for never.

    choice: one of choices(). day: for ON_DATE; the key expires at its last second in the current
    time zone.
    Raise ValidationError with a message for users.
    """
    if choice == NEVER:
        return None
    if choice != ON_DATE:
        return in_days(int(choice))
    if day is None:
        raise ValidationError(_("Choose the last day on which the key works."), code="required")
    expires_at = end_of_local(day)
    validate_expires_at(expires_at)
    return expires_at


def last_day() -> date | None:
    """Return the last day in the current time zone that can be chosen; None: no maximum."""
    latest = latest_expires_at()
    if latest is None:
        return None
    day = timezone.localdate(latest)
    return day if end_of_local(day) <= latest else day - timedelta(days=1)


def end_of(day: date) -> datetime:
    """Return the last second of `day` in UTC."""
    return datetime.combine(day, _LAST_SECOND, UTC)


def end_of_local(day: date) -> datetime:
    """Return the last second of `day` in the current time zone, as a time in UTC."""
    # Where clocks are turned back at midnight, the day has two such seconds: fold is the second.
    local = datetime.combine(day, _LAST_SECOND, timezone.get_current_timezone()).replace(fold=1)
    try:
        return local.astimezone(UTC)
    except OverflowError:
        # The last day of the calendar, west of Greenwich.
        return datetime.max.replace(tzinfo=UTC)


def last_day_help() -> str:
    """Return when a key with a last day expires, for forms."""
    return _("The key works until this day ends (%(zone)s).") % {"zone": _zone()}


def _zone() -> str:
    return timezone.get_current_timezone_name()


def read_day(text: object) -> datetime | None:
    """Return the end of the day in `text`, an ISO 8601 date, or None for other texts."""
    try:
        return end_of(date.fromisoformat(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def in_days(days: int) -> datetime:
    return timezone.now() + timedelta(days=days)


def default_expires_at() -> datetime | None:
    """Return when a key expires whose creator chose no expiry; None for never."""
    lifetime = settings.KEY_LIFETIME_DEFAULT
    return None if lifetime is None else timezone.now() + lifetime


def latest_expires_at(created_at: datetime | None = None) -> datetime | None:
    """Return the latest time at which a key may expire; None for never.

    created_at: when the key was created (default: now).
    """
    lifetime = settings.KEY_LIFETIME_MAX
    return None if lifetime is None else (created_at or timezone.now()) + lifetime


def renew(created_at: datetime, expires_at: datetime | None) -> datetime | None:
    """Return when a key expires that starts now with the lifetime `created_at` to `expires_at`.

    A lifetime above the maximum, of a key that is older than the setting, is cut.
    """
    lifetime = None if expires_at is None else min(expires_at - created_at, MAX_LIFETIME)
    renewed = None if lifetime is None else timezone.now() + lifetime
    return earliest(renewed, latest_expires_at())


def earliest(*moments: datetime | None) -> datetime | None:
    """Return the earliest of `moments`; None stands for never."""
    return min((moment for moment in moments if moment is not None), default=None)


def validate_expires_at(expires_at: datetime | None, *, created_at: datetime | None = None) -> None:
    """Raise ValidationError for an expiry that a key can't get now. None stands for never.

    created_at: when the key was created (default: now). The maximum counts from then, so that
    repeated changes do not extend a key without end.
    Codes: "past", "far" (beyond MAX_DAYS), and "lifetime" (beyond KEY_LIFETIME_MAX).
    """
    validate_maximum(expires_at, created_at=created_at)
    if expires_at is not None:
        validated(expires_at)


def validate_maximum(expires_at: datetime | None, *, created_at: datetime | None = None) -> None:
    """Raise ValidationError, code "lifetime", if the expiry is beyond KEY_LIFETIME_MAX.

    Its params have `latest`, the latest time that is allowed.
    """
    longest, latest = settings.KEY_LIFETIME_MAX, latest_expires_at(created_at)
    if longest is None or latest is None or (expires_at is not None and expires_at <= latest):
        return
    days = longest.days
    raise ValidationError(
        ngettext(
            "Keys on this site work for %(days)d day at most. "
            "Choose an expiry no later than %(moment)s (%(zone)s).",
            "Keys on this site work for %(days)d days at most. "
            "Choose an expiry no later than %(moment)s (%(zone)s).",
            days,
        ),
        code="lifetime",
        params={
            "days": days,
            "moment": formats.date_format(timezone.localtime(latest), "DATETIME_FORMAT"),
            "zone": _zone(),
            "latest": latest,
        },
    )


def validated(moment: datetime) -> datetime:
    """Return `moment` if it is in the future and at most MAX_DAYS from now.

    Raise ValidationError with a message for users.
    """
    now = timezone.now()
    if moment <= now:
        raise ValidationError(
            _("A key can't expire in the past. Choose a later time (%(zone)s)."),
            code="past",
            params={"zone": _zone()},
        )
    if moment > now + MAX_LIFETIME:
        raise ValidationError(
            _("A key can live for %(days)d days at most. Choose an earlier time, or no expiry.")
            % {"days": MAX_DAYS},
            code="far",
        )
    return moment
