"""Reports on the use of keys: calls and refused calls by hour or day, and by key.

Uses are stored by hour and by day of UTC. A report has the days of a time zone: it adds up hours,
which belong to the day in which they begin. In a zone that differs from UTC by half an hour, the
first or last half hour of a day is therefore counted with its neighbor.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Final
from uuid import UUID

from django.db.models import Q, QuerySet, Sum
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext

from accounts.models import User
from apikeys.models import APIKey, DailyTotal, DailyUse, HourlyRefusal, HourlyUse
from apikeys.services import VerdictCode
from core.charts import Bar, Chart
from core.collation import alphabetical_key

HOURLY: Final = "24h"
_DAYS: Final = {"7d": 7, "30d": 30, "90d": 90}
PERIODS: Final[dict[str, Promise]] = {
    HOURLY: gettext_lazy("24 hours"),
    "7d": gettext_lazy("7 days"),
    "30d": gettext_lazy("30 days"),
    "90d": gettext_lazy("90 days"),
}
DEFAULT_PERIOD: Final = "7d"
_HOUR: Final = timedelta(hours=1)
_NOON: Final = 12
# Bars between two labels of the axis, by the number of bars.
_TICKS: Final = {24: 4, 7: 1, 30: 5, 90: 15}

_REASONS: Final[dict[str, Promise]] = {
    VerdictCode.REVOKED: gettext_lazy("The key was deleted"),
    VerdictCode.SUSPENDED: gettext_lazy("The key is suspended"),
    VerdictCode.EXPIRED: gettext_lazy("The key has expired"),
    VerdictCode.ACCOUNT_DISABLED: gettext_lazy("The account is disabled"),
    "NETWORK_NOT_ALLOWED": gettext_lazy("The network is not allowed"),
}


@dataclass(slots=True)
class Slot:
    """An hour or a day. start: in the report's time zone."""

    start: datetime
    calls: int = 0
    refusals: int = 0


@dataclass(slots=True)
class Row:
    """The use of one key. codes: refused calls by the code of the verdict."""

    key: APIKey
    calls: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    @property
    def refusals(self) -> int:
        return sum(self.codes.values())

    @property
    def total(self) -> int:
        return self.calls + self.refusals


@dataclass(frozen=True, slots=True)
class Report:
    """The use of keys in a period.

    slots: hours or days, oldest first, without gaps.
    rows: one for each key, the most used first; deleted keys only if they were used.
    """

    period: str
    zone: tzinfo
    slots: Sequence[Slot]
    rows: Sequence[Row]

    @property
    def is_hourly(self) -> bool:
        return self.period == HOURLY

    @property
    def calls(self) -> int:
        return sum(slot.calls for slot in self.slots)

    @property
    def refusals(self) -> int:
        return sum(slot.refusals for slot in self.slots)

    @property
    def total(self) -> int:
        return self.calls + self.refusals

    @property
    def used(self) -> list[Row]:
        return [row for row in self.rows if row.total]

    @property
    def unused(self) -> list[Row]:
        return [row for row in self.rows if not row.total]

    @property
    def busiest(self) -> Row | None:
        return max(self.rows, key=lambda row: row.calls, default=None) if self.calls else None

    @property
    def codes(self) -> dict[str, int]:
        """Refused calls by the code of the verdict."""
        return dict(sum((Counter(row.codes) for row in self.rows), Counter()))

    @property
    def chart(self) -> Chart:
        title = _("API calls by hour") if self.is_hourly else _("API calls by day")
        return _chart(title, self.slots, is_hourly=self.is_hourly)


