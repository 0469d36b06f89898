"""Pages whose lists and charts may lag read PostgreSQL's streaming replica (REPLICA_URL).

A view opts in with `may_lag`, and only the models in MODELS are read there, so nothing that decides
about a key, a login, a permission or a limit can be. Where the replica does not answer, is not
recent enough or was promoted, the primary is read. Why not all reads: docs/adr/0033-replica.md.
"""

import functools
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from threading import Lock
from typing import Any, Concatenate, Final

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponseBase
from django.template.response import SimpleTemplateResponse

logger = logging.getLogger(__name__)

ALIAS: Final = "replica"
# Labels, because this package imports no app.
MODELS: Final = frozenset(
    {
        "apikeys.apikey",
        "apikeys.dailytotal",
        "apikeys.dailyuse",
        "apikeys.hourlyrefusal",
        "apikeys.hourlyuse",
        "audit.event",
    }
)
# Seconds until a replica that failed is asked again.
_RETRY_INTERVAL: Final = 10.0
_WROTE_AT: Final = "wrote_at"
# Seconds by which the clocks of two hosts may differ, and the fraction that is cut off.
_CLOCK_MARGIN: Final = 3
_SAFE: Final = ("GET", "HEAD", "OPTIONS")

_is_reading: ContextVar[bool] = ContextVar("is_reading_replica", default=False)

type GetResponse = Callable[[HttpRequest], HttpResponseBase]
type View[**P] = Callable[Concatenate[HttpRequest, P], Any]


class ReplicaRouter:
    """Sends reads of MODELS to the replica inside a view with `may_lag`, and nothing else."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        if _is_reading.get() and model._meta.label_lower in MODELS:
            return ALIAS
        return _primary_for(hints)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return _primary_for(hints)

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool | None:
        both = {first._state.db, second._state.db}
        return True if both <= {DEFAULT_DB_ALIAS, ALIAS, None} else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if db == ALIAS else None


def _primary_for(hints: dict[str, Any]) -> str | None:
    """Return the primary for rows that were read from the replica; Django would use the latter."""
    instance = hints.get("instance")
    is_of_replica = instance is not None and instance._state.db == ALIAS
    return DEFAULT_DB_ALIAS if is_of_replica else None


def may_lag[**P](view: View[P]) -> View[P]:
    """Decorate a view without side effects: its reads of MODELS may go to the replica.

    If the replica fails meanwhile, or does not have a row that the view needs, which may be made
    moments ago in another browser or over REST, the view runs again with the primary.
    """

    @functools.wraps(view)
    def wrapper(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        if not _may_read_replica(request):
            return view(request, *args, **kwargs)
        token = _is_reading.set(True)
        try:
            response = view(request, *args, **kwargs)
            if isinstance(response, SimpleTemplateResponse):
                # Its template reads rows too.
                response.render()
        except Error as error:
            state.record_failure(error)
        except Http404:
            pass
        else:
            return response
        finally:
            _is_reading.reset(token)
        return view(request, *args, **kwargs)

    return wrapper


def remember_writes(get_response: GetResponse) -> GetResponse:
    """Keep in the session when its user changed something last: its pages must show that."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.method not in _SAFE and SESSION_KEY in request.session:
            request.session[_WROTE_AT] = int(time.time())
        return response

    return middleware


def _may_read_replica(request: HttpRequest) -> bool:
    if ALIAS not in settings.DATABASES or request.method not in _SAFE:
        return False
    ago = time.time() - request.session.get(_WROTE_AT, 0) - _CLOCK_MARGIN
    return ago > settings.REPLICA_MAX_LAG and state.is_recent()


class ReplicaState:
    """Whether the replica has all that the primary had REPLICA_MAX_LAG seconds ago.

    Compares positions in the write-ahead log: the clocks of hosts differ, and the time of the last
    transaction says nothing while none is made. One per process.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        # Of time.monotonic: the time at which the replica had all, and of the next attempt.
        self._recent_at = float("-inf")
        self._retry_at = float("-inf")
        # A position of the primary that the replica has not reached yet, and when it was read.
        self._awaited: tuple[float, str] | None = None
        self._is_away = False

    def is_recent(self) -> bool:
        """Return whether the replica can be read now. Asks both servers now and then."""
        now = time.monotonic()
        if now < self._retry_at:
            return False
        if now - self._recent_at < settings.REPLICA_MAX_LAG / 2:
            return True
        # One thread asks; the others need not wait for a server that may hang.
        if self._lock.acquire(blocking=False):
            try:
                self._compare()
            except Error as error:
                self.record_failure(error)
            finally:
                self._lock.release()
        return now - self._recent_at < settings.REPLICA_MAX_LAG

    def record_failure(self, error: object) -> None:
        """Use the primary for a while. Log it once."""
        self._recent_at = float("-inf")
        self._retry_at = time.monotonic() + _RETRY_INTERVAL
        self._awaited = None
        if not self._is_away:
            self._is_away = True
            logger.warning("The replica is not used; all pages read the primary: %s", error)

    def _compare(self) -> None:
        # Twice, if the awaited position was read long ago, as on a site with few visitors.
        for _ in range(2):
            read_at, position = self._awaited = self._awaited or self._position_of_primary()
            is_replica, has_position = self._compare_replica(position)
            age = time.monotonic() - read_at
            if not is_replica:
                self.record_failure("it is no replica of a primary, perhaps it was promoted")
                return
            if not has_position:
                if age > settings.REPLICA_MAX_LAG:
                    self.record_failure(f"it lags by more than {settings.REPLICA_MAX_LAG:g} s")
                return
            self._recent_at, self._awaited = read_at, None
            if age < settings.REPLICA_MAX_LAG / 2:
                break
        if self._is_away:
            self._is_away = False
            logger.warning("The replica is used again.")

    def _position_of_primary(self) -> tuple[float, str]:
        read_at = time.monotonic()
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_lsn()::text")
            return read_at, str(cursor.fetchone()[0])

    def _compare_replica(self, position: str) -> tuple[bool, bool]:
        """Return whether it is a replica, and whether it has reached `position`."""
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(
                "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]
            )
            is_replica, has_position = cursor.fetchone()
        return bool(is_replica), bool(has_position)


state = ReplicaState()
