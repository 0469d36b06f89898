"""Request ids, and one log line for each request (LOG_REQUESTS). No Django: the cache uses it.

A WSGI layer, so that it sees the requests that Django does not. Code below adds what it knows with
`note`; which names exist is fixed in FIELDS.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final
from uuid import uuid4

type Environ = dict[str, Any]
type Application = Callable[[Environ, Any], Iterable[bytes]]
type Headers = list[tuple[str, str]]
type Facts = dict[str, Any]

logger = logging.getLogger(__name__)

HEADER: Final = "X-Request-Id"
_VARIABLE: Final = "HTTP_X_REQUEST_ID"
# Ids of others are accepted in this form. Not a key: the id is returned, logged and traced.
_ACCEPTED: Final = re.compile(r"(?!.*comfyui-)[A-Za-z0-9._-]{1,128}", re.IGNORECASE)
# Other methods are written as OTHER: a client may send any text.
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

# The fields that log lines may have besides time, level, logger, message and request id, in the
# order of text lines.
#   method, status; ms: milliseconds until the response was ready
#   route: the pattern of the URL, None for an unknown one; never the path, which may hold a secret
#   cache: "hit" or "miss" of the validation cache, where the request can have a cached response
#   verdict: the VerdictCode of the key; account_id: of the key's owner or of the logged-in user
#   client_network: never the whole IP
#   cause, suppressed: core.causes
FIELDS: Final = (
    "method", "route", "status", "ms", "cache", "verdict", "account_id", "client_network", "cause",
    "suppressed",
)  # fmt: skip

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_facts: ContextVar[Facts | None] = ContextVar("facts", default=None)


def request_id() -> str:
    """Return the id of the request that this thread answers; "" outside of requests."""
    return _request_id.get()


def note(**facts: Any) -> None:
    """Add fields to the log line of the current request. Without LOG_REQUESTS do nothing."""
    noted = _facts.get()
    if noted is not None:
        noted.update(facts)


def verdict_facts() -> Facts | None:
    """Return what was noted about the key, for later requests with it; None: nothing is logged."""
    noted = _facts.get()
    if noted is None:
        return None
    return {name: noted[name] for name in ("verdict", "account_id") if name in noted}


def with_request_ids(application: Application, *, only_given: bool = False) -> Application:
    """Return `application` with the id of each request in its log lines and its response.

    An id in X-Request-Id is kept if it is 1 to 128 ASCII letters, digits, dots, dashes and
    underscores, else replaced. only_given: whether requests without one pass unchanged.
    """

    def call(environ: Environ, start_response: Any) -> Iterable[bytes]:
        given = environ.get(_VARIABLE)
        if (given is None and only_given) or _request_id.get():
            return application(environ, start_response)
        current = given if given is not None and _ACCEPTED.fullmatch(given) else uuid4().hex

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            # A new list: the given one may belong to a cached response.
            more = [exc_info] if exc_info else []
            return start_response(status, [*headers, (HEADER, current)], *more)

        token = _request_id.set(current)
        try:
            return application(environ, start)
        finally:
            _request_id.reset(token)

    return call


def without_id(headers: Headers) -> Headers:
    """Return `headers` without the id of the request, for a response that others get as well."""
    return [header for header in headers if header[0] != HEADER]


def with_request_log(application: Application, *, network_of: Callable[[str], str]) -> Application:
    """Return `application` with one log line per request. network_of: the network of an IP."""

    def call(environ: Environ, start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        facts: Facts = {
            "method": method if method in _METHODS else "OTHER",
            "route": None,
            # The server's own answer if the application raises.
            "status": 500,
            "ms": 0.0,
            "client_network": network_of(environ.get("REMOTE_ADDR", "")) or None,
        }

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            facts["status"] = int(status[:3])
            return start_response(status, headers, *([exc_info] if exc_info else []))

        token = _facts.set(facts)
        started = time.perf_counter()
        try:
            return application(environ, start)
        finally:
            _facts.reset(token)
            facts["ms"] = round((time.perf_counter() - started) * 1000, 2)
            logger.info("Request", extra=facts)

    return call
