"""How long rows that are no longer needed are kept (docs/retention.md)."""

from datetime import timedelta

from config.settings.base import env

env.section("Retention")

_MOST_DAYS = 36_500
# Reports reach back 90 days, which begin at midnight of the user's time zone.
_REPORTED_DAYS = 92

CLEANUP_IN_SERVER: bool = env.boolean(
    "CLEANUP_IN_SERVER",
    default=True,
    help="The server deletes old rows once a day, as `manage.py cleanup` does. Off where a timer "
    "runs that command ([retention.md](retention.md)).",
)
RETAIN_HOURLY_USE: timedelta | None = env.days_or_never(
    "RETAIN_HOURLY_USE",
    default=timedelta(days=_REPORTED_DAYS),
    default_help=f"`{_REPORTED_DAYS}`",
    least=_REPORTED_DAYS,
    most=_MOST_DAYS,
    help="How long calls and refused calls are stored by hour. Afterwards they are stored by day.",
)
RETAIN_DAILY_USE: timedelta | None = env.days_or_never(
    "RETAIN_DAILY_USE",
    default=timedelta(days=730),
    default_help="`730`",
    least=_REPORTED_DAYS,
    most=_MOST_DAYS,
    help="How long calls and refused calls of a key are stored by day; at least "
    "`RETAIN_HOURLY_USE`. The totals of all keys are never deleted.",
)
if RETAIN_DAILY_USE is not None and (
    RETAIN_HOURLY_USE is None or RETAIN_DAILY_USE < RETAIN_HOURLY_USE
):
    env.add_error("RETAIN_DAILY_USE", "must be at least RETAIN_HOURLY_USE.")
RETAIN_NETWORKS: timedelta | None = env.days_or_never(
    "RETAIN_NETWORKS",
    default=timedelta(days=365),
    default_help="`365`",
    least=30,
    most=_MOST_DAYS,
    help="How long a network that a key was used from is remembered after its last use. A later "
    "use from it counts as a use from a new network.",
)
RETAIN_REVOKED_KEYS: timedelta | None = env.days_or_never(
    "RETAIN_REVOKED_KEYS",
    default=timedelta(days=365),
    default_help="`365`",
    least=_REPORTED_DAYS,
    most=_MOST_DAYS,
    help="How long a deleted key is stored after its end, with its usage. Then it is refused as an "
    "unknown key, and a restored backup does not revive it.",
)
RETAIN_AUDIT_EVENTS: timedelta | None = env.days_or_never(
    "RETAIN_AUDIT_EVENTS",
    least=30,
    most=_MOST_DAYS,
    help="How long events of the audit log are stored. The database refuses to delete younger ones "
    "([retention.md](retention.md#the-audit-log)).",
)