def report(
    *,
    owner: User,
    period: str = DEFAULT_PERIOD,
    key: APIKey | None = None,
    tz: tzinfo | None = None,
) -> Report:
    """Return the use of the keys of `owner`, or of one of them, in the last `period` of PERIODS.

    tz: whose hours and days these are; by default the active time zone.
    Runs seven queries at most, whose results grow with the keys and the slots, not with the use.
    """
    zone = tz or timezone.get_current_timezone()
    slots = [Slot(start) for start in _starts(period, zone)]
    start = slots[0].start.astimezone(UTC)
    own = {"key__owner": owner} if key is None else {"key": key}
    refusals = HourlyRefusal.objects.filter(**own, hour__gte=start)
    calls_by_key = _calls_by_key(own, start)
    codes_by_key: dict[UUID, dict[str, int]] = defaultdict(dict)
    for key_id, code, calls in _summed(refusals, "key_id", "code"):
        codes_by_key[key_id][code] = calls
    if key is None:
        counted = {*calls_by_key, *codes_by_key}
        keys: Iterable[APIKey] = APIKey.objects.filter(owner=owner).filter(
            Q(revoked_at=None) | Q(pk__in=counted)
        )
    else:
        keys = [key]
    rows = [Row(key, calls_by_key[key.pk], codes_by_key.get(key.pk, {})) for key in keys]
    if period == HOURLY:
        hours = HourlyUse.objects.filter(**own, hour__gte=start)
        numbers = _by_slot(slots, dict(_summed(hours, "hour")))
    else:
        numbers = _by_local_day([slot.start.astimezone(UTC) for slot in slots], own)
    for slot, number in zip(slots, numbers, strict=True):
        slot.calls = number
    of_hours = dict(_summed(refusals, "hour"))
    for slot, refused in zip(slots, _by_slot(slots, of_hours), strict=True):
        slot.refusals = refused
    rows.sort(key=lambda row: (-row.total, alphabetical_key(row.key.name), row.key.created_at))
    return Report(period, zone, slots, rows)


def sparklines(keys: Collection[UUID], *, days: int = 30) -> dict[UUID, list[int]]:
    """Return the calls of each of `keys` (ids) on the last `days` days (UTC), oldest first."""
    first = timezone.now().astimezone(UTC).date() - timedelta(days=days - 1)
    lines = {key_id: [0] * days for key_id in keys}
    used = DailyUse.objects.filter(key__in=lines, day__gte=first)
    for key_id, day, calls in used.values_list("key_id", "day", "calls"):
        if (day - first).days < days:
            lines[key_id][(day - first).days] = calls
    return lines


def site_days(*, days: int = 30) -> list[Slot]:
    """Return the use of all keys of the site on the last `days` days (UTC), oldest first."""
    first = timezone.now().astimezone(UTC).date() - timedelta(days=days - 1)
    totals = DailyTotal.objects.in_bulk([first + timedelta(days=number) for number in range(days)])
    slots = []
    for number in range(days):
        day = first + timedelta(days=number)
        total = totals.get(day) or DailyTotal(day=day)
        slots.append(Slot(datetime.combine(day, time(), UTC), total.calls, total.refusals))
    return slots


def site_chart(*, days: int = 30) -> Chart:
    return _chart(_("API calls by day"), site_days(days=days), is_hourly=False)


