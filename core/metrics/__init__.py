"""The metrics of the platform: their definitions, and what starts them in a process.

docs/monitoring.md lists them. Labels have few values, which no client chooses: no ids, no paths.
Until `start` is called, as it is where METRICS=1, all of this does nothing. No Django, so that
apikeys.hashing and apikeys.cache can count.

- Requests are counted in cells (core.metrics.cells), without a lock or a system call.
- Rare events are counted by prometheus_client, through handles (core.metrics.handles).
- What can be read when it is asked for is read at a scrape (`at_scrape`).
"""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from core.metrics import slots
from core.metrics.cells import CounterCells, HistogramCells, Layout
from core.metrics.handles import Counter, Gauge, Histogram, Metric

logger = logging.getLogger(__name__)

ROUTES: Final = ("validation", "api", "oauth", "pages", "staff", "static", "monitoring")
STATUSES: Final = ("2xx", "3xx", "4xx", "429", "5xx")
# Where a verdict comes from: a cached response; the text of the token alone; a cached row; a row
# from the database, with a verified hash; an Argon2 pass, or that of another request.
CACHE_LEVELS: Final = ("hit", "parse", "row", "verified", "argon2")
# Those of apikeys.services.VerdictCode.
VERDICTS: Final = (
    "VALID", "MALFORMED", "NOT_FOUND", "REVOKED", "SUSPENDED", "EXPIRED", "ACCOUNT_DISABLED",
    "NETWORK_NOT_ALLOWED",
)  # fmt: skip

# --- Requests: cells ---

REQUEST_DURATION: Final = HistogramCells(
    "comfyui_keys_request_duration_seconds",
    "Time from the complete request to the start of its response, by route group.",
    "route",
    ROUTES,
    (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
RESPONSES: Final = CounterCells(
    "comfyui_keys_django_responses_total",
    "Responses that Django has made, so without cached ones, by route group and status.",
    {"route": ROUTES, "status": STATUSES},
)
VALIDATIONS: Final = CounterCells(
    "comfyui_keys_validations_total",
    "Validations of keys, by verdict and by the cache that has answered.",
    {"verdict": VERDICTS, "cache": CACHE_LEVELS},
)
RATE_LIMITED: Final = CounterCells(
    "comfyui_keys_rate_limited_total",
    "Responses 429, cached ones included, by route group.",
    {"route": ROUTES},
)
LAYOUT: Final = Layout(REQUEST_DURATION, RESPONSES, VALIDATIONS, RATE_LIMITED)

# --- Argon2id passes of keys ---

ARGON2_PASSES: Final = Counter("comfyui_keys_argon2_passes_total", "Argon2id passes of keys.")
ARGON2_REFUSED: Final = Counter(
    "comfyui_keys_argon2_refused_total", "Passes that found no free slot in time: 503."
)
ARGON2_WAITING: Final = Gauge(
    "comfyui_keys_argon2_waiting", "Requests that wait for a slot.", merge="livesum"
)
ARGON2_WAIT: Final = Histogram(
    "comfyui_keys_argon2_wait_seconds",
    "Time that a pass has waited for its slot.",
    bounds=(0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

# --- Logins ---

# django-allauth's names.
LOGIN_METHODS: Final = ("password", "code", "mfa", "socialaccount", "signup")
LOGIN_REASONS: Final = ("password", "factor", "code", "provider", "disabled")
LOGINS: Final = Counter(
    "comfyui_keys_logins_total",
    "Logins, by the first method; `mfa` is a passkey.",
    ["method"],
    known=[(method,) for method in (*LOGIN_METHODS, "other")],
)
LOGIN_FAILURES: Final = Counter(
    "comfyui_keys_login_failures_total",
    "Refused logins, by what was wrong.",
    ["reason"],
    known=[(reason,) for reason in LOGIN_REASONS],
)

# --- Stores ---

POOL_CONNECTIONS: Final = Gauge(
    "comfyui_keys_database_pool_connections",
    "Connections in the pools of all workers, by state; `max` is the limit.",
    ["state"],
    merge="livesum",
    known=[("used",), ("idle",), ("max",)],
)
POOL_WAITING: Final = Gauge(
    "comfyui_keys_database_pool_waiting", "Requests that wait for a connection.", merge="livesum"
)
POOL_WAIT: Final = Counter(
    "comfyui_keys_database_pool_wait_seconds_total", "Time that requests waited for a connection."
)
POOL_ERRORS: Final = Counter(
    "comfyui_keys_database_pool_errors_total", "Requests that got no connection in time."
)
CACHE_FAILURES: Final = Counter(
    "comfyui_keys_cache_failures_total", "Calls to the cache of rate limits that failed."
)
CACHE_BREAKER_OPEN: Final = Gauge(
    "comfyui_keys_cache_breaker_open",
    "Workers that do not use the cache of rate limits because it fails.",
    merge="livesum",
)
LISTENER_LAG: Final = Gauge(
    "comfyui_keys_listener_lag_seconds",
    "Time that the last heartbeat took from the worker to the database and back.",
    merge="livemax",
)
LISTENER_FAILURES: Final = Counter(
    "comfyui_keys_listener_failures_total", "Times that the listener lost its connection."
)

# --- Tasks ---

EMAILS: Final = Counter(
    "comfyui_keys_emails_total",
    "Attempts to send an email, by outcome.",
    ["outcome"],
    known=[("sent",), ("retried",), ("given_up",)],
)
USAGE_FAILING: Final = Gauge(
    "comfyui_keys_usage_write_failing",
    "Workers whose last attempt to write usage counts has failed.",
    merge="livesum",
)
HOUSEKEEPING: Final = Gauge(
    "comfyui_keys_housekeeping_timestamp_seconds",
    "Unix time at which the periodic tasks last ran, of the worker where that is longest ago.",
    merge="livemin",
)


class Reading(NamedTuple):
    """A value that is read at a scrape.

    kind: `gauge` or `counter`.
    """

    name: str
    help: str
    value: float
    labels: dict[str, str] = {}
    kind: str = "gauge"


type Source = Callable[[], Iterable[Reading]]

# Read at each scrape, by name. An exception of one leaves out its readings only.
sources: Final[dict[str, Source]] = {}


def at_scrape(name: str, read: Source) -> None:
    """Have `read` called at each scrape. name: for `comfyui_keys_scrape_errors`."""
    sources[name] = read


# The cells of this process; None: it does not measure.
cells: memoryview | None = None
folder: Path | None = None


def start(path: Path) -> None:
    """Measure in this process, with files in the folder `path`.

    Where the files can't be made, the error is logged and nothing is measured: the platform serves.
    """
    global cells, folder
    if cells is not None:
        return
    try:
        cells = _create(path)
    except (OSError, slots.FolderRefused) as error:
        logger.error("This process does not count for /metrics: %s", error)
    else:
        folder = path


def _create(path: Path) -> memoryview:
    slots.open_folder(path)
    slot = slots.take(path)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)
    from prometheus_client import multiprocess, values

    # Gauges of the process that had this slot before.
    multiprocess.mark_process_dead(slot, str(path))  # type: ignore[no-untyped-call]
    # As the documentation allows: numbers that no two running processes share.
    value_class: Any = values
    value_class.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
    for metric in Metric.all:
        metric.create()
    slots.allocate(path, slot)
    return LAYOUT.open(path, slot)


def count(family: CounterCells, *values: str) -> None:
    """Add one to a cell. For requests that Django answers: others know the position."""
    if cells is not None:
        cells[family.at(*values)] += 1
