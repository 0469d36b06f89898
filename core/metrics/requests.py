"""WSGI middleware that counts requests and measures their duration.

`measure` goes around the whole application, `count_responses` around Django. The validation cache
counts its own responses (apikeys.cache.middleware).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any, Final

from core import metrics

type Environ = dict[str, Any]
type Application = Callable[[Environ, Any], Iterable[bytes]]

_VALIDATION: Final = (
    "/customers", "/customers/me", "/api/v1/keys/validate", "/api/v1/keys/validate/batch",
    "/api/v1/auth",
)  # fmt: skip
_EXACT: Final = {
    **dict.fromkeys(_VALIDATION, "validation"),
    **dict.fromkeys(("/health", "/ready", "/metrics"), "monitoring"),
}
# The first prefix that fits decides.
_PREFIXES: Final = (
    ("/api/v1/auth/", "validation"),
    ("/admin/verify-api-key", "validation"),
    ("/admin/", "staff"),
    ("/static/", "static"),
    ("/oauth/", "oauth"),
    ("/customers/", "api"),
    ("/api/", "api"),
    ("/proxy/", "api"),
    ("/releases", "api"),
    ("/.well-known/", "api"),
)


def route_group(path: str) -> str:
    """Return the route group of a path: one of core.metrics.ROUTES."""
    if group := _EXACT.get(path):
        return group
    return next((group for prefix, group in _PREFIXES if path.startswith(prefix)), "pages")


def measure(application: Application) -> Application:
    """Return `application` with its duration measured, or unchanged where metrics are off."""
    cells = metrics.cells
    if cells is None:
        return application
    family = metrics.REQUEST_DURATION
    bases = {route: family.at(route) for route in metrics.ROUTES}
    base_of = {path: bases[route] for path, route in _EXACT.items()}
    bounds, sum_at = family.bounds_ns, family.stride - 1

    def call(environ: Environ, start_response: Any) -> Iterable[bytes]:
        # Each cached response pays for this.
        started = perf_counter_ns()
        path = environ["PATH_INFO"]
        try:
            return application(environ, start_response)
        finally:
            took = perf_counter_ns() - started
            base = base_of.get(path)
            if base is None:
                base = bases[route_group(path)]
            cells[base + bisect_left(bounds, took)] += 1
            cells[base + sum_at] += took

    return call


def count_responses(application: Application) -> Application:
    """Return Django with its responses counted, or unchanged where metrics are off."""
    cells = metrics.cells
    if cells is None:
        return application
    positions = {
        (route, status): metrics.RESPONSES.at(route, status)
        for route in metrics.ROUTES
        for status in metrics.STATUSES
    }
    limited = {route: metrics.RATE_LIMITED.at(route) for route in metrics.ROUTES}

    def call(environ: Environ, start_response: Any) -> Iterable[bytes]:
        route = route_group(environ["PATH_INFO"])

        def count(status: str, *arguments: Any) -> Any:
            number = status[:3]
            cells[positions[route, "429" if number == "429" else f"{number[0]}xx"]] += 1
            if number == "429":
                cells[limited[route]] += 1
            return start_response(status, *arguments)

        return application(environ, count)

    return call