def refusal_reasons(codes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the reasons of refused calls in words, the most frequent first."""
    return [
        (str(_REASONS.get(code) or code), number)
        for code, number in sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    ]


def _starts(period: str, zone: tzinfo) -> list[datetime]:
    """Return when the hours or days of the period begin."""
    now = timezone.now()
    if period == HOURLY:
        hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return [(hour - back * _HOUR).astimezone(zone) for back in reversed(range(24))]
    today = now.astimezone(zone).date()
    return [
        _midnight(today - timedelta(days=back), zone) for back in reversed(range(_DAYS[period]))
    ]


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone)


def _calls_by_key(own: Mapping[str, Any], start: datetime) -> Counter[UUID]:
    """Return the calls of each key since `start`: of whole days (UTC), and of the hours before."""
    first_day = start.date() if start.time() == time() else start.date() + timedelta(days=1)
    hours = HourlyUse.objects.filter(**own, hour__gte=start, hour__lt=_midnight(first_day, UTC))
    days = DailyUse.objects.filter(**own, day__gte=first_day)
    return Counter(dict(_summed(hours, "key_id"))) + Counter(dict(_summed(days, "key_id")))


def _by_local_day(starts: Sequence[datetime], own: Mapping[str, Any]) -> list[int]:
    """Return the calls of the days that begin at `starts` (UTC), the last of which is not over.

    A local day is the sum of the days of UTC in which it begins or which it contains, without the
    calls before its beginning, and with those before its end. So few hours are read: of each day,
    the part before or after the beginning of a local day, whichever is shorter.
    """
    days = DailyUse.objects.filter(**own, day__gte=starts[0].date())
    by_day: Counter[date] = Counter(dict(_summed(days, "day")))
    hours = [hour for start in starts for hour in _shorter_part(start)]
    by_hour: Counter[datetime] = Counter()
    if hours:
        by_hour.update(dict(_summed(HourlyUse.objects.filter(**own, hour__in=hours), "hour")))
    before = []
    for start in starts:
        part = sum(by_hour[hour] for hour in _shorter_part(start))
        is_before = start.hour < _NOON
        # Not negative: uses may have been written between the two statements.
        before.append(part if is_before else max(by_day[start.date()] - part, 0))
    ends = [*(start.date() for start in starts[1:]), date.max]
    return [
        max(
            sum(calls for day, calls in by_day.items() if start.date() <= day < end) - early + late,
            0,
        )
        for start, end, early, late in zip(starts, ends, before, [*before[1:], 0], strict=True)
    ]


def _shorter_part(start: datetime) -> list[datetime]:
    """Return the hours of a day of UTC that begin before `start`, or from it on, if it is late."""
    midnight = _midnight(start.date(), UTC)
    hours = [midnight + number * _HOUR for number in range(24)]
    is_before = start.hour < _NOON
    return [hour for hour in hours if (hour < start) is is_before]


def _by_slot(slots: Sequence[Slot], calls: Mapping[datetime, int]) -> list[int]:
    """Return the sum of `calls`, by hour, for each slot."""
    sums = [0] * len(slots)
    ends = [slot.start.astimezone(UTC) for slot in slots[1:]]
    number = 0
    for hour in sorted(calls):
        while number < len(ends) and hour >= ends[number]:
            number += 1
        sums[number] += calls[hour]
    return sums


def _summed(rows: QuerySet[Any], *by: str) -> list[Any]:
    """Return tuples of the values of `by` and the sum of calls."""
    return list(rows.order_by().values_list(*by).annotate(number=Sum("calls")))


def _chart(title: str, slots: Sequence[Slot], *, is_hourly: bool) -> Chart:
    step = _TICKS.get(len(slots), max(len(slots) // 6, 1))
    bars = []
    for number, slot in enumerate(slots):
        # Counted from the last bar, so that the present has a label.
        back = len(slots) - 1 - number
        tick = "" if back % step else _tick(slot.start, is_hourly=is_hourly)
        bars.append(
            Bar(
                label=_label(slot.start, is_hourly=is_hourly),
                value=slot.calls,
                second=slot.refusals,
                tick=tick,
                is_minor=bool(back // step % 2),
            )
        )
    return Chart(title=title, bars=bars, series=(_("API calls"), _("Refused calls")))


def _label(start: datetime, *, is_hourly: bool) -> str:
    day = date_format(start, pgettext("a day with its weekday, as Django formats dates", "D, j M"))
    if not is_hourly:
        return day
    end = start + _HOUR
    return f"{day}, {date_format(start, 'H:i')}–{date_format(end, 'H:i')}"


def _tick(start: datetime, *, is_hourly: bool) -> str:
    if is_hourly:
        return date_format(start, "H:i")
    return date_format(start, pgettext("a day in a narrow column, as Django formats dates", "j M"))
