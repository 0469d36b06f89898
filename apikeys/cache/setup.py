"""Install the validation cache around the WSGI application, with the routes it caches."""

from collections.abc import Iterable

from django.conf import settings
from django.db import connection

from apikeys import limits, usage
from apikeys.cache.invalidation import version_table
from apikeys.cache.listener import Listener
from apikeys.cache.middleware import Application, Environ, StartResponse, ValidationCache
from apikeys.cache.versions import VersionTable
from apikeys.key_hasher import key_hasher
from core import https_only, metrics, site_names
from core.languages import accepted_language
from core.postgres import conninfo

ROUTES = [
    ("POST", "/customers"),
    ("GET", "/customers/me"),
    ("POST", "/api/v1/keys/validate"),
    ("GET", "/api/v1/auth"),
    ("HEAD", "/api/v1/auth"),
    ("POST", "/api/v1/auth"),
]
# With a body, the key to validate is in there.
BODILESS = ["/api/v1/keys/validate"]
# Gateways ask for one scope, and proxies of sites name theirs.
QUERIES = {"/api/v1/auth": ("scope=", "site=")}


def install(application: Application) -> Application:
    """Return `application` with the validation cache, or unchanged where the cache is off."""
    table = version_table()
    if table is None:
        return application
    if settings.MULTI_HOST:
        application = _with_listener(application, _listener(table))
    cache = ValidationCache(
        application,
        versions=table,
        tag_keys=key_hasher().tag_keys,
        routes=ROUTES,
        bodiless=BODILESS,
        queries=QUERIES,
        session_paths=["/api/v1/auth"],
        session_cookie=site_names.cookie_in_query,
        session_length=site_names.TOKEN_LENGTH,
        count=usage.count,
        count_refusal=usage.count_refusal,
        count_guess=limits.count_guess_locally,
        language_of=accepted_language,
        capacity=settings.VALIDATION_CACHE_SIZE,
        max_age=settings.CACHE_MAX_AGE,
        multi_host=settings.MULTI_HOST,
        counts=metrics.cells,
        positions={
            **{code: metrics.VALIDATIONS.at(code, "hit") for code in metrics.VERDICTS},
            "RATE_LIMITED": metrics.RATE_LIMITED.at("validation"),
        },
    )
    return _bypass_for_plaintext(cache, application) if settings.HTTPS else cache


def _with_listener(application: Application, listener: Listener) -> Application:
    """Start `listener` at the first cache miss: a server may fork workers after loading this."""

    def start_and_call(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        listener.start()
        return application(environ, start_response)

    return start_and_call


def _bypass_for_plaintext(cache: Application, application: Application) -> Application:
    """Bypass the cache for requests over plain HTTP: Django refuses them, also with a valid key."""

    def choose(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        chosen = application if https_only.arrived_in_plaintext(environ) else cache
        return chosen(environ, start_response)

    return choose


def _listener(table: VersionTable) -> Listener:
    """Return a listener that connects to the database directly, not through a pooler."""
    if settings.LISTEN_DATABASE_URL:
        return Listener(
            settings.LISTEN_DATABASE_URL, table, lease=settings.INVALIDATION_LEASE_SECONDS
        )
    url = conninfo(connection, leave_out={"options"})
    return Listener(url, table, lease=settings.INVALIDATION_LEASE_SECONDS)
