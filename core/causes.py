"""Why a request is answered 503: stable names for logs, responses and alerts.

docs/monitoring.md lists them with what to do. A 503 is reported here and nowhere else: Django's own
line about it has no cause, and would fill the disk during a fault.
"""

import logging
import time
from enum import StrEnum
from threading import Lock
from typing import Any, Final

from django.db import InterfaceError, OperationalError

from core import request_log
from core.exceptions import Busy, HashingBusy, StorageUnavailable

logger = logging.getLogger(__name__)

# Seconds between two log lines of a process with the same cause.
_INTERVAL: Final = 10.0


class Cause(StrEnum):
    """The cause of a 503. Values are part of the interface: alerts match them."""

    DATABASE_UNAVAILABLE = "database_unavailable"
    DATABASE_TIMEOUT = "database_timeout"
    DATABASE_LOCKED = "database_locked"
    DATABASE_READ_ONLY = "database_read_only"
    DATABASE_FULL = "database_full"
    DATABASE_ERROR = "database_error"
    MIGRATIONS_MISSING = "migrations_missing"
    HASHING_BUSY = "hashing_busy"
    BODIES_BUSY = "bodies_busy"
    GITHUB_KEYS_UNAVAILABLE = "github_keys_unavailable"
    PENDING_GRANTS_FULL = "pending_grants_full"
    KEY_NOT_CREATED = "key_not_created"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    COMFYUI_UNAVAILABLE = "comfyui_unavailable"
    METRICS_UNAVAILABLE = "metrics_unavailable"


# By SQLSTATE (PostgreSQL, appendix A) or the first two characters of it.
_SQLSTATES: Final = {
    "08": Cause.DATABASE_UNAVAILABLE,
    "25006": Cause.DATABASE_READ_ONLY,
    "40": Cause.DATABASE_LOCKED,
    "53100": Cause.DATABASE_FULL,
    "53": Cause.DATABASE_UNAVAILABLE,
    "55P03": Cause.DATABASE_LOCKED,
    "57014": Cause.DATABASE_TIMEOUT,
    "57": Cause.DATABASE_UNAVAILABLE,
}
# By the name of SQLite's error (https://sqlite.org/rescode.html), without what follows the first
# two words: SQLITE_BUSY_SNAPSHOT is SQLITE_BUSY.
_SQLITE: Final = {
    "SQLITE_BUSY": Cause.DATABASE_LOCKED,
    "SQLITE_LOCKED": Cause.DATABASE_LOCKED,
    "SQLITE_READONLY": Cause.DATABASE_READ_ONLY,
    "SQLITE_FULL": Cause.DATABASE_FULL,
    "SQLITE_CANTOPEN": Cause.DATABASE_UNAVAILABLE,
    "SQLITE_IOERR": Cause.DATABASE_UNAVAILABLE,
}


def cause_of(error: BaseException) -> Cause:
    """Return the cause for an exception that is answered 503: Busy, or django.db.Error."""
    match error:
        case HashingBusy():
            return Cause.HASHING_BUSY
        case StorageUnavailable():
            return Cause.STORAGE_UNAVAILABLE
        case Busy():
            return Cause.BODIES_BUSY
    # Django's exceptions have the driver's as their cause.
    driver = error.__cause__ or error
    if state := getattr(driver, "sqlstate", None):
        return _SQLSTATES.get(state) or _SQLSTATES.get(state[:2], Cause.DATABASE_ERROR)
    if name := getattr(driver, "sqlite_errorname", None):
        return _SQLITE.get("_".join(name.split("_")[:2]), Cause.DATABASE_ERROR)
    # Without a code of the server: no connection within the time limit, or no answer on it.
    is_connection = isinstance(error, OperationalError | InterfaceError)
    return Cause.DATABASE_UNAVAILABLE if is_connection else Cause.DATABASE_ERROR


_lock = Lock()
# By cause: when the next line may be written (time.monotonic), and how many were not.
_reported: dict[Cause, tuple[float, int]] = {}


def log_unavailable(cause: Cause, error: BaseException | None = None) -> None:
    """Log that a request is answered 503, at most once in 10 seconds for each cause.

    error: what was raised. Its traceback is logged for DATABASE_ERROR alone, which may be a bug,
        its message for STORAGE_UNAVAILABLE alone: it says whether the disk or the store failed.
    """
    request_log.note(cause=cause.value)
    now = time.monotonic()
    with _lock:
        due, suppressed = _reported.get(cause, (0.0, 0))
        if now < due:
            _reported[cause] = (due, suppressed + 1)
            return
        _reported[cause] = (now + _INTERVAL, 0)
    fields: dict[str, Any] = {"cause": cause.value, "suppressed": suppressed}
    reason = f": {error}" if isinstance(error, StorageUnavailable) else "."
    logger.warning(
        "A request is answered 503%s",
        reason,
        extra=fields,
        exc_info=error if cause is Cause.DATABASE_ERROR else None,
    )


def reset() -> None:
    """Forget what was logged. For tests."""
    with _lock:
        _reported.clear()


class WithoutUnavailable(logging.Filter):
    """Drops Django's own log line of a 503: `log_unavailable` has written one with the cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", None) != 503
