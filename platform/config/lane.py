"""The fast lane as this project has it: which addresses, which keys, whom it tells of a use."""

from collections.abc import Iterable

from django.conf import settings
from django.db import connection
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from apikeys import limits, services, usage
from apikeys.coherence import epochs
from config import transport
from fastlane.epochs import Epochs
from fastlane.fleet import Listener
from fastlane.wsgi import Application, Environ, FastLane, StartResponse

ROUTES = [
    ("POST", "/customers"),
    ("GET", "/customers/me"),
    ("POST", "/api/v1/keys/validate"),
    ("GET", "/api/v1/auth"),
    ("HEAD", "/api/v1/auth"),
    ("POST", "/api/v1/auth"),
]
# With a body, this one is asked about the key in there.
BODILESS = ["/api/v1/keys/validate"]
# A gateway asks what a key is good for.
QUERIES = {"/api/v1/auth": "scope="}


def in_front_of(application: Application) -> Application:
    table = epochs()
    if table is None:
        return application
    if settings.IS_FLEET:
        application = _listening(application, _listener(table))
    lane = FastLane(
        application,
        epochs=table,
        tag_keys=services.tag_keys(),
        routes=ROUTES,
        bodiless=BODILESS,
        queries=QUERIES,
        count=usage.count,
        count_guess=limits.count_in_lane,
        capacity=settings.FAST_LANE_VERDICTS,
        in_fleet=settings.IS_FLEET,
    )
    return _only_what_nobody_read(lane, application) if settings.HTTPS else lane


def _listening(application: Application, listener: Listener) -> Application:
    """Whatever is asked of Django, what it comes to may be remembered: by the lane, and past it.

    Not before: a server may load this in one process and fork others off it.
    """

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        listener.start()
        return application(environ, start_response)

    return answer


def _only_what_nobody_read(lane: Application, application: Application) -> Application:
    """A good key that came in plain text is Django's to refuse, though the lane knows it."""

    def choose(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        chosen = application if transport.was_read_on_the_way(environ) else lane
        return chosen(environ, start_response)

    return choose


def _listener(table: Epochs) -> Listener:
    """Listens on the database itself, with what libpq knows of Django's parameters."""
    if settings.LISTEN_DATABASE_URL:
        return Listener(settings.LISTEN_DATABASE_URL, table, bound=settings.FLEET_BOUND)
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    parameters = connection.get_connection_params()
    conninfo = make_conninfo(
        **{name: value for name, value in parameters.items() if name in known and name != "options"}
    )
    return Listener(conninfo, table, bound=settings.FLEET_BOUND)
